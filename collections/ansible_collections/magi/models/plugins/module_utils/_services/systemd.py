# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""systemd: one hardened template unit for all instances, and an environment file for each."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from ansible_collections.magi.models.plugins.module_utils._services import (
    Filters,
    ServiceError,
    Status,
    Template,
    environment_value,
    names,
)

UNITS = Path("/etc/systemd/system")

TEMPLATES = (
    Template("magi-llama@.service.j2", "/etc/systemd/system/magi-llama@.service", 0o644),
    Template("instance.env.j2", "{home}/instances/{name}.env", 0o600, per_instance=True),
    Template(
        "magi-llama@instance.conf.j2",
        "/etc/systemd/system/magi-llama@{name}.service.d/magi.conf",
        0o644,
        per_instance=True,
    ),
)


def systemd_value(text: str) -> str:
    """Return ``text`` as a value that is taken up to the end of its line: specifiers (%) doubled (systemd.unit(5)).

    Raises ValueError for what a unit file can't hold.
    """
    if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]|[ \\]$", text):
        raise ValueError(
            f"systemd's unit files can't hold {text!a}: it has control characters, is not UTF-8, or ends in a space "
            "or a backslash"
        )
    return text.replace("%", "%%")


def systemd_path(text: str) -> str:
    """Return ``text`` as one word of a list of paths, or the program of ExecStart=.

    In double quotes, a backslash doubled; a double quote outside of them in single quotes. This one form is read back
    the same by all of systemd's ways to split words (docs/systemd.md).
    """
    escaped = systemd_value(text).replace("\\", "\\\\").replace('"', '"\'"\'"')
    return f'"{escaped}"'


def systemd_argument(text: str) -> str:
    """Return ``text`` as one argument of ExecStart=, where $ also starts a variable (systemd.service(5))."""
    return systemd_path(text).replace("$", "$$")


FILTERS: Filters = {
    "dirname": lambda path: path.rpartition("/")[0] or "/",
    "environment_value": environment_value,
    "systemd_argument": systemd_argument,
    "systemd_path": systemd_path,
    "systemd_value": systemd_value,
}


def unit(name: str) -> str:
    return f"magi-llama@{name}.service"


def parse_status(text: str) -> dict[str, Status]:
    """Return the status by instance from ``systemctl show`` of our units: blocks of properties, an empty line between.

    Timestamps are asked for as @seconds (systemctl(1), --timestamp=unix).
    """
    found = {}
    for block in text.strip().split("\n\n"):
        properties = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        match = re.fullmatch(r"magi-llama@(.+)\.service", properties.get("Id", ""))
        if not match:
            continue
        active, sub = properties.get("ActiveState", ""), properties.get("SubState", "")
        state = {"active": "running", "activating": "starting", "deactivating": "running", "failed": "failed"}.get(
            active, "stopped"
        )
        if sub.startswith("auto-restart"):
            state = "backoff"
        started = properties.get("ExecMainStartTimestamp", "").lstrip("@")
        code = properties.get("ExecMainStatus", "0")
        ended = state in ("failed", "backoff")
        found[match.group(1)] = Status(
            state,
            int(properties.get("MainPID", "0")) or None,
            float(started) if started and state in ("running", "starting") else None,
            f"{properties.get('Result', 'failed')}, exit status {code}" if ended else None,
        )
    return found


class Systemd:
    def __init__(self, home: Path):
        self.home = home

    def owned(self) -> list[Path]:
        return sorted([*(self.home / "instances").glob("*.env"), *UNITS.glob("magi-llama@*.service.d/magi.conf")])

    def prepare(self) -> None:
        """systemd is there already."""

    def _systemctl(self, *arguments: str) -> str:
        result = subprocess.run(
            ["systemctl", "--no-ask-password", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if result.returncode:
            said = " ".join(result.stderr.split())
            raise ServiceError(f"systemctl {' '.join(arguments)}: {said or f'exit status {result.returncode}'}")
        return result.stdout

    def status(self) -> dict[str, Status]:
        properties = "Id,ActiveState,SubState,MainPID,ExecMainStatus,ExecMainStartTimestamp,Result"
        defined = names((self.home / "instances").glob("*.env"), ".env")
        units = [unit(name) for name in defined]
        text = self._systemctl(
            "show", "--all", "--timestamp=unix", f"--property={properties}", "magi-llama@*.service", *units
        )
        return {**{name: Status("stopped") for name in defined}, **parse_status(text)}

    def reload(self) -> None:
        self._systemctl("daemon-reload")

    def start(self, name: str) -> None:
        self._systemctl("reset-failed", unit(name))
        self._systemctl("enable", "--now", "--no-block", unit(name))

    def stop(self, name: str) -> None:
        self._systemctl("stop", unit(name))

    def forget(self, name: str) -> None:
        self._systemctl("disable", unit(name))

    def logs(self, name: str, lines: int) -> list[str]:
        result = subprocess.run(
            ["journalctl", "--unit", unit(name), "--lines", str(lines), "--output", "cat", "--no-pager", "--quiet"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        return result.stdout.splitlines()

    def remove(self) -> None:
        (UNITS / "magi-llama@.service").unlink(missing_ok=True)
        for folder in UNITS.glob("magi-llama@*.service.d"):
            (folder / "magi.conf").unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()
        shutil.rmtree(self.home / "instances", ignore_errors=True)
        self.reload()
