from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._haproxy import runtime
from ansible_collections.magi.models.plugins.module_utils._haproxy.runtime import (
    RefusedError,
    await_empty,
    drain,
    enable,
    forget,
    routed_keys,
)
from ansible_collections.magi.models.plugins.module_utils._haproxy.sockets import Sockets

SOCKETS = Sockets.at(str)
ALONE = "1 master 0\n# workers\n7 worker 0\n"
WITH_OLD = ALONE + "# old workers\n5 worker 1\n"


def stat(*rows):
    return "\n".join(["# pxname,svname,qcur,scur,", *(f"{','.join(map(str, row))}," for row in rows), ""])


EMPTY = stat(("a", "s", 0, 0), ("a", "BACKEND", 0, 0))
BUSY = stat(("a", "s", 0, 2), ("a", "BACKEND", 1, 3))


@pytest.fixture
def said(monkeypatch):
    """What HAProxy answers, by command; a list is its answers one after the other. Keeps the commands."""
    answers = {"asked": []}

    def fake_ask(path, command):
        answers["asked"].append(command)
        answer = answers.get(command, "\n")
        return answer.pop(0) if isinstance(answer, list) and len(answer) > 1 else answer

    monkeypatch.setattr(runtime, "ask", fake_ask)
    return answers


@pytest.mark.parametrize(
    ("proc", "now", "old", "left"),
    [
        (ALONE, EMPTY, None, 0),
        (ALONE, BUSY, None, 2),
        # what waits in a process of before, too
        (WITH_OLD, EMPTY, BUSY, 3),
        (WITH_OLD, BUSY, EMPTY, 2),
        (WITH_OLD, EMPTY, EMPTY, 0),
        # one that has just ended
        (WITH_OLD, EMPTY, "Can't find the target CLI!\n", 0),
        # without an answer, nothing is known
        (None, EMPTY, None, -1),
        (ALONE, None, None, -1),
        (WITH_OLD, EMPTY, None, -1),
    ],
)
def test_requests_in_flight_are_those_of_all_processes(said, proc, now, old, left):
    said.update({"show proc": proc, "show stat": now, "@!5 show stat": old})
    assert await_empty(SOCKETS, ["a/s"], ["a/s"], [], 0) == left


def test_what_waits_in_a_backend_that_is_left_counts(said):
    said.update({"show proc": ALONE, "show stat": BUSY})
    assert await_empty(SOCKETS, [], [], ["a"], 0) == 1
    assert await_empty(SOCKETS, [], [], ["b"], 0) == 0


def test_it_waits_until_none_is_left(said):
    said.update({"show proc": ALONE, "show stat": [BUSY, None, BUSY, EMPTY]})
    assert await_empty(SOCKETS, ["a/s"], ["a/s"], [], 10) == 0
    assert said["asked"].count("show stat") == 4


@pytest.mark.parametrize("answer", [None, "No such server.\n"])
def test_a_command_that_is_not_taken_is_an_error(said, answer):
    said["set server a/s state drain"] = answer
    with pytest.raises(RefusedError, match="set server a/s state drain: "):
        drain("stats", ["a/s"])


def test_what_haproxy_is_told(said):
    said["del map routes.map gone"] = "Key not found.\n"
    drain("stats", ["a/s"])
    forget("stats", ["a", "gone"])
    enable("stats", ["b/t"])
    assert said["asked"] == [
        "set server a/s state drain",
        "del map routes.map a",
        "del map routes.map gone",
        "set server b/t state ready",
        "set server b/t health up",
    ]


def test_the_names_that_are_routed_now(said):
    said["show map routes.map"] = "0x55 a%20b be\n0x56 c be\n\n"
    assert routed_keys("stats") == {"a%20b", "c"}
    said["show map routes.map"] = None
    assert routed_keys("stats") is None
