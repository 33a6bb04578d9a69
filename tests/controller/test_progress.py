"""How far a deployment is, from events; and the lines about it without a terminal."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from magi.cli.live import picture, shown
from magi.events import Event
from magi.progress import FAILED, LEFT, READY, RUNNING, STARTING, STEPS, WAITING, Progress

from . import recorded
from .recorded import Q2, Q3

LAUNCH = "magi.models.llama_instances"


def plan(**actions: str) -> dict:
    """A plan by instance; "new" is an instance without an action in the plan."""
    return {
        "instances": [{"name": name} for name in actions],
        "actions": [{"instance": name, "action": action} for name, action in actions.items() if action != "new"],
    }


def fold(*events: Event) -> Progress:
    progress = Progress()
    for item in events:
        progress.add(item)
    return progress


PLANNED = Event("ok", host="gpu1", result={"plan": plan(a="start", b="keep", c="quarantine", d="new")})


@pytest.mark.parametrize(
    ("events", "states"),
    [
        ([], {"a": WAITING, "b": RUNNING, "c": LEFT, "d": WAITING}),
        (
            [Event("start", host="gpu1", action=LAUNCH)],
            {"a": STARTING, "b": RUNNING, "c": LEFT, "d": STARTING},
        ),
        (
            [
                Event(
                    "ok",
                    host="gpu1",
                    action=LAUNCH,
                    result={
                        "actions": [
                            {"instance": "a", "action": "start", "cause": ""},
                            {"instance": "d", "action": "restart", "cause": "bad_option"},
                            {"instance": "old", "action": "stop", "cause": ""},
                        ]
                    },
                )
            ],
            {"a": RUNNING, "b": RUNNING, "c": LEFT, "d": FAILED},
        ),
        (
            [
                Event(
                    "ok",
                    host="gpu1",
                    result={"host": {"instances": [{"name": "a", "health": 200}, {"name": "b", "health": 503}]}},
                )
            ],
            {"a": READY, "b": RUNNING, "c": LEFT, "d": WAITING},
        ),
    ],
)
def test_the_states_of_instances(events, states):
    assert fold(PLANNED, *events).hosts["gpu1"].instances == states


def test_a_recorded_deployment_goes_through_each_state():
    progress, seen = Progress(), []
    for item in recorded.events("up"):
        progress.add(item)
        states = dict(progress.host("localhost").instances)
        if states and (not seen or seen[-1] != states):
            seen.append(states)
    assert seen == [
        {Q2: WAITING, Q3: WAITING},
        {Q2: STARTING, Q3: STARTING},
        {Q2: READY, Q3: FAILED},
    ]
    assert progress.step == 5
    assert "Connection refused" in progress.hosts["gone"].problem
    assert progress.hosts["localhost"].problem == ""


def test_a_step_is_never_taken_back():
    assert fold(Event("task", task="[4/5] Launching servers"), Event("task", task="[1/5] Model discovery")).step == 4


def test_a_task_of_no_step_names_the_verb():
    assert fold(Event("task", task="magi.models.model_server : Read what runs")).verb == "Read what runs"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (Event("failed", host="a", result={"msg": "port\ntaken"}), "port taken"),
        (Event("failed", host="a", result={"msg": "Host a: port taken"}), "port taken"),
        (Event("failed", host="a", result={"msg": "x"}, ignored=True), ""),
        (Event("failed", host="a", task="Verdict", result={"msg": "x"}), ""),
    ],
)
def test_the_problem_of_a_host(given, problem):
    assert fold(given).hosts["a"].problem == problem


def told(*events: Event, terminal: bool = False, steps: bool = True, verbosity: int = 0) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, soft_wrap=True, highlight=False)
    with shown(console, "magi up p", steps=steps, verbosity=verbosity) as on_event:
        for item in events:
            on_event(item)
    return console.file.getvalue()


def test_without_a_terminal_each_step_is_a_line_and_said_once():
    lines = told(*recorded.events("up")).splitlines()
    assert [line for line in lines if line.startswith("[")] == [f"[{n}/5] {name}" for n, name in STEPS.items()]
    assert [line for line in lines if line.startswith("gone: ")] == lines[1:2] == ["gone: failed (reason below)"]


def test_without_a_terminal_there_are_no_colours():
    assert "\x1b" not in told(*recorded.events("up"))


@pytest.mark.parametrize("steps", [True, False])
def test_a_run_that_fails_leaves_no_spinner_but_the_step_where_it_ended(steps):
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with pytest.raises(RuntimeError), shown(console, "magi up p", steps=steps) as on_event:
        on_event(Event("task", task="[3/5] Filtering enabled models"))
        raise RuntimeError
    shown_last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue().rpartition("\x1b[2K")[2])
    assert [line[:5] for line in shown_last.split("\n")[1:] if line] == (
        ["✔ [1/", "✔ [2/", "✗ [3/", "· [4/", "· [5/"] if steps else []
    )


HOSTILE = "[link=http://x]\x1b]0;owned\x07\x1b[2J[/] :bomb:"


def test_what_a_host_says_is_never_markup_nor_a_control_sequence():
    text = told(Event("failed", host="a", result={"msg": HOSTILE}), terminal=True)
    assert "✗ [link=http://x]\\x1b]0;owned\\x07\\x1b[2J[/] :bomb:" in text
    assert "\x1b]0" not in text


def test_with_verbosity_ansible_speaks_itself():
    text = told(Event("message", text="PLAY [x]"), Event("task", task="[1/5] Model discovery"), verbosity=1)
    assert text == "PLAY [x]\n"


def test_the_picture_on_a_terminal_shows_steps_hosts_and_instances():
    console = Console(file=io.StringIO(), width=120)
    console.print(picture(fold(*recorded.events("up")), "magi up p"))
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert lines[:6] == ["magi up p", *(f"✔ [{n}/5] {name}" for n, name in STEPS.items())]
    assert f"● {Q2}  ✗ {Q3}" in lines[7]
    assert lines[8].startswith("gone") and "✗" in lines[8]


def test_a_narrow_terminal_keeps_a_mark_with_its_instance():
    console = Console(file=io.StringIO(), width=50)
    console.print(picture(fold(*recorded.events("up")), "magi up p"))
    hosts = [line.rstrip() for line in console.file.getvalue().splitlines()][7:9]
    assert [line.split("  ")[-1].strip() for line in hosts] == [f"● {Q2}", f"✗ {Q3}"]
