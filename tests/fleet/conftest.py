"""Real systemd hosts in containers, reached over SSH like a fleet, and playbooks that run on them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..playbook import ROOT, Playing, Run, copy_profiles, start

HOSTS = ROOT / "molecule" / "hosts" / "hosts.py"
Q2, Q3, Q41, Q4 = (f"smollm2-135m-instruct.{q}" for q in ("q2_k", "q3_k_m", "q4_1", "q4_k_m"))
LIMIT = ("--limit", "host1")
NO_DOCKER = 3  # exit status of hosts.py
BUILDS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "magi" / "llama.cpp"

# Everything on a host that a deployment may write, with what tells one version of a file from another.
SNAPSHOT = """
find /etc/magi /etc/systemd/system /var/lib/magi /var/lib/magi-llama /var/lib/private /var/cache/magi-llama \
  /var/cache/private -type d -printf '%p %y %m\\n' -o -printf '%p %y %m %T@ %s %l\\n' 2>/dev/null | sort
"""


@dataclass
class Fleet:
    """Hosts, and a folder with the profiles and the inventory of what is deployed on them."""

    folder: Path
    hosts: dict[str, dict[str, Any]]
    group_vars: dict[str, Any]
    variables: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    groups: dict[str, Any] = field(default_factory=dict)
    """More groups of the inventory."""

    def sh(self, host: str, script: str, *, check: bool = True, stdin: str | None = None) -> str:
        """Run a script on a host, without SSH: a look must not depend on what is tested."""
        done = subprocess.run(
            ["docker", "exec", "--interactive", self.hosts[host]["testbed_container"], "sh", "-c", script],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert not check or done.returncode == 0, f"{host}: {script}: {done.stdout}{done.stderr}"
        return done.stdout

    def environment_of(self, host: str, pid: int) -> dict[str, str]:
        """What a process on a host was really started with."""
        return dict(item.split("=", 1) for item in self.sh(host, f"cat /proc/{pid}/environ").split("\0") if item)

    def state(self, host: str, instance: str) -> str:
        """What systemd says of an instance: active, inactive, failed …"""
        return self.sh(host, f"systemctl is-active magi-llama@{instance}.service", check=False).strip()

    def drop_in(self, host: str, instance: str, *settings: str) -> str:
        """Give an instance a drop-in, as docs/systemd.md shows users; return its path."""
        path = f"/etc/systemd/system/magi-llama@{instance}.service.d/test.conf"
        text = "\n".join(["[Service]", *settings, ""])
        self.sh(host, f"mkdir -p {path.rpartition('/')[0]}; cat >{path}; systemctl daemon-reload", stdin=text)
        return path

    def snapshot(self, host: str) -> list[str]:
        return self.sh(host, SNAPSHOT, check=False).splitlines()

    def profile(self, name: str, *entries: Any, **more: Any) -> None:
        path = self.folder / "profiles" / f"{name}.yml"
        path.write_text(yaml.safe_dump({"name": name, "enabled_models": list(entries), **more}))

    def start(self, playbook: str, *arguments: str, hosts: dict[str, Any] | None = None, **extra: Any) -> Playing:
        group = {"hosts": hosts or self.hosts, "vars": {**self.group_vars, **self.variables}}
        more = {"environment": self.environment, "groups": self.groups}
        return start(self.folder, group, playbook, *arguments, **more, **extra)

    def play(self, playbook: str, *arguments: str, **extra: Any) -> Run:
        return self.start(playbook, *arguments, **extra).finish()

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

    def busy(self, host: str, port: int) -> int:
        """How many requests a server is working on."""
        return sum(slot["is_processing"] for slot in self.get(host, port, "/slots")[1] or ())

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


class Client(threading.Thread):
    """Somebody who asks a server for tokens, endlessly unless ``tokens`` limits them.

    A streaming client counts what has come; another waits for the whole answer.
    """

    def __init__(
        self,
        fleet: Fleet,
        host: str,
        port: int,
        *,
        stream: bool = True,
        tokens: int = 1 << 20,
        key: str | None = None,
    ):
        super().__init__(daemon=True)
        self.connection = http.client.HTTPConnection(fleet.hosts[host]["ansible_host"], port, timeout=300)
        self.headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        self.body = {"prompt": "Once", "max_tokens": tokens, "ignore_eos": True, "stream": stream}
        self.chunks: list[bytes] = []
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            self.connection.request("POST", "/completion", json.dumps(self.body), self.headers)
            for line in self.connection.getresponse():
                if line.strip():
                    self.chunks.append(line)

    def leave(self) -> None:
        """Close the connection in the middle."""
        with contextlib.suppress(OSError, AttributeError):
            self.connection.sock.shutdown(socket.SHUT_RDWR)
        self.join()


def bring_up(count: int) -> None:
    """Bring up hosts; without docker, skip the test, or fail it in CI."""
    done = subprocess.run([HOSTS, "up", "--install", str(count)], capture_output=True, text=True, timeout=3600)
    if done.returncode == NO_DOCKER and not os.environ.get("CI"):
        pytest.skip(f"no hosts to test on: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test brings up the hosts, which takes long if it must install docker and make the image."""
    for item in items:
        if item.get_closest_marker("fleet"):
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory):
    bring_up(3)
    path = subprocess.run([HOSTS, "inventory"], capture_output=True, text=True, check=True).stdout.strip()
    group = json.loads(Path(path).read_text())["model_servers"]
    folder = tmp_path_factory.mktemp("fleet")
    copy_profiles(folder / "profiles")
    value = Fleet(
        folder,
        group["hosts"],
        {
            **group["vars"],
            "model_server_profiles_dir": str(folder / "profiles"),
            "model_server_report_path": str(folder / "report.json"),
            "model_server_llama_server_path": f"/opt/llama.cpp/{build()}/bin/llama-server",
            # The ports are published only on loopback addresses of this machine.
            "model_server_host": "0.0.0.0",
            "model_server_readiness_check_interval": 1,
            "model_server_stop_timeout": 5,
        },
    )
    value.play("teardown")
    yield value
    run = value.play("teardown")
    assert run.code == 0, run.output


def bare(fleet: Fleet, *hosts: str) -> None:
    """Remove from hosts whatever an earlier test left there."""
    run = fleet.play("teardown", "--limit", ",".join(hosts))
    assert run.code == 0, run.output


def build() -> str:
    """The version of the newest llama.cpp that the hosts have mounted."""
    found = sorted(path.parents[1].name for path in BUILDS.glob("[0-9]*/bin/llama-server"))
    assert found, f"there is no llama-server in {BUILDS}: run make up first"
    return found[-1]
