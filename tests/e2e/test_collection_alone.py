"""The collection alone, as ansible-galaxy installs it: an empty folder with an inventory, and profiles beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..playbook import Run, clean_environment
from .conftest import LLAMA_SERVER, MODELS, PORTS, ROOT, ask

pytestmark = pytest.mark.e2e

COLLECTION = ROOT / "collections" / "ansible_collections" / "magi" / "models"
Q2, Q3 = (f"smollm2-135m-instruct.{q}" for q in ("q2_k", "q3_k_m"))


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a virtual environment with ansible-core, supervisor for a host without systemd, and no more."""
    folder = tmp_path_factory.mktemp("ansible")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin/pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", ROOT / "constraints.txt", "ansible-core", "supervisor"], check=True)
    return folder / "bin"


@pytest.fixture(scope="module")
def user(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with nothing but the collection, from its archive."""
    home = tmp_path_factory.mktemp("user")
    galaxy = [programs / "ansible-galaxy", "collection"]
    environment = {"HOME": str(home), "PATH": f"{programs}:{os.environ['PATH']}"}
    subprocess.run([*galaxy, "build", COLLECTION, "--output-path", home], cwd=home, env=environment, check=True)
    (archive,) = home.glob("magi-models-*.tar.gz")
    subprocess.run([*galaxy, "install", "--offline", archive], cwd=home, env=environment, check=True)
    return home


@dataclass
class Folder:
    """A folder for working with the collection."""

    path: Path
    home: Path
    programs: Path

    def play(self, playbook: str, *arguments: str) -> Run:
        given = {key: value for key, value in clean_environment().items() if not key.startswith(("ANSIBLE", "PYTHON"))}
        done = subprocess.run(
            [self.programs / "ansible-playbook", "-i", "hosts.yml", playbook, *arguments],
            cwd=self.path,
            env={**given, "HOME": str(self.home), "COLUMNS": "500"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert "Traceback" not in done.stdout, done.stdout
        return Run(done.returncode, done.stdout)

    def add_profile(self, name: str, **content: Any) -> None:
        (self.path / "profiles" / f"{name}.yml").write_text(yaml.safe_dump(content))

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.path / "report.json").read_text())


@pytest.fixture
def folder(tmp_path: Path, user: Path, programs: Path):
    models = tmp_path / "models"
    models.mkdir()
    for quantization in ("Q2_K", "Q3_K_M"):
        name = f"SmolLM2-135M-Instruct.{quantization}.gguf"
        (models / name).hardlink_to(MODELS / name)
    (tmp_path / "profiles").mkdir()
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "model_server_manager": "supervisor",
        "model_server_supervisord_path": "{{ ansible_playbook_python | dirname }}/supervisord",
        "model_server_home": "{{ inventory_dir }}/home",
        "model_server_registry_path": "{{ inventory_dir }}/registry.json",
        "model_server_report_path": "{{ inventory_dir }}/report.json",
        "model_server_scan_paths": ["{{ inventory_dir }}/models"],
        "model_server_llama_server_path": str(LLAMA_SERVER),
        "model_server_port_range": list(PORTS),
        "model_server_stop_timeout": 5,
    }
    hosts = {"model_servers": {"hosts": {"localhost": None}, "vars": variables}}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(hosts))
    value = Folder(tmp_path, user, programs)
    yield value
    gone = value.play("magi.models.teardown")
    assert gone.code == 0, gone.output


def test_a_profile_is_deployed_from_an_empty_folder(folder: Folder):
    absent = folder.play("magi.models.site", "-e", "profile=production")
    assert absent.code != 0
    assert f"there is no {folder.path}/profiles/production.yml. Profiles there: none." in absent.text

    folder.add_profile("production", enabled_models=[{"tier": "Q3"}])
    up = folder.play("magi.models.site", "-e", "profile=production")
    assert up.code == 0, up.output
    (server,) = folder.report["servers"]
    assert (server["instance"], server["is_ready"]) == (Q3, True)
    assert "France" in ask(server["port"])
    again = folder.play("magi.models.site", "-e", "profile=production")
    assert (again.code, again.changed) == (0, 0), again.output
    assert Q3 in folder.play("magi.models.status").output


def test_a_role_that_deploys_also_reports_and_fails(folder: Folder):
    """The role in a user's own play, with module_defaults for the modules beside it."""
    play = {
        "hosts": "model_servers",
        "gather_facts": False,
        "module_defaults": {"group/magi.models.services": {"home": "{{ model_server_home }}", "manager": "supervisor"}},
        "roles": ["magi.models.model_server"],
        "tasks": [
            {"name": "Look", "magi.models.model_host_info": {"identify": True}, "register": "looked"},
            {"name": "Logs", "magi.models.llama_logs_info": {"name": Q2, "lines": 1}},
            {"name": "Show", "ansible.builtin.debug": {"msg": "{{ looked.host.instances | map(attribute='health') }}"}},
        ],
    }
    (folder.path / "mine.yml").write_text(yaml.safe_dump([play]))
    folder.add_profile("development", enabled_models=["*"], options={"cache_type_v": "q4_0", "flash_attn": False})
    dead = folder.play("mine.yml")
    assert dead.code != 0, dead.output
    assert "No server is ready (0 of 2)" in dead.text
    assert [item["cause"] for item in folder.report["summary"]["failed"]] == ["bad_option", "bad_option"]

    folder.add_profile("development", enabled_models=["*"])
    well = folder.play("mine.yml")
    assert well.code == 0, well.output
    assert "2 servers launched, 2/2 ready" in well.text
    assert "200" in well.task("Show")
