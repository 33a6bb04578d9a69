"""logs and ask on the command line, over runs that a fake makes up."""

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
    """Run the command line over the events of a run; returns exit code, standard output and standard error."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def magi(events: tuple[Event, ...], *arguments: str) -> tuple[int, str, str]:
        def fake_run(_project, _playbook, _options, _variables, *, on_event, stop):
            for event in events:
                on_event(event)
            return Run(0, events)

        monkeypatch.setattr("magi.verbs.run", fake_run)
        return (main(list(arguments)), *capsys.readouterr())

    return magi


def test_a_log_beside_a_host_that_is_gone(magi):
    code, out, err = magi((TASK, LOG, GONE, STATS), "logs", "a")
    assert (code, out) == (ExitCode.UNREACHABLE, "loaded\n")
    assert err.splitlines() == [
        "gpu2: failed; the end says why",
        "magi: Not reached: gpu2: no route. Bring them back and run again.",
    ]
    code, out, _err = magi((TASK, LOG, GONE, STATS), "logs", "a", "--json")
    assert (code, json.loads(out)) == (ExitCode.UNREACHABLE, {"instance": "a", "hosts": {"gpu1": ["loaded"]}})


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
    Event(
        "ok",
        host="gpu1",
        text="ok: [gpu1]",
        result={
            "host": {"instances": [{"name": "a"}]},
            "text": "Paris",
            "reasoning": "",
            "finish_reason": "stop",
            "tokens": 2,
            "tokens_per_second": None,
        },
    ),
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
