"""Real systemd hosts in containers, reached over SSH as a fleet is, and the playbooks run against them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
HOSTS = ROOT / "molecule" / "hosts" / "hosts.py"
BUILDS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "magi" / "llama.cpp"

# Everything on a host that a deployment may write, with what tells one version of a file from another.
SNAPSHOT = """
find /etc/magi /etc/systemd/system /var/lib/magi /var/lib/magi-llama /var/lib/private /var/cache/magi-llama \
  /var/cache/private -type d -printf '%p %y %m\\n' -o -printf '%p %y %m %T@ %s %l\\n' 2>/dev/null | sort
"""


def until(condition: Callable[[], Any], seconds: float, what: str, pause: float = 0.2) -> Any:
    """Return the first true value of ``condition``."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(pause)


@dataclass
class Run:
    """What a run of ansible-playbook printed and how it ended."""

    code: int
    output: str

    @property
    def changed(self) -> int:
        return sum(int(n) for n in re.findall(r"changed=(\d+)", self.output))

    @property
    def text(self) -> str:
        """The output with its line breaks folded, for sentences that Ansible wrapped."""
        return re.sub(r"\s+", " ", self.output)

    def task(self, name: str) -> str:
        """What the task with ``name`` in its title printed."""
        parts = re.split(r"^(?=TASK \[|PLAY )", self.output, flags=re.MULTILINE)
        found = [part for part in parts if name in part.splitlines()[0]]
        assert len(found) == 1, f"{len(found)} tasks are named {name}: {self.output}"
        return found[0].split("\n", 1)[1]


@dataclass
class Fleet:
    """Hosts, and a folder with the profiles and the inventory that are deployed to them."""

    folder: Path
    hosts: dict[str, dict[str, Any]]
    group_vars: dict[str, Any]
    variables: dict[str, Any] = field(default_factory=dict)

    def sh(self, host: str, script: str, *, check: bool = True, stdin: str | None = None) -> str:
        """Run a script on a host, not by SSH: what is looked at is not what is tested."""
        done = subprocess.run(
            ["docker", "exec", "--interactive", self.hosts[host]["testbed_container"], "sh", "-c", script],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert not check or done.returncode == 0, f"{host}: {script}: {done.stdout}{done.stderr}"
        return done.stdout

    def snapshot(self, host: str) -> list[str]:
        return self.sh(host, SNAPSHOT, check=False).splitlines()

    def profile(self, name: str, *entries: Any, **more: Any) -> None:
        path = self.folder / "profiles" / f"{name}.yml"
        path.write_text(yaml.safe_dump({"name": name, "enabled_models": list(entries), **more}))

    def command(self, playbook: str, *arguments: str, hosts: dict[str, Any] | None = None, **extra: Any) -> list[str]:
        inventory = {"hosts": hosts or self.hosts, "vars": {**self.group_vars, **self.variables}}
        path = self.folder / f"inventory-{len(list(self.folder.iterdir()))}.json"
        path.write_text(json.dumps({"model_servers": inventory}))
        return [
            str(Path(sys.executable).with_name("ansible-playbook")),
            "-i",
            str(path),
            str(ROOT / ("site.yml" if playbook == "site" else f"playbooks/{playbook}.yml")),
            *(["-e", json.dumps(extra)] if extra else []),
            *arguments,
        ]

    def start(self, playbook: str, *arguments: str, **extra: Any) -> subprocess.Popen:
        """Start a run in a session of its own, so that a signal reaches all of it and nothing else."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MODEL_", "MAGI_", "LLAMA_"))}
        return subprocess.Popen(
            self.command(playbook, *arguments, **extra),
            cwd=ROOT,
            env={**environment, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "COLUMNS": "500"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def play(self, playbook: str, *arguments: str, **extra: Any) -> Run:
        return finished(self.start(playbook, *arguments, **extra))

    def deploy(self, profile: str, *arguments: str, **extra: Any) -> Run:
        return self.play("site", *arguments, profile=profile, **extra)

    def report(self) -> dict[str, Any]:
        return json.loads((self.folder / "report.json").read_text())

    def pids(self) -> dict[tuple[str, str], int]:
        """The servers of the last report that are ready: pids by host and instance."""
        return {(s["host"], s["instance"]): s["pid"] for s in self.report()["servers"] if s["is_ready"]}

    def get(self, host: str, port: int, path: str, body: Any = None, key: str | None = None) -> tuple[int, Any]:
        """Return status and body of a request to a published port; status 0: nothing answers."""
        request = urllib.request.Request(
            f"http://{self.hosts[host]['ansible_host']}:{port}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})},
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, None
        except OSError:
            return 0, None

    def ask(self, host: str, port: int, key: str | None = None) -> tuple[str, str]:
        """Return which model completed a chat, and with what."""
        question = {
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
            "max_tokens": 16,
            "temperature": 0,
        }
        status, answer = self.get(host, port, "/v1/chat/completions", question, key)
        assert status == 200
        text = answer["choices"][0]["message"]["content"]
        assert text.strip()
        return answer["model"], text


def finished(process: subprocess.Popen) -> Run:
    try:
        output, _none = process.communicate(timeout=300)
    except BaseException:  # its session is its own: nobody else ends it
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert "Traceback" not in output, output
    return Run(process.returncode, output)


def bring_up(count: int) -> None:
    done = subprocess.run([HOSTS, "up", str(count)], capture_output=True, text=True, timeout=1200)
    if done.returncode and not shutil.which("docker") and not os.environ.get("CI"):
        pytest.skip(f"no hosts to test on: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory):
    bring_up(3)
    path = subprocess.run([HOSTS, "inventory"], capture_output=True, text=True, check=True).stdout.strip()
    group = json.loads(Path(path).read_text())["model_servers"]
    folder = tmp_path_factory.mktemp("fleet")
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    value = Fleet(
        folder,
        group["hosts"],
        {
            **group["vars"],
            "model_server_profiles_dir": str(folder / "profiles"),
            "model_server_report_path": str(folder / "report.json"),
            "model_server_llama_server_path": f"/opt/llama.cpp/{build()}/bin/llama-server",
            # The ports are published on loopback addresses of this machine alone.
            "model_server_host": "0.0.0.0",
            "model_server_readiness_check_interval": 1,
            "model_server_stop_timeout": 5,
        },
    )
    value.play("teardown")
    yield value
    run = value.play("teardown")
    assert run.code == 0, run.output


@pytest.fixture(autouse=True)
def own_variables(request: pytest.FixtureRequest):
    """A test's variables of the inventory are gone after it."""
    yield
    if "fleet" in request.fixturenames:
        request.getfixturevalue("fleet").variables.clear()


def build() -> str:
    """The version of the newest llama.cpp that the hosts have mounted."""
    found = sorted(path.parents[1].name for path in BUILDS.glob("[0-9]*/bin/llama-server"))
    assert found, f"there is no llama-server in {BUILDS}: run make up first"
    return found[-1]
