"""The controller as an object: what its values say. What it does is tested end to end."""

from __future__ import annotations

import pytest

from magi import Controller, Report
from magi.errors import UsageError
from magi.events import Event, Run

from . import recorded
from .known import ROOT
from .test_verdict import MISSING, report


@pytest.mark.parametrize(
    ("document", "degraded"),
    [
        ({"summary": {}}, False),
        (report(), False),
        (report("host_failed"), True),
        (report(degraded=MISSING), True),
        (recorded.run("status").last("status"), True),
    ],
)
def test_what_counts_as_degraded(document, degraded):
    assert Report.of(document).is_degraded is degraded


def test_servers_are_those_of_the_document():
    document = recorded.run("status").last("status")
    assert [(server.instance, server.url) for server in Report.of(document).servers] == [
        (recorded.Q2, "http://127.0.0.1:18140"),
        (recorded.Q3, "http://127.0.0.1:18141"),
    ]


def test_a_wrong_name_beside_a_right_one_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    stopped = Event("ok", host="gpu1", result={"actions": [{"instance": "a"}], "instances": ["a"]})
    run = Run(0, (Event("task"), stopped, Event("stats")))
    monkeypatch.setattr("magi.verbs.run", lambda *_arguments, **_more: run)
    with pytest.raises(UsageError, match="There is no instance zz on gpu1; there are a"):
        Controller(project=ROOT).stop_sync(["a", "zz"])
