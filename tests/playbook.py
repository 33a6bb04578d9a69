"""Running ansible-playbook as a user does, and what it printed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magi.init import PROFILES

ROOT = Path(__file__).parents[1]


@dataclass
class Run:
    """What a run of ansible-playbook printed and how it ended."""

    code: int
    output: str

    @property
    def changed(self) -> int:
        # The recap after each playbook counts from the first one on.
        return sum(int(n) for n in re.findall(r"changed=(\d+)", self.output.rpartition("PLAY RECAP")[2]))

    @property
    def text(self) -> str:
        """The output without line breaks and YAML's doubled quotes, to find sentences that Ansible wrapped."""
        return re.sub(r"\s+", " ", self.output).replace("''", "'")

    def task(self, name: str) -> str:
        """The output of the task with ``name`` in its title."""
        parts = re.split(r"^(?=TASK \[|PLAY )", self.output, flags=re.MULTILINE)
        found = [part for part in parts if part.startswith("TASK [") and name in part.splitlines()[0]]
        assert len(found) == 1, f"{len(found)} tasks are named {name}: {self.output}"
        return found[0].split("\n", 1)[1]


ANSIBLE_S_OWN = re.compile(
    r"^Traceback \(most recent call last\):\n(?: .*\n)+AssertionError: can only test a child process\n"
    r"|^Exception ignored in: <function _after_fork .*\nTraceback \(most recent call last\):\n(?: .*\n)+",
    re.MULTILINE,
)
"""What a worker of ansible-core says if a signal reaches it before it has a session of its own (its handler asks after the
other workers, _signal_handler in ansible/executor/task_queue_manager.py), or while Python makes it (threading.py)."""


@dataclass
class Playing:
    """A run that has not ended."""

    process: subprocess.Popen
    printed: Path

    @property
    def output(self) -> str:
        return self.printed.read_text()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to ansible-playbook and all its children, as a terminal does."""
        os.killpg(self.process.pid, number)

    def finish(self) -> Run:
        """Wait until it has ended, 300 seconds at most."""
        try:
            code = self.process.wait(timeout=300)
        except BaseException:  # nobody else ends it: it has its own session
            self.send(signal.SIGKILL)
            raise
        assert "Traceback" not in ANSIBLE_S_OWN.sub("", self.output), self.output
        return Run(code, self.output)


def copy_profiles(folder: Path) -> None:
    """Copy the profiles that come with magi into a folder: a checkout may have somebody's own, too."""
    folder.mkdir()
    for name in PROFILES:
        shutil.copy(ROOT / "profiles" / f"{name}.yml", folder)


def clean_environment() -> dict[str, str]:
    """Return our environment without magi's settings, also those of a file .env in our checkout."""
    ours = ("MODEL_", "MAGI_", "LLAMA_", "REGISTRY_PATH")
    return {**{key: value for key, value in os.environ.items() if not key.startswith(ours)}, "MAGI_DOTENV": os.devnull}


def start(
    folder: Path,
    group: Mapping[str, Any],
    playbooks: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    groups: Mapping[str, Any] | None = None,
    cwd: Path = ROOT,
    **extra: Any,
) -> Playing:
    """Start one or several playbooks on the hosts and variables of ``group``, in the folder ``cwd`` and without the
    caller's settings. ``groups`` are more groups of the inventory.

    It gets a session of its own, so that a signal reaches all of it and nothing else. Inventory and output are kept
    in ``folder``; ``extra`` are extra variables.
    """
    number = len(list(folder.glob("run-*.out")))
    inventory, printed = folder / f"run-{number}.json", folder / f"run-{number}.out"
    inventory.write_text(json.dumps({"model_servers": group, **(groups or {})}))
    with printed.open("w") as out:
        process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("ansible-playbook")),
                *("-i", str(inventory)),
                *(
                    str(ROOT / ("site.yml" if name == "site" else f"playbooks/{name}.yml"))
                    for name in playbooks.split()
                ),
                *(["-e", json.dumps(extra)] if extra else []),
                *arguments,
            ],
            cwd=cwd,
            env={
                **clean_environment(),
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "COLUMNS": "500",
                "PYTHONUNBUFFERED": "1",
                **(environment or {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Playing(process, printed)
