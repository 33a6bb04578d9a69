"""The command line: what it refuses, with one sentence and exit code 2, and what it costs to ask for help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from magi.cli import app, main
from magi.cli.deploy import EXAMPLES
from magi.errors import ExitCode, HostUnreachable, MagiError

from .known import ROOT


@pytest.fixture(autouse=True)
def nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name in ("MAGI_PROJECT", "MAGI_PROFILE"):
        monkeypatch.delenv(name, raising=False)

    def fake_run(*_arguments, **_more):
        pytest.fail("A playbook would have been run.")

    monkeypatch.setattr("magi.verbs.run", fake_run)


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
        # Ansible would blame the inventory, and print what may be secret.
        (
            ["up", "-e", "@/no/such.yml"],
            "/no/such.yml can't be read (No such file or directory): correct -e @/no/such.yml",
        ),
        (["up", "-e", "@pyproject.toml"], "-e @pyproject.toml, line 2, is neither JSON nor YAML ("),
        (["up", "-e", "./mine.yml"], "-e ./mine.yml names a file: put @ before it, -e @./mine.yml."),
        (["up", "-e", '{"a": canary'], "What -e gives is neither JSON nor YAML (did not find expected"),
        (["up", "-e", '["canary"]'], "What -e gives holds no variables: give a mapping of names and values."),
        (["up", "-e", "a='canary"], "-e a=… has quotes or braces that nothing closes: close them."),
        (["up", "--project", "/no/such"], "/no/such is no magi project (a folder with playbooks/site.yml)"),
        # What goes into Ansible as a variable would be a template there.
        (["up", "{{ lookup('pipe', 'id') }}"], "The profile must be a name of letters, digits"),
        (["up", ""], "The profile must be a name"),
        (["plan", "../production"], "The profile must be a name"),
        (["stop", "a b"], "The instance must be a name"),
        (["stop", "--", "-a"], "The instance must be a name"),
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
        (KeyboardInterrupt(), 130, "Interrupted while no run was at work."),
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


def test_a_project_without_its_collection_is_one_sentence(tmp_path, capsys):
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "playbooks" / "site.yml").touch()
    assert main(["up", "--project", str(tmp_path)]) == ExitCode.USAGE
    assert capsys.readouterr().err == (
        f"magi: The collection magi.models is missing in {tmp_path}: restore collections/ansible_collections/magi/models.\n"
    )


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("verb", [[], *([name] for name in verbs())])
def test_help(verb, option, capsys):
    assert main([*verb, option]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert f"Usage: magi {' '.join(verb)}".rstrip() in out
    assert err == ""


@pytest.mark.parametrize("verb", EXAMPLES)
def test_the_help_of_a_verb_shows_examples(verb, capsys):
    main([verb.__name__, "--help"])
    assert "Examples:" in capsys.readouterr().out


@pytest.mark.parametrize("example", [example for group in EXAMPLES.values() for example in group])
def test_the_examples_are_commands_that_are_understood(example, monkeypatch):
    """Each is parsed to its end; what it would run is not run."""
    words = example.split("|")[0].split(">")[0].split()
    assert words[0] == "magi"
    command = next(item for item in app.registered_commands if item.callback.__name__ == words[1])
    called = []
    monkeypatch.setattr(command, "callback", _recorder(command.callback, called))
    assert main(words[1:]) == 0
    assert called


def _recorder(callback, called):
    import functools

    @functools.wraps(callback)
    def record(*_arguments, **given):
        called.append(given)

    return record


def test_help_imports_nothing_that_takes_long():
    code = (
        "import sys; from magi.cli import main; code = main(['up', '--help']); "
        "heavy = {'ansible', 'ansible_runner', 'ansible_collections', 'rich.live', 'asyncio', 'yaml'} & {*sys.modules}; "
        "print(sorted(heavy), file=sys.stderr); sys.exit(code)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "[]\n")


def test_without_a_verb_help_is_shown(capsys):
    assert main([]) == ExitCode.USAGE
    assert "Usage: magi" in "".join(capsys.readouterr())


def test_whoever_stops_reading_gets_no_stack_trace(tmp_path: Path):
    """As in ``magi up --help | head -1``: the pipe is closed before anything is written."""
    result = subprocess.run(
        ["bash", "-c", f"exec {sys.executable} -m magi up --help > >(exit)"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in result.stderr
