"""A deployment of its own for each test: the real playbooks, the real llama-server, real models, on loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.magi.models.plugins.plugin_utils._ansible.run import job

from .. import minilm
from ..playbook import ROOT, Playing, Run, clean_environment, copy_profiles, start

CACHE = Path.home() / ".cache" / "magi"
LLAMA_SERVER = CACHE / "llama.cpp" / "current" / "llama-server"
HAPROXY = os.environ.get("MAGI_HAPROXY") or "/usr/sbin/haproxy"
MODELS = ROOT / "data" / "models"
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def embedding_model() -> Path:
    """Return the file of a real embedding model."""
    return minilm.make(CACHE / "embedders", LLAMA_SERVER.resolve().parents[1] / "source")


def ports(first: int) -> tuple[int, int]:
    """Return a range of 20 ports; each worker of pytest-xdist has its own."""
    return first + 200 * WORKER, first + 200 * WORKER + 19


PORTS = ports(18080)


@dataclass
class Deployment:
    """A folder with an inventory, profiles, models and state of its own."""

    folder: Path
    variables: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    hosts: dict[str, dict[str, Any]] = field(default_factory=lambda: {"localhost": {}})
    """Variables by host; all hosts are this machine."""
    groups: dict[str, Any] = field(default_factory=dict)
    """More groups of the inventory."""
    cwd: Path = ROOT
    """Where playbooks are run."""

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def registry(self) -> Path:
        return self.folder / "registry.json"

    def add_model(self, quantization: str, name: str | None = None) -> Path:
        source = MODELS / f"SmolLM2-135M-Instruct.{quantization}.gguf"
        assert source.exists(), f"there is no {source}: run make up first"
        target = self.models / (name or source.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        return target

    def add_profile(self, name: str, *entries: Any, **more: Any) -> None:
        path = self.folder / "profiles" / f"{name}.yml"
        path.write_text(yaml.safe_dump({"name": name, "enabled_models": list(entries), **more}))

    def add_gateway(self, port: int, **more: Any) -> None:
        """Add a gateway on this machine, at ``port``; ``more`` are variables of it."""
        self.groups["model_gateways"] = {
            "hosts": {"localhost": {}},
            "vars": {
                "ansible_connection": "local",
                "ansible_python_interpreter": sys.executable,
                "model_gateway_manager": "supervisor",
                "model_gateway_supervisord_path": str(Path(sys.executable).with_name("supervisord")),
                "model_gateway_home": str(self.folder / "gateway"),
                "model_gateway_haproxy_path": HAPROXY,
                "model_gateway_port": port,
                **more,
            },
        }

    @property
    def group(self) -> dict[str, Any]:
        """The hosts with their variables."""
        return {
            "hosts": self.hosts,
            "vars": {
                "ansible_connection": "local",
                "ansible_python_interpreter": sys.executable,
                "model_server_manager": "supervisor",
                "model_server_supervisord_path": str(Path(sys.executable).with_name("supervisord")),
                "model_server_home": str(self.home),
                "model_server_profiles_dir": str(self.folder / "profiles"),
                "model_server_scan_paths": [str(self.models)],
                "model_server_registry_path": str(self.registry),
                "model_server_report_path": str(self.folder / "report.json"),
                "model_server_llama_server_path": str(LLAMA_SERVER),
                "model_server_port_range": list(PORTS),
                "model_server_stop_timeout": 5,
                **self.variables,
            },
        }

    def inventory(self) -> Path:
        """Write the inventory and return its path."""
        path = self.folder / "inventory.json"
        path.write_text(json.dumps({"model_servers": self.group, **self.groups}))
        return path

    def start(self, playbook: str = "site", *arguments: str, profile: str | None = None, **extra: Any) -> Playing:
        given = {**({"profile": profile} if profile else {}), **extra}
        more = {"environment": self.environment, "groups": self.groups, "cwd": self.cwd}
        return start(self.folder, self.group, playbook, *arguments, **more, **given)

    def play(self, *arguments: str, **extra: Any) -> Run:
        return self.start(*arguments, **extra).finish()

    def remove(self) -> None:
        """Remove what is left, with the modules that a teardown runs; the playbook takes seven times as long."""
        for role, module, more in (("server", "llama_instances", {"job": job()}), ("gateway", "model_gateway", {})):
            group = {"server": self.group, "gateway": self.groups.get("model_gateways", {"hosts": {}})}[role]
            for own in group["hosts"].values():
                given = {**group["vars"], **own}
                names = ("home", "manager", "supervisord_path")
                options = {name: given[f"model_{role}_{name}"] for name in names if f"model_{role}_{name}" in given}
                if Path(options["home"]).exists():
                    run_module(module, {"state": "absent", **options, **more})

    def report(self) -> dict[str, Any]:
        return json.loads((self.folder / "report.json").read_text())

    def servers(self) -> dict[str, dict[str, Any]]:
        return {server["instance"]: server for server in self.report()["servers"]}

    def tree(self) -> dict[str, bytes]:
        """Return every file of the deployment's state with its content, to show that nothing was written."""
        paths = [self.registry, *self.home.rglob("*")]
        return {str(p): p.read_bytes() for p in paths if p.is_file() and "log" not in p.name}


def ask(port: int, question: str = "What is the capital of France?", **more: str) -> str:
    """Return the completion that the server on ``port`` gives to a chat."""
    body = {"messages": [{"role": "user", "content": question}], "max_tokens": 24, "temperature": 0, **more}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)["choices"][0]["message"]["content"]


def run_module(name: str, arguments: dict[str, Any]) -> None:
    """Run one of our modules here, without Ansible around it."""
    done = subprocess.run(
        [sys.executable, "-m", f"ansible_collections.magi.models.plugins.modules.{name}"],
        env={**clean_environment(), "PYTHONPATH": str(ROOT / "collections")},
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def environment_of(pid: int) -> dict[str, str]:
    raw = Path(f"/proc/{pid}/environ").read_bytes().decode()
    return dict(item.split("=", 1) for item in raw.split("\0") if item)


def alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text().split("State:")[1].splitlines()[0]
    except OSError:
        return False


@pytest.fixture(scope="session", autouse=True)
def real_parts() -> None:
    assert LLAMA_SERVER.exists(), f"there is no llama-server at {LLAMA_SERVER}: run make up first"


@pytest.fixture
def deployment(tmp_path: Path):
    value = Deployment(tmp_path)
    value.models.mkdir()
    copy_profiles(tmp_path / "profiles")
    yield value
    value.remove()
