"""What a run is started with, and where its files lie."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import threading
from pathlib import Path

import pytest

from magi import runner
from magi.errors import UsageError
from magi.events import Run
from magi.project import Project
from magi.runner import KEEP, MARK, Options, command_line

from .known import ROOT

PLAYBOOK = Path("/srv/magi/playbooks/site.yml")


@pytest.mark.parametrize(
    ("options", "variables", "expected"),
    [
        (Options(), {}, []),
        (Options(("a", "b,")), {}, ["-i", "a", "-i", "b,"]),
        (Options(limit="gpu1:!gpu2"), {}, ["--limit", "gpu1:!gpu2"]),
        (Options(tags="x,y"), {}, ["--tags", "x,y"]),
        (Options(check=True, diff=True), {}, ["--check", "--diff"]),
        (Options(verbosity=3), {}, ["-vvv"]),
        # Ours come last, so that they beat what was given, and as one JSON document.
        (
            Options(extra_vars=("a=1", "@f.yml")),
            {"profile": "p", "b": ["x y"]},
            ["-e", "a=1", "-e", "@f.yml", "-e", '{"b": ["x y"], "profile": "p"}'],
        ),
        # No word of a user becomes an option, nor a second argument.
        (Options(limit="--check"), {}, ["--limit", "--check"]),
        (Options(extra_vars=("a='b c' --diff",)), {}, ["-e", "a='b c' --diff"]),
    ],
)
def test_the_command_line(options, variables, expected):
    assert command_line(PLAYBOOK, options, variables) == ["ansible-playbook", *expected, str(PLAYBOOK)]


def test_the_variables_are_what_ansible_reads():
    arguments = command_line(PLAYBOOK, Options(), {"profile": "ünï", "n": True})
    assert json.loads(arguments[arguments.index("-e") + 1]) == {"profile": "ünï", "n": True}


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "magi" / "runs"


def test_the_folder_of_a_run_is_for_its_user_alone(state):
    before = os.umask(0)
    try:
        folder = runner._new_folder("site")
    finally:
        os.umask(before)
    assert folder.parent == state
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_the_last_runs_are_kept_and_those_at_work(state):
    folders = [state / f"20260101T0000{number:02}-site-000000" for number in range(KEEP + 5)]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / runner.OUTPUT).touch()
    with open(folders[0] / runner.OUTPUT) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        newest = runner._new_folder("site")
        assert {*state.iterdir()} == {folders[0], *folders[-KEEP + 1 :], newest}
    # A run that was killed holds nothing any more.
    last = runner._new_folder("site")
    assert {*state.iterdir()} == {*folders[-KEEP + 2 :], newest, last}


def test_without_xdg_the_state_is_in_the_home(monkeypatch):
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert runner.state_folder() == Path("/home/somebody/.local/state/magi")


def test_a_state_folder_that_can_not_be_written_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"can't be written \(Not a directory\): free it, or set XDG_STATE_HOME\."):
        runner._new_folder("site")


def test_a_run_that_is_stopped_before_it_begins_starts_nothing(state):
    stop = threading.Event()
    stop.set()
    assert runner.run(Project(ROOT), "site", Options(), stop=stop) == Run(None, (), interrupted=True)
    assert not state.exists()


def environment(monkeypatch, given=(), **real) -> dict[str, str]:
    monkeypatch.setattr(os, "environ", {"PATH": "/bin", "HOME": "/home/somebody", **real})
    return runner._environment(Project(Path("/srv/magi")), Options(environment=dict(given)), {}, "id")


def test_the_environment_of_a_run(monkeypatch):
    found = environment(monkeypatch, {"MAGI_PROFILE": "dotenv", "MODEL_HOST": "dotenv"}, MAGI_PROFILE="real")
    assert found["MAGI_PROFILE"] == "real"
    assert found["MODEL_HOST"] == "dotenv"
    assert found["HOME"] == "/home/somebody"
    assert found["ANSIBLE_CONFIG"] == "/srv/magi/ansible.cfg"
    assert found[MARK] == "id"
    assert found["PATH"].endswith(":/bin")


def test_a_configuration_of_ones_own_beats_the_projects(monkeypatch):
    assert environment(monkeypatch, ANSIBLE_CONFIG="/mine.cfg")["ANSIBLE_CONFIG"] == "/mine.cfg"


def test_an_environment_is_withheld_from_files_and_given_to_processes():
    withheld = runner._Withheld({"HF_TOKEN": "canary"})
    assert json.dumps(withheld) == "{}"
    assert dict(withheld.items()) == {"HF_TOKEN": "canary"}


def test_the_command_line_is_known_only_when_it_starts():
    """Before, ansible-runner writes what it knows of it into a file; what was given by -e may be secret."""
    command: list[str] = []
    handle = runner._give_command(command, ["ansible-playbook", "-e", "token=canary"])
    handle({"status": "starting"}, runner_config=None)
    assert command == []
    handle({"status": "running"}, runner_config=None)
    handle({"status": "successful"}, runner_config=None)
    assert command == ["ansible-playbook", "-e", "token=canary"]
