"""Which folder magi works on, what it writes into an empty one, and where Ansible finds playbooks and collection."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from ansible_collections.magi.models.plugins.module_utils._config.settings import SETTINGS

from magi import domain
from magi import project as module
from magi.cli import main
from magi.errors import ExitCode, UsageError
from magi.project import Project, find_project

from .known import ROOT

PROFILE = "name: mine\nenabled_models: ['*']\n"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAGI_PROJECT", raising=False)
    monkeypatch.chdir(tmp_path)


def make(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_folder_of_others_is_passed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """They have playbooks/site.yml, and profiles of something else."""
    make(tmp_path / "mine/profiles/mine.yml", PROFILE)
    foreign = tmp_path / "mine/foreign"
    make(foreign / "playbooks/site.yml")
    make(foreign / "profiles/base.yml", "roles: [web]\n")
    monkeypatch.chdir(foreign)
    assert find_project().root == tmp_path / "mine"
    assert Project(foreign).playbook("site") == "magi.models.site"
    with pytest.raises(UsageError, match="foreign is not a magi project: make one with magi init"):
        find_project(foreign)
    (tmp_path / "mine/profiles/mine.yml").unlink()
    assert find_project().root == ROOT  # its own: these tests run on a checkout
    monkeypatch.setattr(module, "__file__", "/usr/lib/python3/site-packages/magi/project.py")
    with pytest.raises(UsageError, match=r"no magi project in .*foreign or above it: make one with magi init"):
        find_project()


def test_a_checkout_has_its_own_collection_and_playbooks():
    checkout = Project(ROOT)
    assert checkout.playbook("site") == str(ROOT / "playbooks/site.yml")
    assert checkout.environment({}) == {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    assert checkout.environment({"ANSIBLE_CONFIG": "/mine.cfg"}) == {}


@pytest.mark.parametrize(
    ("configuration", "given", "others"),
    [
        ("", {}, "~/.ansible/collections:/usr/share/ansible/collections"),
        ("[defaults]\ncollections_path = mine:/srv/theirs\n", {}, "{project}/mine:/srv/theirs"),
        ("[defaults]\ncollections_path = mine\n", {"ANSIBLE_COLLECTIONS_PATH": "/given"}, "/given"),
        ("broken", {}, "~/.ansible/collections:/usr/share/ansible/collections"),
    ],
)
def test_other_projects_have_that_of_magi_before_their_others(tmp_path: Path, configuration, given, others):
    make(tmp_path / "ansible.cfg", configuration)
    found = Project(tmp_path).environment(given)["ANSIBLE_COLLECTIONS_PATH"]
    assert found == f"{domain.carried().parents[2]}:{others.format(project=tmp_path)}"


def test_init_makes_a_project_for_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["init", "mine"]) == ExitCode.OK
    assert capsys.readouterr().err.splitlines()[-1] == "Next: cd mine, then magi up"
    project = find_project("mine")
    written = {str(path.relative_to(project.root)) for path in project.root.rglob("*") if path.is_file()}
    files = ("hosts.yml", "group_vars/model_servers.yml", "group_vars/model_gateways.yml")
    local = {f"inventories/local/{name}" for name in files}
    profiles = {f"profiles/{name}.yml" for name in ("development", "production", "fast-only")}
    assert written == {"ansible.cfg", ".env.example", ".gitignore"} | local | profiles
    assert "collections_path" not in project.configuration.read_text()
    assert project.is_bare
    (project.root / "data").mkdir()
    assert not project.is_bare


def test_init_names_the_hosts_that_are_given(tmp_path: Path):
    assert main(["init", "--host", "gpu1", "--host", "gpu2.example.org"]) == ExitCode.OK
    inventory = yaml.safe_load((tmp_path / "inventories/fleet/hosts.yml").read_text())
    assert inventory["model_servers"]["hosts"] == {"gpu1": None, "gpu2.example.org": None}
    assert "inventory = inventories/fleet\n" in (tmp_path / "ansible.cfg").read_text()
    assert not Project(tmp_path).is_bare


def test_init_leaves_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make(tmp_path / "ansible.cfg", "mine")
    make(tmp_path / "profiles/production.yml", "mine")
    assert main(["init", "--json"]) == ExitCode.OK
    document = json.loads(capsys.readouterr().out)
    assert document["kept"] == ["ansible.cfg", "profiles/production.yml"]
    assert {(tmp_path / name).read_text() for name in document["kept"]} == {"mine"}
    assert main(["init", "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["written"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "root@gpu1"], "--host root@gpu1: give a host's name"),
        (["--host", "{{ x }}"], "give a host's name"),
        (["file"], "file"),
        (["file/below"], "file"),
    ],
)
def test_init_refuses_in_one_sentence(tmp_path: Path, arguments, said, capsys):
    (tmp_path / "file").touch()
    assert main(["init", *arguments]) == ExitCode.USAGE
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert [*tmp_path.iterdir()] == [tmp_path / "file"]


def test_the_example_of_an_environment_has_settings_alone():
    text = module.carried("src/magi/skeleton/env.example").read_text()
    names = {line[1:].partition("=")[0] for line in text.splitlines() if line.startswith("#") and "=" in line}
    assert names <= {setting.environment for setting in SETTINGS}
    assert "MODEL_SCAN_PATH" in names
