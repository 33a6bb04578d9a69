"""How a run is started, and where its files are."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import stat
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from magi.domain import FOLDER
from magi.errors import ExitCode, MagiError, UsageError
from magi.events import Event, Run
from magi.project import Project
from magi.runner import options
from magi.runner import playbook as runner
from magi.runner.options import MARK, Options, command_line, utf8
from magi.state import runs
from magi.state.folder import state_folder
from magi.state.questions import passed_by_file
from magi.state.runs import KEEP, OUTPUT, run_folder

from .known import ROOT

PLAYBOOK = "/srv/magi/playbooks/site.yml"


@pytest.mark.parametrize(
    ("options", "variables", "expected"),
    [
        (Options(), {}, []),
        (Options(("a", "b,")), {}, ["-i", "a", "-i", "b,"]),
        (Options(limit="gpu1:!gpu2"), {}, ["--limit", "gpu1:!gpu2"]),
        (Options(tags="x,y"), {}, ["--tags", "x,y"]),
        (Options(check=True, diff=True), {}, ["--check", "--diff"]),
        (Options(verbosity=3), {}, ["-vvv"]),
        # Ours come last, as one JSON document, so that they win.
        (
            Options(extra_vars=("a=1", "@f.yml")),
            {"profile": "p", "b": ["x y"]},
            ["-e", "a=1", "-e", "@f.yml", "-e", '{"b": ["x y"], "profile": "p"}'],
        ),
        # No word from a user becomes an option or a second argument.
        (Options(limit="--check"), {}, ["--limit", "--check"]),
        (Options(extra_vars=("a='b c' --diff",)), {}, ["-e", "a='b c' --diff"]),
    ],
)
def test_the_command_line(options, variables, expected):
    assert command_line(PLAYBOOK, options, variables) == ["ansible-playbook", *expected, PLAYBOOK]


def test_the_variables_are_what_ansible_reads():
    arguments = command_line(PLAYBOOK, Options(), {"profile": "ünï", "n": True})
    assert json.loads(arguments[arguments.index("-e") + 1]) == {"profile": "ünï", "n": True}


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "magi" / "runs"


def new_folder(name: str) -> Path:
    """Return the folder of a run that has ended."""
    with run_folder(name) as (folder, _log, _killed):
        return folder


def test_the_folder_of_a_run_is_for_its_user_alone(state):
    before = os.umask(0)
    try:
        folder = new_folder("site")
    finally:
        os.umask(before)
    assert folder.parent == state
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_the_last_runs_are_kept_and_those_at_work(state):
    folders = [state / f"20260101T0000{number:02}-site-000000" for number in range(KEEP + 5)]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / OUTPUT).touch()
    with open(folders[0] / OUTPUT) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        newest = new_folder("site")
        assert {*state.iterdir()} == {folders[0], *folders[-KEEP + 1 :], newest}
    # A killed run holds no lock any more.
    last = new_folder("site")
    assert {*state.iterdir()} == {*folders[-KEEP + 2 :], newest, last}


def test_a_run_never_removes_its_own_folder(state, monkeypatch):
    """Its name may sort before all others: clocks are set back, once a year even by law."""
    monkeypatch.setattr(runs.time, "gmtime", lambda: time.struct_time((1999, 1, 1, 0, 0, 0, 4, 1, 0)))
    for number in range(KEEP + 5):
        (state / f"20260101T0000{number:02}-site-000000").mkdir(parents=True)
    assert new_folder("site").name.startswith("19990101T000000-site-")
    assert len([*state.glob("1999*")]) == 1
    assert len([*state.iterdir()]) == KEEP


def test_looks_push_out_no_deployment(state):
    deployment = new_folder("site")
    for _look in range(KEEP + 5):
        new_folder("status")
    assert deployment.exists()
    assert len([*state.iterdir()]) == KEEP + 1


def test_what_a_killed_magi_left_is_removed_by_the_next(state):
    killed, at_work = new_folder("site"), new_folder("site")
    for folder in (killed, at_work):
        (folder / OUTPUT).touch()
        (folder / "artifacts" / "id").mkdir(parents=True)
    with passed_by_file("mine") as mine, open(at_work / OUTPUT) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        left = mine.with_name("left.txt")
        left.write_text("theirs")
        new_folder("status")
        assert mine.read_text() == "mine"
        assert not left.exists()
        assert (at_work / "artifacts" / "id").is_dir()
    assert [path.name for path in killed.iterdir()] == [OUTPUT]


def test_runs_that_begin_together_remove_nothing_of_each_other(state):
    """A folder that has just been made must not pass for that of a run that has ended."""

    def begin(number: int) -> bool:
        with run_folder("site") as (folder, log, _killed), passed_by_file(str(number)) as question:
            log.write("begun\n")
            return folder.is_dir() and question.read_text() == str(number)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(begin, range(200)))


def test_a_user_without_a_home_is_told(monkeypatch):
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home")))
    with pytest.raises(
        UsageError, match=r"^~/\.local/state can't be written \(this user has no home folder\): .*XDG_STATE"
    ):
        new_folder("site")


# --- a playbook of its own -----------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path: Path, state: Path) -> Project:
    """A project whose playbook runs for a long time."""
    project = Project(tmp_path / "project")
    project.playbooks.mkdir(parents=True)
    (project.root / FOLDER / "plugins").mkdir(parents=True)
    tasks = [{"name": "Begin", "debug": {"msg": "begun"}}, {"name": "Go on", "command": "sleep 300"}]
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
    (project.playbooks / "tiny.yml").write_text(json.dumps([play]))
    project.configuration.touch()
    return project


def marked(ident: str) -> list[str]:
    """Return the processes of a run."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"{MARK}={ident}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(entry.name)
    return found


def test_what_a_handler_raises_ends_the_run_and_comes_out_at_its_end(tiny, state, monkeypatch):
    error, idents = BrokenPipeError("whoever read has left"), []
    environment = options.environment
    monkeypatch.setattr(runner, "environment", lambda *given: (idents.append(given[-1]), environment(*given))[1])

    def fail(event: Event) -> None:
        if event.task == "Go on":
            assert marked(idents[0])
            raise error

    with pytest.raises(BrokenPipeError) as raised:
        runner.run(tiny, "tiny", Options(), on_event=fail)
    assert raised.value is error
    assert [marked(ident) for ident in idents] == [[]]
    (folder,) = state.iterdir()
    assert [path.name for path in folder.iterdir()] == [OUTPUT]
    assert "begun" in (folder / OUTPUT).read_text()


def test_what_a_killed_magi_left_at_work_is_ended_by_the_next_run(tiny, state):
    """Ansible goes on without its magi."""
    with run_folder("tiny") as (folder, _log, _killed):
        (folder / "artifacts").mkdir()
    left = subprocess.Popen(["sleep", "300"], env={**os.environ, MARK: folder.name})
    other = subprocess.Popen(["sleep", "300"], env={**os.environ, MARK: "19990101T000000-tiny-000000"})
    ending = threading.Event()
    try:
        runner.run(tiny, "tiny", Options(), on_event=lambda event: ending.set(), stop=ending)
        assert left.wait(10) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for process in (left, other):
            process.kill()
            process.wait()


def test_a_full_disk_of_the_controller_is_one_sentence(tiny, monkeypatch):
    for module in (runner, runs):
        monkeypatch.setattr(module, "OUTPUT", "/dev/full")
    with pytest.raises(
        MagiError, match=r"^/dev/full can't be written \(No space left on device\): fix that, or set"
    ) as raised:
        runner.run(tiny, "tiny", Options())
    assert raised.value.exit_code is ExitCode.FAILED


def test_what_e_gave_is_in_no_output_however_verbose(tiny, state):
    seen = []

    def stop(event: Event) -> None:
        seen.append(event.text)
        if event.task == "Go on":
            ending.set()

    ending = threading.Event()
    given = Options(extra_vars=("a_secret=canary", '{"b": "canary"}'), verbosity=4)
    runner.run(tiny, "tiny", given, {"c": "canary"}, on_event=stop, stop=ending)
    (folder,) = state.iterdir()
    printed = (folder / OUTPUT).read_text()
    assert "extra_vars: …" in printed
    assert "canary" not in printed + "".join(seen)


def test_without_xdg_the_state_is_in_the_home(monkeypatch):
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert state_folder() == Path("/home/somebody/.local/state/magi")


def test_a_state_folder_that_can_not_be_written_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"can't be written \(Not a directory\): fix that, or set XDG_STATE_HOME\."):
        new_folder("site")


def test_a_run_that_is_stopped_before_it_begins_starts_nothing(state):
    stop = threading.Event()
    stop.set()
    assert runner.run(Project(ROOT), "site", Options(), stop=stop) == Run(None, (), interrupted=True)
    assert not state.exists()


def environment(monkeypatch, given=(), root=Path("/srv/magi"), **real) -> dict[str, str]:
    monkeypatch.setattr(os, "environ", {"PATH": "/bin", "HOME": "/home/somebody", **real})
    theirs = {**os.environ, "ANSIBLE_STDOUT_CALLBACK": "awx_display", "ANSIBLE_HOST_KEY_CHECKING": "False"}
    return options.environment(Project(root), Options(environment=dict(given)), theirs, "id")


def test_the_environment_of_a_run(monkeypatch):
    found = environment(monkeypatch, {"MAGI_PROFILE": "dotenv", "MODEL_HOST": "dotenv"}, MAGI_PROFILE="real")
    assert found["MAGI_PROFILE"] == "real"
    assert found["MODEL_HOST"] == "dotenv"
    assert found["HOME"] == "/home/somebody"
    assert found["ANSIBLE_CONFIG"] == "/srv/magi/ansible.cfg"
    assert found[MARK] == "id"
    assert found["ANSIBLE_STDOUT_CALLBACK"] == "awx_display"
    assert "ANSIBLE_HOST_KEY_CHECKING" not in found
    assert found["PATH"].endswith(":/bin")


def test_a_configuration_of_ones_own_beats_the_projects(monkeypatch):
    assert environment(monkeypatch, ANSIBLE_CONFIG="/mine.cfg")["ANSIBLE_CONFIG"] == "/mine.cfg"


@pytest.mark.parametrize(
    ("configured", "real", "expected"),
    [
        ("", {}, "200"),
        ("[defaults]\nforks = 50\n", {}, "200"),
        ("[defaults]\nforks = 500\n", {}, "500"),
        ("[defaults]\nforks = many\n", {}, "200"),
        ("[defaults]\nforks = 500\n", {"ANSIBLE_FORKS": "7"}, "7"),
    ],
)
def test_all_hosts_are_worked_on_at_once(configured, real, expected, monkeypatch, tmp_path):
    (tmp_path / "ansible.cfg").write_text(configured)
    assert environment(monkeypatch, root=tmp_path, **real)["ANSIBLE_FORKS"] == expected
    own = {"ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"), **real}
    assert environment(monkeypatch, **own)["ANSIBLE_FORKS"] == expected


def test_an_environment_is_withheld_from_files_and_given_to_processes():
    withheld = runner._Withheld({"HF_TOKEN": "canary"})
    assert json.dumps(withheld) == "{}"
    assert dict(withheld.items()) == {"HF_TOKEN": "canary"}


def test_the_command_line_is_known_only_when_it_starts():
    """ansible-runner would first write its command into a file, and a value of -e may be a secret."""
    command: list[str] = []
    handle = runner._give_command(command, ["ansible-playbook", "-e", "token=canary"])
    handle({"status": "starting"}, runner_config=None)
    assert command == []
    handle({"status": "running"}, runner_config=None)
    handle({"status": "successful"}, runner_config=None)
    assert command == ["ansible-playbook", "-e", "token=canary"]


@pytest.mark.parametrize(
    ("given", "added"),
    [
        ({"LC_ALL": "C.UTF-8"}, {}),
        ({"LANG": "C.UTF-8"}, {}),
        ({"LC_ALL": "", "LC_CTYPE": "C.UTF-8", "LANG": "C"}, {}),
        ({}, {"LC_ALL": "C.UTF-8"}),
        ({"LC_ALL": "C", "LANG": "C.UTF-8"}, {"LC_ALL": "C.UTF-8"}),
        ({"LC_ALL": "POSIX"}, {"LC_ALL": "C.UTF-8"}),
        ({"LANG": "xx_XX.UTF-8"}, {"LC_ALL": "C.UTF-8"}),
        ({"LC_ALL": "\u0130"}, {"LC_ALL": "C.UTF-8"}),
    ],
)
def test_ansible_gets_a_locale_that_it_takes(given, added):
    assert utf8(given) == added
