"""From ansible-runner's events to ours."""

from __future__ import annotations

import pytest

from magi.events import Event, Run, complaints, event, said

from . import recorded
from .recorded import Q2

RESULT = {"play": "Deploy", "task": "[4/5] Launching servers", "host": "gpu1", "resolved_action": "magi.models.x"}


def raw(kind: str, stdout: str = "", **data):
    return {"event": kind, "stdout": stdout, "event_data": data}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (raw("playbook_on_play_start", name="Plan"), Event("play", "Plan")),
        (raw("playbook_on_play_start", name="Plan", play="Plan"), Event("play", "Plan")),
        (
            raw("playbook_on_task_start", play="Plan", task="Settle", task_action="a.b.settings", name="Settle"),
            Event("task", "Plan", "Settle", "a.b.settings"),
        ),
        (
            raw("runner_on_ok", "ok: [gpu1]", **RESULT, task_action="x", res={"changed": True}),
            Event(
                "ok",
                "Deploy",
                "[4/5] Launching servers",
                "magi.models.x",
                "gpu1",
                {"changed": True},
                text="ok: [gpu1]",
            ),
        ),
        (
            raw("runner_on_failed", host="gpu1", res={"msg": "no"}, ignore_errors=True),
            Event("failed", host="gpu1", result={"msg": "no"}, ignored=True),
        ),
        (raw("runner_on_failed", host="gpu1", ignore_errors=None), Event("failed", host="gpu1")),
        (raw("runner_on_unreachable", host="gpu1"), Event("unreachable", host="gpu1")),
        (raw("runner_on_skipped", host="gpu1"), Event("skipped", host="gpu1")),
        (raw("playbook_on_no_hosts_matched", "skipping"), Event("no_hosts", text="skipping")),
        (raw("playbook_on_stats", ok={"gpu1": 3}), Event("stats", result={"ok": {"gpu1": 3}})),
        (raw("warning", "[WARNING]: x"), Event("message", text="[WARNING]: x")),
        # An event without one of our names is output, or nothing.
        (raw("playbook_on_include", "included: x"), Event("message", text="included: x")),
        (raw("playbook_on_start"), None),
        (raw("playbook_on_include", " \r\n"), None),
        ({"event": "verbose", "stdout": None}, Event("message")),
        ({"event": "runner_on_ok", "event_data": None}, Event("ok")),
        ({}, None),
        # A module may return something that is not a mapping.
        (raw("runner_on_ok", host="gpu1", res="text"), Event("ok", host="gpu1")),
    ],
)
def test_an_event(given, expected):
    assert event(given) == expected


@pytest.mark.parametrize(
    ("task", "step"),
    [
        ("[1/5] Model discovery", 1),
        ("magi.models.model_server : [4/5] Launching servers", 4),
        ("[3/5] Filtering enabled models: plan", 3),
        ("Read what runs", None),
        ("see [1/5] above", None),
        ("", None),
    ],
)
def test_the_step_of_a_task(task, step):
    assert Event("task", task=task).step == step


def test_the_steps_of_a_recorded_deployment_come_in_their_order():
    steps = [item.step for item in recorded.events("up") if item.kind == "task" and item.step]
    assert steps == sorted(steps)
    assert set(steps) == {1, 2, 3, 4, 5}


def test_a_recorded_deployment():
    run = recorded.run("up")
    assert run.ended
    assert not run.no_hosts
    assert run.failures == []
    assert list(run.unreachable) == ["gone"]
    assert "port 1: Connection refused" in run.unreachable["gone"]
    assert run.last("report")["servers"][0]["instance"] == Q2
    assert [host for host, _result in run.of("models", "registry_path")] == ["localhost"]
    assert run.last("nothing returns this") is None


def test_a_recorded_failure_is_each_hosts():
    run = recorded.run("profile-missing", 2)
    assert run.ended
    assert {item.host for item in run.failures} == {"localhost", "gone"}
    assert {item.action for item in run.failures} == {"magi.models.profile_info"}


@pytest.mark.parametrize(
    ("rc", "kinds", "ended"),
    [
        (0, ["stats"], True),
        (2, ["task", "stats"], True),
        (None, ["stats"], False),
        (0, ["task"], False),
        (0, [], False),
    ],
)
def test_only_a_run_with_a_status_and_statistics_ended(rc, kinds, ended):
    assert Run(rc, tuple(Event(kind) for kind in kinds)).ended is ended


def test_the_last_of_a_key_is_the_newest():
    run = Run(0, (Event("ok", result={"plan": 1}), Event("start"), Event("ok", result={"plan": 2})))
    assert run.last("plan") == 2


def test_an_ignored_failure_is_none():
    assert Run(0, (Event("failed", ignored=True),)).failures == []


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"msg": "a\n  b\tc "}, "a b c"),
        ({}, "it did not say why"),
        ({"msg": None}, "it did not say why"),
        ({"msg": 5}, "5"),
        ({"msg": "No JSON", "module_stderr": "\nsh: python3: not found\nmore"}, "No JSON (sh: python3: not found)"),
        ({"msg": "No JSON", "module_stderr": "\r\n"}, "No JSON"),
        ({"msg": "\x1b]0;owned\x07 \u202ex"}, r"\x1b]0;owned\x07 \u202ex"),
    ],
)
def test_what_a_task_said_is_one_line(result, expected):
    assert said(result) == expected


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["[WARNING]: Unable to parse /x as an inventory source"], ["Unable to parse /x as an inventory source"]),
        (["\x1b[1;35m[WARNING]: a  b\x1b[0m"], ["a b"]),
        (["ERROR! the role 'x' was not found"], ["the role 'x' was not found"]),
        (
            ["[ERROR]: couldn't resolve module/action 'x'.\nOrigin: /y:3:7\n\n3 tasks"],
            ["couldn't resolve module/action 'x'."],
        ),
        (["[WARNING]: a", "[WARNING]: a", "[WARNING]: b"], ["a", "b"]),
        (["PLAY [x] ***", "an ERROR inside", ""], []),
    ],
)
def test_ansibles_complaints(texts, expected):
    assert complaints(Event("message", text=text) for text in texts) == expected
