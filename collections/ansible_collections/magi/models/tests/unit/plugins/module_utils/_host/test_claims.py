from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.magi.models.plugins.module_utils._host import claims
from ansible_collections.magi.models.plugins.module_utils._host.claims import (
    check_claim,
    claims_file,
    end_claim,
    forget_claims,
    make_claim,
)
from ansible_collections.magi.models.plugins.module_utils._host.lock import ConflictError
from ansible_collections.magi.models.plugins.module_utils._host.values import Claim


def claim(who: str, **more) -> Claim:
    return replace(Claim(who, "here", 7, 5, f"profile of {who}", ("1", "2"), 600), **more)


A, B, C = map(claim, "ABC")


@pytest.fixture(params=["run", "home"])
def home(request, tmp_path, monkeypatch) -> str:
    """The home of a host, with the claims to it below a folder like /run, and inside it."""
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(claims, "RUN", tmp_path / "run")
    monkeypatch.setattr(os, "geteuid", lambda: 0 if request.param == "run" else 1000)
    path = tmp_path / "home"
    assert claims_file(str(path)).is_relative_to(tmp_path / request.param)
    return str(path)


def came(home: str, who: Claim) -> str:
    """Claim; who was before, in lower case if that has ended."""
    return "".join(item.deployment.lower() if item.ended else item.deployment for item in make_claim(home, who)[1])


def test_who_comes_sees_who_came_before_and_keeps_its_place(home):
    assert [came(home, who) for who in (A, B, C)] == ["", "A", "AB"]
    assert [came(home, who) for who in (A, B, C)] == ["", "A", "AB"]


def test_a_claim_is_what_was_given_and_the_time(home):
    mine, before = make_claim(home, A)
    assert replace(mine, at=0) == A
    assert mine.at > 0
    assert before == ()
    assert make_claim(home, B)[1] == (mine,)


def test_one_that_has_ended_is_known_for_a_while_and_begins_behind_the_others(home):
    for who in (A, B):
        make_claim(home, who)
    end_claim(home, A)
    assert came(home, C) == "aB"
    assert came(home, A) == "BC"


@pytest.mark.parametrize("later", [600, -600])
def test_one_that_nobody_ended_counts_as_ended_once_and_is_forgotten(home, monkeypatch, later):
    """By a clock that may be set back."""
    mine, _before = make_claim(home, A)
    monkeypatch.setattr(claims.time, "time", lambda: mine.at + later)
    assert came(home, B) == "a"
    assert came(home, B) == ""
    with pytest.raises(
        ConflictError, match=r"at work: B, with profile profile of B since .*; this one changes nothing"
    ):
        check_claim(home, A, ())


def test_those_of_deployments_that_are_gone_are_forgotten(home):
    for who in (A, B):
        make_claim(home, who)
    forget_claims(home, [A])
    assert came(home, C) == "B"
    forget_claims(home, [B])
    with pytest.raises(ConflictError, match="at work: C"):
        check_claim(home, A, ())


def test_two_processes_of_one_number_are_two_deployments(home):
    make_claim(home, A)
    assert came(home, replace(A, controller_started=6)) == "A"


def test_one_that_is_lost_is_refused(home):
    with pytest.raises(ConflictError, match=r"has lost its claim to the host, .*; run again"):
        check_claim(home, A, ())
    make_claim(home, A)
    check_claim(home, A, ())
    claims_file(home).unlink()  # a restart, or a teardown
    with pytest.raises(ConflictError, match="has lost its claim to the host"):
        check_claim(home, A, ())
    end_claim(home, A)
    forget_claims(home, [A])
    assert not claims_file(home).exists()


def test_one_that_has_ended_is_lost(home):
    make_claim(home, A)
    end_claim(home, A)
    with pytest.raises(ConflictError, match="has lost its claim"):
        check_claim(home, A, ())


def test_who_could_not_claim_the_host_that_decides_gives_way_to_one_that_came_later(home):
    for who in (A, B):
        make_claim(home, who)
    check_claim(home, A, ())
    check_claim(home, A, ("2",))
    check_claim(home, B, ("1",))  # it has seen A, and decided
    with pytest.raises(ConflictError, match="at work: B"):
        check_claim(home, A, ("1",))
    threading.Timer(0.1, end_claim, (home, B)).start()
    check_claim(home, A, ("1",), patience=20)


@pytest.mark.parametrize("content", ["", "{", "[1]", '[{"other": 1}]', "null"])
def test_a_file_that_can_not_be_read_holds_no_claim(home, content):
    make_claim(home, A)
    claims_file(home).write_text(content)
    assert came(home, B) == ""
    assert came(home, C) == "B"


def test_a_shorter_file_leaves_no_rest(home):
    make_claim(home, claim("A", profile="p" * 9000))
    forget_claims(home, [A])
    assert claims_file(home).read_text() == "[]"


MANY = """
import sys
from dataclasses import replace
from pathlib import Path
from ansible_collections.magi.models.plugins.module_utils._host import claims
from ansible_collections.magi.models.plugins.module_utils._host.values import Claim
claims.RUN = Path(sys.argv[2])
for number in range(100):
    mine = Claim(f"{sys.argv[3]} {number}", "here", 7, 5, "p", (), 600)
    print(len(claims.make_claim(sys.argv[1], mine)[1]))
"""


def test_processes_that_come_at_once_get_places_of_their_own(home):
    root = str(Path(__file__).parents[8])
    run = [
        subprocess.Popen(
            [sys.executable, "-c", MANY, home, str(claims.RUN), str(number)],
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": ":".join([root, *sys.path])},
        )
        for number in range(2)
    ]
    places = [int(line) for process in run for line in process.communicate()[0].split()]
    assert sorted(places) == list(range(200))
