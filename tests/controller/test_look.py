"""logs, ask, stop and down on the command line, with invented runs."""

from __future__ import annotations

import json

import pytest

from magi.cli import main
from magi.errors import ExitCode
from magi.events import Event, Run

from .known import ROOT

TASK, STATS = Event("task", "Logs", "Read"), Event("stats", result={})
LOG = Event("ok", host="gpu1", result={"instances": ["a"], "log": ["loaded"]})
GONE = Event("unreachable", host="gpu2", result={"msg": "no route"})


@pytest.fixture
def magi(monkeypatch, tmp_path, capsys):
    """Run the command line on the events of a run; return exit code, standard output and standard error."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def magi(events: tuple[Event, ...], *arguments: str) -> tuple[int, str, str]:
        def fake_run(_project, _playbook, _options, _variables, *, on_event, stop):
            for event in events:
                on_event(event)
            return Run(0, events)

        monkeypatch.setattr("magi.session.run", fake_run)
        return (main(list(arguments)), *capsys.readouterr())

    return magi


def test_a_log_beside_a_host_that_is_gone(magi):
    code, out, err = magi((TASK, LOG, GONE, STATS), "logs", "a")
    assert (code, out) == (ExitCode.UNREACHABLE, "loaded\n")
    assert err.splitlines() == [
        "gpu2: failed (reason below)",
        "magi: Not reached: gpu2: no route. Bring them back and run again.",
    ]
    code, out, _err = magi((TASK, LOG, GONE, STATS), "logs", "a", "--json")
    assert (code, json.loads(out)) == (ExitCode.UNREACHABLE, {"instance": "a", "hosts": {"gpu1": ["loaded"]}})


BROKEN = Event("failed", host="gpu2", result={"msg": "Host gpu2: there is no journal."})
NONE = Event("ok", host="gpu1", result={"instances": ["b"], "log": None})
UP = Event("ok", host="gpu1", result={"host": {"instances": [{"name": "a"}]}})
ANSWER = Event(
    "ok",
    host="gpu1",
    text="ok: [gpu1]",
    result={"text": "Paris", "reasoning": "", "finish_reason": "stop", "tokens": 2, "tokens_per_second": None},
)
NO_ROUTE = "magi: Not reached: gpu2: no route. Bring them back and run again."
NO_JOURNAL = "magi: Host gpu2: there is no journal."


@pytest.mark.parametrize(
    ("events", "verb", "code", "key", "said"),
    [
        ((LOG, BROKEN), "logs", 1, "hosts", [NO_JOURNAL]),
        ((LOG, GONE), "logs", 5, "hosts", [NO_ROUTE]),
        ((LOG, BROKEN, Event("unreachable", host="gpu3", result={"msg": "off."})), "logs", 5, "hosts",
         ["magi: Not reached: gpu3: off. Bring them back and run again. Host gpu2: there is no journal."]),
        ((GONE,), "logs", 5, "error", [NO_ROUTE]),
        ((Event("ok", host="gpu1", result={"settings": {}}), GONE), "logs", 5, "error", [NO_ROUTE]),
        ((NONE, BROKEN), "logs", 1, "error", [NO_JOURNAL]),  # gpu2 may have it
        ((NONE, GONE), "logs", 5, "error", [NO_ROUTE]),
        ((NONE,), "logs", 2, "error", ["magi: There is no instance a on gpu1; there are b."]),
        ((UP, ANSWER, BROKEN), "ask", 1, "text", ["gpu1: 2 tokens", NO_JOURNAL]),
        ((UP, ANSWER, GONE), "ask", 5, "text", ["gpu1: 2 tokens", NO_ROUTE]),
        ((UP, BROKEN), "ask", 1, "error", [NO_JOURNAL]),
        ((UP, GONE), "ask", 5, "error", [NO_ROUTE]),
    ],
)  # fmt: skip
def test_a_host_that_is_lost_hides_nothing_of_the_others(magi, events, verb, code, key, said):
    arguments = (verb, "a", *(["Where?"] if verb == "ask" else []))
    got, out, err = magi((TASK, *events, STATS), *arguments)
    assert got == code
    assert bool(out.strip()) == (key == "hosts")  # an answer is shown as it is written, and there is none here
    assert [line for line in err.splitlines() if "(reason below)" not in line] == said
    got, out, _err = magi((TASK, *events, STATS), *arguments, "--json")
    assert got == code
    assert key in json.loads(out)


def ended(host: str, *stopped: str, there: tuple[str, ...] = ()) -> Event:
    """What llama_instances returns when it stops or removes instances."""
    actions = [{"instance": name, "action": "stop", "reason": "asked for"} for name in stopped]
    return Event("ok", host=host, result={"actions": actions, "instances": list(there or stopped)})


@pytest.mark.parametrize(
    ("events", "arguments", "code", "said"),
    [
        ([ended("gpu1", "a", there=("a", "b"))], ["stop", "a"], 0, ["gpu1: stop a"]),
        ([ended("gpu1", there=("a",))], ["stop", "a"], 0, ["Nothing was stopped."]),  # it is stopped already
        ([ended("gpu1")], ["stop"], 0, ["Nothing was stopped."]),
        ([ended("gpu1")], ["down"], 0, ["Nothing was removed."]),
        ([ended("gpu1", "a"), ended("gpu2", "b")], ["stop", "a", "b"], 0, ["gpu1: stop a", "gpu2: stop b"]),
        (
            [ended("gpu1", there=("llama-q4",)), ended("gpu2", there=("x",))],
            ["stop", "lama-q4"],
            2,
            ["magi: There is no instance lama-q4 on gpu1, gpu2; did you mean llama-q4?"],
        ),
        (
            [ended("gpu1")],
            ["stop", "a"],
            2,
            ["magi: There is no instance a on gpu1: nothing is deployed there; run magi up."],
        ),
        (
            [ended("gpu1", "a", there=("a", "xyz"))],
            ["stop", "a", "xy", "yz"],
            2,
            [
                "gpu1: stop a",
                "magi: There is no instance xy on gpu1; did you mean xyz? "
                "There is no instance yz on gpu1; did you mean xyz?",
            ],
        ),
        (
            [ended("gpu1", there=("a",)), GONE],  # gpu2 may have it
            ["stop", "b"],
            5,
            ["Nothing was stopped.", "magi: Not reached: gpu2: no route. Bring them back and run again."],
        ),
    ],
)
def test_what_was_stopped_and_a_name_that_no_host_has(magi, events, arguments, code, said):
    got, out, err = magi((TASK, *events, STATS), *arguments)
    assert (got, out) == (code, "")
    assert [line for line in err.splitlines() if not line.startswith("gpu2: failed")] == said


def test_the_document_of_a_stop_with_a_wrong_name(magi):
    code, out, _err = magi((TASK, ended("gpu1", there=("ab",)), STATS), "stop", "abc", "--json")
    assert (code, json.loads(out)["error"]["exit_code"]) == (2, 2)
    code, out, _err = magi((TASK, ended("gpu1", "ab"), STATS), "stop", "ab", "abc", "--json")
    assert (code, [item["instance"] for item in json.loads(out)["hosts"]["gpu1"]]) == (2, ["ab"])


PLAY = Event("task", text="\nTASK [read it] ***")
FOLLOWED = (
    TASK,
    PLAY,
    Event("start", host="gpu1"),
    Event("message", text="gpu1 | first\ngpu1 | second"),
    LOG,
    STATS,
)
ANSWERED = (
    TASK,
    PLAY,
    *(Event("message", text=json.dumps({"text": text})) for text in ("Par", "is")),
    ANSWER,
    STATS,
)


@pytest.mark.parametrize(
    ("events", "arguments", "out", "quiet", "verbose"),
    [
        (FOLLOWED, ("logs", "a", "-f"), "first\nsecond\n", "", "TASK [read it] ***\n"),
        (
            ANSWERED,
            ("ask", "a", "Where?"),
            "Paris\n",
            "gpu1: 2 tokens\n",
            "TASK [read it] ***\nok: [gpu1]\ngpu1: 2 tokens\n",
        ),
    ],
)
def test_ansible_speaks_only_where_it_was_asked_to(magi, events, arguments, out, quiet, verbose):
    assert magi(events, *arguments) == (0, out, quiet)
    assert magi(events, *arguments, "-v") == (0, out, verbose)
