"""What the gateways say of their keys, also where some of them are lost."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from magi.errors import DeploymentFailed, ExitCode, HostUnreachable, UsageError
from magi.events import Event, Run
from magi.verdict import keys

ALICE = {"name": "alice", "models": ["chat", "qwen*"], "concurrent": 2, "per_minute": None, "expires": "2027-01-31"}
BOB = {"name": "bob", "models": [], "concurrent": None, "per_minute": 60, "expires": None}


def ended(changed: Collection[str] = (), **gateways: Any) -> Run:
    """Return a run in which each gateway has these keys, fails with a message, or can't be reached (None)."""
    events = []
    for host, has in gateways.items():
        kind = "unreachable" if has is None else "failed" if isinstance(has, str) else "ok"
        result = (
            {"keys": has, "in_use": host != "new", "changed": host in changed}
            if kind == "ok"
            else {"msg": has or "No route to host"}
        )
        events.append(Event(kind, "p", "t", "magi.models.model_gateway_key", host, result))
    failures = {host: 1 for host, has in gateways.items() if isinstance(has, str)}
    return Run(0, (*events, Event("stats", result={"failures": failures})))


def test_the_keys_of_all_gateways():
    result = keys.listed(ended(gw1=[ALICE, BOB], new=[]))
    assert result.document["gateways"] == {
        "gw1": {"keys": [ALICE, BOB], "in_use": True},
        "new": {"keys": [], "in_use": False},
    }
    *table, later = result.lines
    assert [line.split() for line in table if line.startswith("gw1")] == [
        ["gw1", "alice", "chat,", "qwen*", "2", "any", "2027-01-31"],
        ["gw1", "bob", "all", "any", "60", "never"],
    ]
    assert later == "Not in use yet on new: the next deployment (magi up) does that."
    assert keys.listed(ended(gw1=[])).lines == ["There are no keys; magi key add NAME makes one."]


def test_a_new_key_is_given_with_the_gateways_that_have_it():
    result = keys.added(ended(gw1=[ALICE]), "alice", "magi-x")
    assert (result.document["key"], result.document["hosts"], result.exit_code) == ("magi-x", ["gw1"], ExitCode.OK)
    assert "is on gw1. It is shown only now: keep it." in result.lines[0]
    half = keys.added(ended(gw1=[ALICE], gw2=None), "alice", "magi-x")
    assert (half.document["hosts"], half.exit_code) == (["gw1"], ExitCode.UNREACHABLE)
    assert "Not reached: gw2" in half.problem
    with pytest.raises(HostUnreachable, match="gw1"):
        keys.added(ended(gw1=None), "alice", "magi-x")
    with pytest.raises(DeploymentFailed, match="has a key alice already"):
        keys.added(ended(gw1="/k has a key alice already; revoke it first."), "alice", "magi-x")


def test_a_key_that_is_taken_away_was_there():
    assert keys.revoked(ended({"gw1"}, gw1=[BOB], gw2=[]), "alice").lines == ["The key alice is gone from gw1, gw2."]
    with pytest.raises(UsageError, match="No gateway has a key 'carol': there are alice, bob; see magi key list"):
        keys.revoked(ended(gw1=[ALICE, BOB], gw2=[BOB]), "carol")
    half = keys.revoked(ended(gw1=[BOB], gw2=None), "carol")  # gw2 may have it
    assert "Not reached: gw2" in half.problem
