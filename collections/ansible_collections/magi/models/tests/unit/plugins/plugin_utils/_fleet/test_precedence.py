from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._host.values import Claim, Holder
from ansible_collections.magi.models.plugins.plugin_utils._fleet.precedence import Precedence, Seen, precedence

AT = 1795651200.0


def claim(who: str, hosts: str = "1234", **more) -> Claim:
    """The claim of a deployment, whose hosts have names of one letter."""
    return replace(Claim(who, "here", ord(who[0]), 5, f"profile of {who}", tuple(hosts), 600, AT), **more)


def ended(who: str) -> Claim:
    return claim(who, "", ended=True)


@pytest.mark.parametrize(
    ("hosts", "before", "goes_on"),
    [
        # nobody else, nobody any more, nobody at all
        ("12", {"1": [], "2": []}, True),
        ("12", {"1": [ended("B")], "2": [ended("B")]}, True),
        ("12", {}, True),
        # the other was before on the host that decides, or only on another
        ("123", {"1": [claim("B")], "2": [], "3": []}, False),
        ("123", {"1": [], "2": [claim("B")], "3": [claim("B")]}, True),
        ("123", {"1": [claim("B")], "2": [claim("B")], "3": [claim("B")]}, False),
        # it is done with the host that decides, and not with the other
        ("12", {"1": [ended("B")], "2": [claim("B")]}, False),
        # hosts that only one of the two has decide nothing
        ("123", {"1": [], "2": [claim("B", "234")], "3": []}, False),
        ("123", {"1": [], "2": [], "3": [claim("B", "234")]}, True),
        ("23", {"2": [claim("B", "123")], "3": []}, False),
        # the host that decides could not be claimed
        ("123", {"2": [], "3": [claim("B")]}, False),
        ("123", {"2": [], "3": []}, True),
        # the other has another name for the host
        ("12", {"1": [], "2": [claim("B", "xy")]}, False),
        ("12", {"1": [], "2": [claim("B", "1y")]}, False),
        # it is before one of two others, or before both
        ("1234", {"1": [claim("B", "12")], "2": [], "3": [], "4": [claim("C", "34")]}, False),
        ("1234", {"1": [], "2": [claim("B", "12")], "3": [], "4": [claim("C", "34")]}, True),
    ],
)
def test_who_goes_on(hosts: str, before: Mapping[str, Sequence[Claim]], goes_on: bool):
    decided = precedence({name: Seen(claim("A", hosts), tuple(others)) for name, others in before.items()}, 0)
    assert bool(decided.refused) is not goes_on
    assert decided.unreached == (tuple(sorted({*hosts} - {*before})) if before else ())


def test_the_other_is_named_with_profile_time_and_remedy():
    decided = precedence({"1": Seen(claim("A", "1"), (claim("ada@desk, process 7", "1", profile="fast"),))}, 0)
    assert decided == Precedence(
        "another deployment is at work: ada@desk, process 7, with profile fast since 2026-11-26T00:00:00Z; this one "
        "changes nothing: wait for the other, then run again (if it was killed, its claim ends at 2026-11-26T00:10:00Z)"
    )


def test_whoever_changes_a_host_without_a_claim_is_named():
    """A stop, say."""
    seen = {"1": Seen(claim("A", "12")), "2": Seen(claim("A", "12"), at_work=Holder("ada@desk, process 7"))}
    assert precedence(seen, 0).refused == (
        "another deployment is at work: ada@desk, process 7, which is changing 2; this one changes nothing: wait for the "
        "other, then run again"
    )


@pytest.mark.parametrize(
    ("now", "before", "goes_on"),
    [
        (AT + 500, [claim("B")], True),
        # it came while our first claim no longer held
        (AT + 600, [claim("B")], False),
        (AT + 600, [ended("B")], False),
        (AT + 600, [], True),
    ],
)
def test_claims_that_have_lapsed_while_the_last_host_was_read_count_for_nothing(now, before, goes_on):
    mine = claim("A", "12")
    decided = precedence({"1": Seen(mine, claimed_at=AT), "2": Seen(mine, tuple(before), claimed_at=now)}, now)
    assert bool(decided.refused) is not goes_on
    assert decided.unreached == (() if now < AT + 540 else ("1", "2"))


def outcome(hosts: Mapping[str, str], order: Mapping[str, Sequence[str]]) -> set[str]:
    """Which deployments go on, given the hosts of each, and the order in which each host was claimed."""

    def found(who: str) -> dict[str, Seen]:
        return {
            name: Seen(claim(who, hosts[who]), tuple(claim(x, hosts[x]) for x in came[: came.index(who)]))
            for name, came in order.items()
            if who in came
        }

    return {who for who in hosts if not precedence(found(who), 0).refused}


@pytest.mark.parametrize("count", [2, 3])
def test_of_deployments_to_the_same_hosts_exactly_one_goes_on_however_they_come(count: int):
    names = "ABC"[:count]
    for orders in itertools.product(itertools.permutations(names), repeat=3):
        assert len(outcome(dict.fromkeys(names, "123"), dict(zip("123", orders)))) == 1, orders


HOSTS = ("12", "23", "13", "123")


def test_two_that_have_a_host_in_common_never_go_on_both():
    for ours, theirs in itertools.product(HOSTS, repeat=2):
        both = sorted({*ours} & {*theirs})
        for orders in itertools.product(("AB", "BA"), repeat=len(both)):
            order = {**dict.fromkeys(ours, "A"), **dict.fromkeys(theirs, "B"), **dict(zip(both, orders))}
            assert len(outcome({"A": ours, "B": theirs}, order)) == 1, (ours, theirs, order)


def test_those_without_a_host_in_common_go_on():
    assert outcome({"A": "12", "B": "34"}, {"1": "A", "2": "A", "3": "B", "4": "B"}) == {"A", "B"}


def test_two_that_go_on_since_one_could_not_claim_the_host_that_decides_see_each_other_later():
    """That one looks once more before it changes a host (check_claim), and finds the other behind it."""
    together = 0
    for lost in itertools.product(("", "1", "2", "3", "12"), repeat=2):
        missed = dict(zip("AB", lost))
        for orders in itertools.product(("AB", "BA"), repeat=3):
            order = {name: [x for x in came if name not in missed[x]] for name, came in zip("123", orders)}
            if len(outcome({"A": "123", "B": "123"}, order)) == 2:
                together += 1
                (unsure,) = (who for who in "AB" if "1" in missed[who])
                assert all(came[0] == unsure for came in order.values() if len(came) == 2)
    assert together
