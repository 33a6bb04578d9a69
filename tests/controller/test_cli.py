"""The command line: what it refuses with one sentence and exit code 2, and how long --help takes."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pexpect
import pytest
import typer
from ptyprocess import PtyProcess

from magi.cli import app, key, main, profile
from magi.cli.signals import stopping
from magi.domain import FOLDER
from magi.errors import ExitCode, HostUnreachable, Interrupted, MagiError
from magi.events import Run
from magi.project import Project
from magi.result import Result
from magi.runner.options import Options
from magi.runner.terminals import close_at_once
from magi.state import catalog

from ..waiting import until
from . import recorded
from .known import ROOT, host


@pytest.fixture(autouse=True)
def nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name in ("MAGI_PROJECT", "MAGI_PROFILE"):
        monkeypatch.delenv(name, raising=False)

    def fake_run(*_arguments, **_more):
        pytest.fail("A playbook would have been run.")

    monkeypatch.setattr("magi.session.run", fake_run)


class FakeRun:
    """Stands for ``magi.session.run``: records its calls and replays ``recording``."""

    def __init__(self, recording: str):
        self.recording = recording
        self.calls: list[tuple[str, Options, dict]] = []
        self.projects: list[Path] = []

    def __call__(self, project, playbook, options, variables, **_more) -> Run:
        self.calls.append((playbook, options, variables))
        self.projects.append(project.root)
        return recorded.run(self.recording)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRun:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    fake = FakeRun("up")
    monkeypatch.setattr("magi.session.run", fake)
    monkeypatch.setattr("magi.project.Project.is_bare", False)
    return fake


def verbs() -> list[str]:
    return [command.name or command.callback.__name__ for command in app.registered_commands]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["up", "--nope"], "No such option: --nope"),
        (["nope"], "No such command 'nope'"),
        (["up", "a", "b"], "unexpected extra argument"),
        (["status", "--interval", "soon"], "'soon' is not a valid float"),
        (["status", "--interval", "0"], "is not in the range x>=0.5"),
        (["up", "-i"], "requires an argument"),
        (["status", "--watch", "--json"], "--watch never ends, and --json is one document"),
        (["plan", "--markdown", "--json"], "--markdown and --json both want standard output"),
        (["up", "--check", "--junit", "x.xml"], "--check deploys nothing, so there is no result for --junit"),
        (["up", "-i", "/no/such"], "There is no inventory /no/such: correct -i"),
        # Ansible would blame the inventory, and print what may be a secret.
        (
            ["up", "-e", "@/no/such.yml"],
            "/no/such.yml can't be read (No such file or directory): correct -e @/no/such.yml",
        ),
        (["up", "-e", "@pyproject.toml"], "-e @pyproject.toml, line 2, is neither JSON nor YAML ("),
        (["up", "-e", "./mine.yml"], "-e ./mine.yml names a file: put @ before it, -e @./mine.yml."),
        (["up", "-e", '{"a": canary'], "What -e gives is neither JSON nor YAML (did not find expected"),
        (["up", "-e", '["canary"]'], "What -e gives has no variables: give a mapping of names and values."),
        (["up", "-e", "a='canary"], "-e a=… has quotes or braces that nothing closes: close them."),
        (["up", "--project", "/no/such"], "/no/such is not a magi project: make one with magi init"),
        # As a variable, Ansible would run it as a template.
        (["up", "{{ lookup('pipe', 'id') }}"], "The profile must be a name of letters, digits"),
        (["up", ""], "The profile must be a name"),
        (["plan", "../production"], "The profile must be a name"),
        (["stop", "a b"], "The instance must be a name"),
        (["stop", "--", "-a"], "The instance must be a name"),
        (["ask", "{{ x }}", "Why?"], "The model must be a name of letters, digits and . _ - : / @, not '{{ x }}'."),
        (["ask", "--instance", "a/b", "Why?"], "The instance must be a name"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_what_is_refused(arguments, said, as_json, capsys):
    given = [arguments[0], "--json", *arguments[1:]] if as_json and arguments != ["nope"] else arguments
    assert main(given) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert said in err
    assert "canary" not in out + err
    assert err.startswith("magi: ")
    assert err.count("\n") == 1
    if "--json" in given:
        document = json.loads(out)
        assert document == {"error": {"message": err.removeprefix("magi: ").rstrip("\n"), "exit_code": 2}}
    else:
        assert out == ""


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (HostUnreachable("Not reached: gpu1."), 5, "Not reached: gpu1."),
        (MagiError("No."), 1, "No."),
        (KeyboardInterrupt(), 130, "Interrupted while nothing was running."),
    ],
)
def test_what_goes_wrong_is_a_sentence(raised, code, said, monkeypatch, capsys):
    def fail(_session):
        raise raised

    monkeypatch.setattr("magi.verbs.up", fail)
    assert main(["up", "--json"]) == code
    out, err = capsys.readouterr()
    assert err == f"magi: {said}\n"
    assert json.loads(out) == {"error": {"message": said, "exit_code": code}}


def test_a_junit_file_that_can_t_be_written_is_noticed_before_anything_is_run(tmp_path, capsys):
    for path, why in ((tmp_path / "none" / "x.xml", "No such file or directory"), (tmp_path, "Is a directory")):
        assert main(["up", "--junit", str(path)]) == ExitCode.USAGE
        assert capsys.readouterr().err == f"magi: {path} can't be written ({why}): give another path to --junit.\n"


@pytest.mark.parametrize(("inventory", "code"), [([], ExitCode.UNREACHABLE), (["-i", "/no/such"], ExitCode.USAGE)])
def test_a_junit_file_that_can_no_longer_be_written_hides_nothing(inventory, code, run, monkeypatch, tmp_path, capsys):
    path = tmp_path / "junit.xml"
    arguments = ["up", *inventory, "--json"]
    assert main(arguments) == code
    without, said = capsys.readouterr()

    def fake_junit_xml(_report):
        path.unlink()
        path.mkdir()
        return ""

    monkeypatch.setattr("magi.cli.deploy.junit_xml", fake_junit_xml)
    assert main([*arguments, "--junit", str(path)]) == code
    out, err = capsys.readouterr()
    assert out == without
    warning = f"Warning: {path} can't be written (Is a directory), so the result is not in it.\n"
    assert err.replace(warning, "") == said
    assert err.count(warning) == 1


def test_a_run_that_can_not_begin_is_in_the_junit_file(tmp_path, capsys):
    path = tmp_path / "junit.xml"
    path.write_text("of an older run")
    assert main(["up", "-i", "/no/such", "--junit", str(path)]) == ExitCode.USAGE
    assert "There is no inventory /no/such" in path.read_text()


def test_a_project_with_another_collection_is_one_sentence(tmp_path, capsys):
    collection = tmp_path / FOLDER
    (collection / "plugins").mkdir(parents=True)
    assert main(["up", "--project", str(tmp_path)]) == ExitCode.USAGE
    assert capsys.readouterr().err == (
        f"magi: The collection magi.models is missing in {collection}: restore it, or install magi-models again.\n"
    )


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("verb", [[], *([name] for name in verbs())])
def test_help(verb, option, capsys):
    assert main([*verb, option]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert f"Usage: magi {' '.join(verb)}".rstrip() in out
    assert err == ""


COMMANDS = {(name,): command for name, command in zip(verbs(), app.registered_commands, strict=True)} | {
    (name, command.name or command.callback.__name__): command
    for name, module in (("profile", profile), ("key", key))
    for command in module.app.registered_commands
}
EXAMPLES = {
    (*verb, example): command
    for verb, command in COMMANDS.items()
    for example in command.epilog.removeprefix("Examples:  ").split("  ·  ")
}


@pytest.mark.parametrize("verb", COMMANDS, ids=" ".join)
def test_the_help_of_a_verb_shows_examples(verb, capsys):
    main([*verb, "--help"])
    assert f"Examples: magi {' '.join(verb)}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example[-1])
def test_the_examples_are_commands_that_are_understood(example, monkeypatch):
    """Each is parsed to its end, and nothing runs."""
    *verb, line = example
    magi, *words = shlex.split(line.split("|")[0].split(">")[0])
    assert (magi, words[: len(verb)]) == ("magi", verb)
    command = EXAMPLES[example]
    called = []
    monkeypatch.setattr(command, "callback", _recorder(command.callback, called))
    assert main(words) == 0
    assert called


def _recorder(callback, called):
    import functools

    @functools.wraps(callback)
    def record(*_arguments, **given):
        called.append(given)

    return record


PASSED_ON = {
    "--inventory": (["gpu1,gpu2,"], {"inventory": ("gpu1,gpu2,",)}),
    "--limit": (["gpu1:!gpu2"], {"limit": "gpu1:!gpu2"}),
    "--extra-vars": (["a=1", "--extra-vars", "b=2"], {"extra_vars": ("a=1", "b=2")}),
    "--verbose": (["-vv"], {"verbosity": 3}),
    "--check": ([], {"check": True}),
    "--diff": ([], {"diff": True, "verbosity": 1}),  # shown by Ansible itself
    "--tags": (["plan,health"], {"tags": "plan,health"}),
}
COMMON = ("--inventory", "--limit", "--extra-vars", "--verbose")
PLAYBOOKS = {
    ("prepare",): ("prepare", (*COMMON, "--check")),
    ("up",): ("site", (*COMMON, "--check", "--diff", "--tags")),
    ("plan",): ("plan", COMMON),
    ("status",): ("status", COMMON),
    ("routes",): ("routes", COMMON),
    ("top",): ("top", COMMON),
    ("health",): ("health", COMMON),
    ("stop",): ("stop", (*COMMON, "--check")),
    ("down",): ("teardown", (*COMMON, "--check", "--diff")),
    ("discover",): ("discover", COMMON),
    ("config",): ("config", COMMON),
    ("doctor",): ("doctor", COMMON),
    ("logs", "a"): ("logs", COMMON),
    ("ask", "a", "Why?"): ("ask", COMMON),
    ("key", "list"): ("keys", COMMON),
    ("key", "add", "a"): ("keys", COMMON),
    ("key", "revoke", "a"): ("keys", COMMON),
}


@pytest.mark.parametrize("verb", PLAYBOOKS, ids=" ".join)
def test_a_verb_runs_its_playbook_and_passes_its_options_on_to_ansible(verb, run, capsys):
    playbook, names = PLAYBOOKS[verb]
    command = typer.main.get_command(app).commands[verb[0]]
    command = getattr(command, "commands", {}).get(verb[1] if len(verb) > 1 else "", command)
    offered = {param.opts[0] for param in command.params if getattr(param, "rich_help_panel", None)}
    assert offered == {*names}
    for name in names:
        values, expected = PASSED_ON[name]
        main([*verb, name, *values])
        (ran, options, _variables) = run.calls.pop()
        assert (ran, replace(options, environment={})) == (playbook, Options(**expected))


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["up"], {}),
        (["up", "production", "--strict"], {"profile": "production", "model_server_strict": True}),
        (["plan", "production"], {"profile": "production"}),
        (["health"], {}),
        (["health", "--deep"], {"deep": True}),
        (["stop"], {}),
        (["stop", "a", "b"], {"model_server_stop_instances": ["a", "b"]}),
        (["logs", "a"], {"instance": "a", "lines": 100, "follow": False}),
        (["logs", "a", "-n", "3", "-f"], {"instance": "a", "lines": 3, "follow": True}),
        (["ask", "openai/gpt:4@x", "Why?", "--max-tokens", "3"], {"model": "openai/gpt:4@x", "max_tokens": 3}),
        (["ask", "--instance", "a", "Why?"], {"instance": "a", "max_tokens": 512}),
        (["key", "list"], {}),
        (["key", "revoke", "a"], {"model_gateway_key": {"state": "absent", "name": "a"}}),
    ],
)
def test_what_a_verb_gives_its_playbook(arguments, variables, run, monkeypatch, capsys):
    main(arguments)
    ((_playbook, _options, given),) = run.calls
    given.pop("question_file", None)  # its name differs each time
    assert given == variables


@pytest.mark.parametrize(
    ("looks", "code", "said"),
    [
        ([], 130, "magi: Stopped before the first look at the hosts ended; nothing was changed.\n"),
        ([(3, "a")], 3, "a\n"),
        ([(0, "a"), (3, "b")], 3, "a\nb\n"),
        ([(3, "a"), HostUnreachable("Not reached: gpu1."), (0, "c")], 0, "a\n✗ Not reached: gpu1.\nc\n"),
        ([(0, "a"), MagiError("No.")], 1, "a\n✗ No.\n"),
    ],
)
def test_watching_ends_as_the_last_look(looks, code, said, monkeypatch, capsys):
    """Each look shows a word; Ctrl-C comes during the look after the last."""
    left = iter(looks)

    def fake_status(session):
        look = next(left, None)
        if look is None:
            signal.raise_signal(signal.SIGINT)
            assert session.stop.is_set()
            raise Interrupted("Stopped by a signal.")
        if isinstance(look, Exception):
            raise look
        return Result({}, ExitCode(look[0]), told=lambda _document: [look[1]])

    monkeypatch.setattr("magi.verbs.status", fake_status)
    monkeypatch.setattr("threading.Event.wait", lambda *_arguments: None)
    assert main(["status", "--watch"]) == code
    assert capsys.readouterr() == ("", said)


def test_the_document_has_every_verb_and_its_json():
    text = (ROOT / "docs" / "controller.md").read_text()
    verbs_, json_ = text.partition("## Options")[0], text.partition("## JSON")[2].partition("\n## ")[0]
    assert {*re.findall(r"^\| \[?`magi (\w+)", verbs_, re.MULTILINE)} == {verb[0] for verb in COMMANDS}
    cells = re.findall(r"^\| (`.*?) \|", json_, re.MULTILINE)
    documented = {name for cell in cells for name in re.findall(r"`([a-z ]+)`", cell)}
    assert documented == {*map(" ".join, COMMANDS)} - {"serve"}  # whose answers are in docs/serve.md


def test_help_imports_nothing_that_takes_long():
    code = (
        "import sys; from magi.cli import main; code = main(['up', '--help']); "
        "heavy = {'ansible', 'ansible_runner', 'ansible_collections', 'rich.live', 'asyncio', 'fastapi', 'yaml'} & {*sys.modules}; "
        "print(sorted(heavy), file=sys.stderr); sys.exit(code)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "[]\n")


@pytest.mark.parametrize("arguments", [[], ["profile"], ["key"]])
def test_without_a_verb_help_is_shown(arguments, capsys):
    assert main(arguments) == ExitCode.USAGE
    assert "".join(capsys.readouterr()).lstrip().startswith(" ".join(["Usage: magi", *arguments]))


def test_the_version(capsys):
    assert main(["--version"]) == ExitCode.OK
    assert capsys.readouterr() == (f"magi {version('magi-models')}\n", "")


@pytest.mark.parametrize("question", ["\udcff", "-"])
def test_a_question_that_is_no_utf_8(question, monkeypatch, capsys):
    """On the command line, Python turns a byte that is not UTF-8 into half of a surrogate pair."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding="utf-8"))
    assert main(["ask", "a", question]) == ExitCode.USAGE
    assert capsys.readouterr().err == "magi: The question is not UTF-8: convert it to UTF-8.\n"


def test_a_defect_is_one_sentence_with_the_place_of_its_trace(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("magi.verbs.up", lambda _session: 1 / 0)
    assert main(["up"]) == ExitCode.FAILED
    log = tmp_path / "magi" / "defect.log"
    said = f"magi: Internal error (ZeroDivisionError: division by zero): please report it with {log}.\n"
    assert capsys.readouterr().err == said
    assert "Traceback" in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_to_end_says_so_at_once(number, monkeypatch, capsys):
    def fake_up(session):
        for _ in range(2):  # people in a hurry press twice
            signal.raise_signal(number)
        assert session.stop.is_set()
        raise Interrupted("Stopped by a signal.")

    monkeypatch.setattr("magi.verbs.up", fake_up)
    assert main(["up"]) == ExitCode.INTERRUPTED
    assert capsys.readouterr().err == "Stopping; Ansible gets 10 seconds to end.\nmagi: Stopped by a signal.\n"


def test_under_nohup_a_hang_up_ends_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = threading.Event()
    try:
        with stopping(stop):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not stop.is_set()


def test_whoever_stops_reading_gets_no_stack_trace(tmp_path: Path):
    """As in ``magi up --help | head -1``: the pipe closes before anything is written."""
    result = subprocess.run(
        ["bash", "-c", f"exec {sys.executable} -m magi up --help > >(exit)"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("arguments", "stream"), [(["up", "--help"], "stdout"), (["nope"], "stderr")])
def test_a_slow_reader_gets_everything(arguments, stream):
    """Even if the pipe is full when we write, and somebody made it non-blocking."""
    command = [sys.executable, "-m", "magi", *arguments]
    expected = subprocess.run(command, capture_output=True, check=False)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    filled = 0
    with suppress(BlockingIOError):
        while True:
            filled += os.write(writing, bytes(512))
    with subprocess.Popen(command, **{stream: writing}) as process:
        # Without us, it ends at once. Else it has to wait for us: the pipe's flags are those of us both.
        until(lambda: os.get_blocking(writing) or process.poll() is not None, 30, "it waits for its reader")
        os.close(writing)
        with open(reading, "rb") as reader:
            received = reader.read()
    assert received == bytes(filled) + getattr(expected, stream)
    assert process.returncode == expected.returncode


def test_a_terminal_whose_program_has_ended_is_closed_without_a_pause(monkeypatch):
    monkeypatch.setattr(PtyProcess, "delayafterclose", None, raising=False)  # monkeypatch undoes what is set here
    close_at_once()
    pauses: list[float] = []
    monkeypatch.setattr("ptyprocess.ptyprocess.time.sleep", pauses.append)
    child = pexpect.spawn("true")
    child.expect(pexpect.EOF)
    child.wait()
    child.close()
    assert pauses == [0]
    assert child.exitstatus == 0


@pytest.mark.parametrize("arguments", [["--project", str(ROOT), "plan"], ["plan", "--project", str(ROOT)]])
def test_the_project_may_be_named_before_the_verb_or_behind_it(arguments, run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run.recording = "plan"
    main(arguments)
    assert run.projects == [ROOT]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("magi up pro", "production"),
        ("magi profile show fast", "fast-only"),
        ("magi profile validate dev", "development"),
        ("magi --project /nowhere up pro", ""),
    ],
)
def test_a_shell_completes_profiles(words, offered, tmp_path):
    assert completed(words, tmp_path) == [offered] * bool(offered)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("magi logs a", ["a", "a-2"]),
        ("magi stop b", ["b"]),
        ("magi stop a b", ["b"]),
        ("magi ask --instance a-", ["a-2"]),
        ("magi --project /nowhere logs a", []),
    ],
)
def test_a_shell_completes_instances_that_were_seen(words, offered, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    seen = {name: host(name, instances=instances) for name, instances in (("gpu1", ("a", "b")), ("gpu2", ("a-2",)))}
    catalog.save(catalog.path_of(Project(ROOT), ()), seen)
    assert completed(words, tmp_path) == offered


def test_a_shell_completes_models_that_were_seen(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    catalog.save(catalog.path_of(Project(ROOT), ()), {"gpu1": host("gpu1")})
    assert completed("magi fit ll", tmp_path) == ["llama-3.2-3b-q4_k_m"]


@pytest.mark.parametrize("given", ["cache_type_k", "=1", ""])
def test_an_option_to_fit_has_a_value(given, capsys):
    assert main(["fit", "a", "--option", given]) == 2
    assert "give KEY=VALUE, such as --option cache_type_k=q8_0." in capsys.readouterr().err


def completed(words, home):
    """Return what a shell offers behind the last of ``words``."""
    environment = {
        "_MAGI_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")),
        "PATH": os.defpath, "PYTHONPATH": str(ROOT / "src"), "XDG_STATE_HOME": str(home), "HOME": str(home),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "magi"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout.split()
