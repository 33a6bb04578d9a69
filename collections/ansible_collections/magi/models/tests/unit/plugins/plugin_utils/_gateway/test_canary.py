from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._config.profile import Canary
from ansible_collections.magi.models.plugins.module_utils._haproxy.stats import Counted
from ansible_collections.magi.models.plugins.module_utils._host.values import Generation
from ansible_collections.magi.models.plugins.module_utils._llama.cause import Cause
from ansible_collections.magi.models.plugins.module_utils._plan.values import Action, ActionResult
from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import HostResult
from ansible_collections.magi.models.plugins.plugin_utils._gateway.canary import (
    FEW,
    Clients,
    Watched,
    alone,
    canaries,
    compared,
    first_instances,
    since,
    undecided,
    unwell,
    waited,
    worse,
)
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import host, plan, running

PLAN = plan("a-q2_k")
(INSTANCE,) = PLAN.instances
NAME = INSTANCE.name


def deployed(name="one", action=ActionKind.RESTART, **more):
    after = host(running(INSTANCE, health=200, model_ids=(NAME,)))
    outcome = ActionResult(Action(NAME, action, "changed"), ready=True)
    return HostResult(name, **{"plan": PLAN, "results": (outcome,), "after": after, **more})


def later(**more):
    return host(running(INSTANCE, health=200, model_ids=(NAME,), **more))


def count(requests, failed=0, first_byte_ms=100):
    return Counted("s", requests, failed, first_byte_ms)


@pytest.mark.parametrize(
    ("numbers", "actions", "first"),
    [
        (1, "rkr", "0"),
        (2, "rkr", "02"),
        (5, "rks", "02"),
        (1, "kkk", ""),
    ],
)
def test_the_first_hosts_are_of_those_that_launch_something(numbers, actions, first):
    kinds = {"r": ActionKind.RESTART, "k": ActionKind.KEEP, "s": ActionKind.START}
    plans = {
        str(i): replace(PLAN, generation=Generation(3, began_at=1.5), actions=(Action(NAME, kinds[kind], ""),))
        for i, kind in enumerate(actions)
    }
    assert "".join(canaries(plans, Canary(numbers))) == first
    for generation in (Generation(), Generation(3)):  # there is nothing to go back to, or it is not remembered
        new = {name: replace(item, generation=generation) for name, item in plans.items()}
        assert canaries(new, Canary(numbers)) == ()


SEVERAL = plan("a-q2_k", "b-q3_k_m", "c-q4_k_m")
A, B, C = (item.name for item in SEVERAL.instances)


def acts(kinds, ports=None):
    """Return the plan that does this with a, b and c, and with d, which it does not want; and the host before."""
    kind = {"r": ActionKind.RESTART, "k": ActionKind.KEEP, "s": ActionKind.START, "x": ActionKind.STOP}
    names = [A, B, C, "d"]
    there = [
        running(instance, port=(ports or {}).get(instance.name, instance.port))
        for instance, does in zip(SEVERAL.instances, kinds)
        if does != "s"
    ]
    if kinds[3:]:
        there.append(running(SEVERAL.instances[0], name="d", port=8099))
    actions = tuple(Action(name, kind[does], "why") for name, does in zip(names, kinds))
    return replace(SEVERAL, actions=actions), host(*there)


@pytest.mark.parametrize(
    ("kinds", "number", "ports", "first"),
    [
        ("rrr", 1, {}, [A]),
        ("krr", 1, {}, [B]),
        ("rrr", 2, {}, [A, B]),
        ("rrr", 3, {}, []),  # all of them
        ("rkk", 1, {}, []),  # there is nothing else
        ("kkk", 1, {}, []),
        ("srk", 1, {}, [B]),  # what starts may need what the others have yet
        ("ssk", 1, {}, [A]),  # which end nowhere
        ("sskx", 1, {}, []),
        ("rrkx", 1, {}, [A]),
        ("rrr", 1, {A: 8085}, [B]),  # another may have its new port yet
        ("rsk", 1, {A: 8085}, []),
    ],
)
def test_the_first_instances_of_a_host(kinds, number, ports, first):
    value, now = acts(kinds, ports)
    assert first_instances(value, now, Canary(number)) == tuple(first)
    moving = replace(now, instances=(*now.instances, running(SEVERAL.instances[0], name="e", manager="docker")))
    lost = replace(now, instances=(*now.instances, running(SEVERAL.instances[0], name="e", state="orphaned")))
    for other in (moving, lost):  # then all end
        assert first_instances(value, other, Canary(number)) == ()


def test_what_comes_first_leaves_the_others_as_they_are():
    value, now = acts("rrsx")
    part = alone(value, now, (A,))
    assert [item.name for item in part.instances] == [A]
    assert [item.name for item in part.kept] == [B, "d"]
    assert [(item.instance, item.action) for item in part.actions] == [
        (A, ActionKind.RESTART),
        (B, ActionKind.KEEP),
        ("d", ActionKind.KEEP),
    ]
    assert {item.reason for item in part.actions[1:]} == {f"until {A} was watched"}
    # one that does not run now is no server, and what is left of it stays
    stopped = replace(now, instances=tuple(replace(item, pid=None) for item in now.instances))
    assert (alone(value, stopped, (A,)).kept, len(alone(value, stopped, (A,)).actions)) == ((), 3)


def test_the_other_instance_on_a_host_is_what_the_first_one_is_compared_with():
    value = plan({"model": "a-q2_k", "instances": 2})
    first, other = value.instances
    part = alone(
        replace(value, actions=tuple(Action(item.name, ActionKind.RESTART, "") for item in value.instances)),
        host(running(first), running(other, pid=101)),
        (first.name,),
    )
    outcomes = tuple(ActionResult(item, ready=True) for item in part.actions)
    after = host(running(first, health=200, model_ids=(first.model_id,)), running(other, pid=101))
    watched = {"one": Watched(HostResult("one", part, outcomes, after), after, {first.name: "", other.name: ""})}
    own, others = ("one", first.name), ("one", other.name)
    clients = Clients({own: [count(0)], others: [count(0)]}, {own: [count(20, 5)], others: [count(40)]})
    assert worse(watched, [], [clients]) == {
        "one": f"instance {first.name}: 5 of its 20 requests failed, and 0 of 40 of the other servers of its model"
    }


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (Watched(deployed()), ""),
        (Watched(deployed(), later(), {NAME: ""}), ""),
        (Watched(deployed(trouble=Cause("host_failed", "its disk is full; free some"))), "its disk is full"),
        (Watched(deployed(plan=None)), "it has no plan"),
        (
            Watched(deployed(results=(ActionResult(Action(NAME, ActionKind.START, ""), cause=Cause("x", "y; z")),))),
            f"instance {NAME} is not ready: y",
        ),
        (Watched(deployed(), later(pid=101)), f"instance {NAME} crashed while it was watched"),
        (Watched(deployed(), later(pid=None, state="failed")), f"instance {NAME} crashed while it was watched"),
        (Watched(deployed(), host()), f"instance {NAME} crashed while it was watched"),
        (
            Watched(deployed(), later(), {NAME: "it answered nothing; see its log"}),
            f"instance {NAME}: it answered nothing",
        ),
        (Watched(deployed(), lost="it can't be reached"), "it can't be reached"),
        # what was not launched is not on trial
        (Watched(deployed(action=ActionKind.KEEP), host(), {NAME: "nothing"}), ""),
    ],
)
def test_what_is_wrong_with_one_by_itself(seen, said):
    assert unwell("one", seen) == said


@pytest.mark.parametrize(
    ("mine", "others", "said"),
    [
        (count(20), count(40), ""),
        (count(20, 2), count(40), "2 of its 20 requests failed, and 0 of 40 of the others"),
        (count(20, 1), count(40), ""),  # one alone may be chance
        (count(100, 4), count(100, 3), ""),
        (count(100, 30), count(100, 20), "30 of its 100 requests failed, and 20 of 100 of the others"),
        (count(20, 0, 701), count(40), "its answers began after 0.70 s, and those of the others after 0.10 s"),
        (count(20, 0, 700), count(40), ""),
        (count(20, 0, 490), count(40, 0, 5), ""),
        (count(4, 4), count(40), ""),  # too few to tell
        (count(20, 20), count(4), ""),
        (count(4, 0, 9000), count(40), ""),
    ],
)
def test_answers_are_compared(mine, others, said):
    assert compared(mine, others, "the others") == said


@pytest.mark.parametrize(
    ("mine", "said"),
    [
        (count(4, 4), ""),
        (count(4, 0, 1500), ""),
        (count(4, 0, 1501), "its answers began after 1.50 s, and those of the others after 0.10 s"),
        (count(2, 0, 1501), "its answers began after 1.50 s, and those of the others after 0.10 s"),
        (count(1, 0, 9000), ""),
    ],
)
def test_a_few_answers_of_a_longer_watch_tell_something_if_they_are_far_off(mine, said):
    assert compared(mine, count(40), "the others", least=FEW) == said


def busy(requests, waiting, first_byte_ms=0, begun=None):
    return Counted("s", requests, 0, first_byte_ms, requests if begun is None else begun, waiting)


@pytest.mark.parametrize(
    ("after", "late", "requests", "first_byte_ms", "said"),
    [
        # both wait all the time
        (busy(0, 2), busy(0, 2), 2, 30_000, "its answers began after 30.00 s or later"),
        # one was answered, after 20 s; another may have come in its place
        (busy(0, 2), busy(1, 2, 20_000), 2, 25_000, "its answers began after 25.00 s or later"),
        (busy(2, 2, 20_000), busy(4, 2, 20_000), 4, 20_000, "its answers began after 20."),
        # one alone may have asked for much
        (busy(0, 1), busy(0, 1), 1, 30_000, ""),
        # one is a long stream, which has begun
        (busy(0, 0, begun=2), busy(0, 0, begun=2), 0, 0, ""),
        (busy(0, 1), busy(0, 0, begun=1), 0, 0, ""),
        (busy(3, 1, 100), busy(9, 1, 100), 9, 100, ""),
    ],
)
def test_requests_that_wait_for_a_slow_server_count_as_answers_that_are_late(
    after, late, requests, first_byte_ms, said
):
    found = waited([busy(0, 0)], [after], [late], 30)
    assert (found.requests, found.first_byte_ms) == (requests, pytest.approx(first_byte_ms, rel=0.02))
    own, other = ("one", NAME), ("two", NAME)
    gateway = Clients(
        {own: [busy(0, 0)], other: [count(50)]}, {own: [after], other: [count(90)]}, {own: [late]}, seconds=30
    )
    watched = {"one": Watched(deployed(), later(), {NAME: ""})}
    why = worse(watched, [deployed("two")], [gateway]).get("one", "")
    assert (bool(why), why.startswith(said and f"instance {NAME}: {said}")) == (bool(said), True)


@pytest.mark.parametrize(
    ("mine", "theirs", "until"),
    [
        (busy(13, 2), 90, 15),
        (busy(14, 1), 90, 15),
        (busy(15, 2), 90, None),  # there are enough
        (busy(13, 0), 90, None),  # none comes
        (busy(13, 2), 54, None),  # the others have none to compare with
    ],
)
def test_who_answered_too_few_to_tell_is_watched_on(mine, theirs, until):
    own, other = ("one", NAME), ("two", NAME)
    gateway = Clients({own: [busy(10, 0)], other: [count(50)]}, {own: [mine], other: [count(theirs)]})
    found = undecided([deployed()], [deployed("two")], gateway)
    assert found == ({own: until} if until else {})
    # without others, it is compared with what was before
    assert undecided([deployed()], [], gateway) == ({own: 15} if mine.waiting and mine.requests < 15 else {})
    assert undecided([deployed(action=ActionKind.KEEP)], [deployed("two")], gateway) == {}


def test_the_first_answers_of_a_pool_wait_for_its_models():
    value = plan(pools=[{"name": "small", "models": ["a-q2_k", "d-q4_1"]}])
    (pool,) = (item for item in value.instances if item.members)
    now = running(pool, health=200, model_ids=("a-q2_k", "d-q4_1"), models={"a-q2_k": "loaded", "d-q4_1": "unloaded"})
    outcome = ActionResult(Action("small", ActionKind.RESTART, "changed"), ready=True)
    result = HostResult("one", value, results=(outcome,), after=host(now))
    watched = {"one": Watched(result, host(now), {"small": ""})}
    own, other = ("one", "small"), ("two", NAME)
    for others in ([], [deployed("two")]):  # which serves one of its models
        for failed, said in ((0, False), (5, True)):
            after = {own: [count(90, failed, 30_000)], other: [count(90)]}
            found = worse(watched, others, [Clients({own: [count(50)], other: [count(50)]}, after)])
            assert bool(found) == said
            assert "began" not in found.get("one", "")
    # nor is one compared with those of a pool that has its model
    single = {"one": Watched(deployed(), later(), {NAME: ""})}
    mine, theirs = ("one", NAME), ("two", "small")
    after = {mine: [count(90, 0, 30_000)], theirs: [count(90)]}
    clients = Clients({mine: [count(50)], theirs: [count(50)]}, after)
    assert worse(single, [replace(result, name="two")], [clients]) == {}
    assert "began" in worse(single, [], [clients])["one"]
    # a model that can't be loaded
    broken = replace(now, models={"a-q2_k": "loaded", "d-q4_1": "failed"})
    assert unwell("one", Watched(result, host(broken))) == (
        "instance small: of its models, d-q4_1 could not be loaded, or crashed"
    )


@pytest.mark.parametrize("was", [0, 3, 100, 511, 512, 5000])
@pytest.mark.parametrize("new", [1, 5, 60, 600])
@pytest.mark.parametrize(("old_ms", "new_ms"), [(100, 100), (50, 800), (900, 100)])
def test_what_was_done_since_is_found_in_a_mean_that_forgets_slowly(was, new, old_ms, new_ms):
    """HAProxy's own arithmetic (swrate_add and swrate_avg of freq_ctr.h, stats.c)."""
    window, total = 512, 0

    def mean(requests):
        return (total + min(requests, window) - 1) // max(1, min(requests, window))

    for _number in range(was):
        total += old_ms - (total + window - 1) // window
    before = count(was, 1, mean(was) if was else 0)
    for _number in range(new):
        total += new_ms - (total + window - 1) // window
    after = count(was + new, 3, mean(was + new))
    found = since([before], [after])
    assert (found.requests, found.failed) == (new, 2)
    # A mean comes as whole milliseconds, and the fewer are new among many, the less is seen of them.
    step = min(was + new, window) / new + 1
    assert abs(found.first_byte_ms - new_ms) <= max(0.35 * new_ms, 2 * step)


def test_servers_are_compared_with_the_others_of_their_model_and_else_with_what_was_before():
    watched = {"one": Watched(deployed(), later(), {NAME: ""})}
    own, other = ("one", NAME), ("two", NAME)
    gateway = Clients({own: [count(50)], other: [count(50)]}, {own: [count(90, 10, 100)], other: [count(90)]})
    alone = {"one": f"instance {NAME}: 10 of its 40 requests failed, and 0 of 50 of the one before it"}
    both = {"one": f"instance {NAME}: 10 of its 40 requests failed, and 0 of 40 of the other servers of its model"}
    assert worse(watched, [], [gateway]) == alone
    assert worse(watched, [deployed("two")], [gateway]) == both
    assert worse(watched, [deployed("two")], []) == {}
    assert worse(watched, [deployed("two")], [Clients({}, {}), gateway]) == both
    assert worse({"one": Watched(deployed())}, [deployed("two")], []) == {}
