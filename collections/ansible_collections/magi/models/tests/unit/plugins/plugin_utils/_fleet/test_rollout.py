from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._llama.cause import Cause
from ansible_collections.magi.models.plugins.module_utils._plan.values import Action, ActionResult
from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import HostResult
from ansible_collections.magi.models.plugins.plugin_utils._fleet.rollout import Rollout, held_back, roll_out
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import (
    host,
    plan,
    running,
)

IDLE, BUSY = False, True


@pytest.mark.parametrize(
    ("serving", "serial", "order", "batches"),
    [
        # all together, in the inventory's order
        ([BUSY, IDLE, BUSY], ["100%"], "012", [3]),
        ([IDLE, IDLE, IDLE], [1], "012", [3]),
        # hosts that nobody misses go first
        ([BUSY, IDLE, BUSY, IDLE], [1], "1302", [2, 1, 1]),
        ([BUSY, IDLE, BUSY, IDLE], [5], "1302", [2, 2]),
        ([BUSY, BUSY, BUSY], [1], "012", [1, 1, 1]),
        ([BUSY, BUSY, BUSY], [2], "012", [2, 1]),
        ([BUSY] * 5, [1, 2], "01234", [1, 2, 2]),
        ([BUSY] * 4, ["50%"], "0123", [2, 2]),
        ([BUSY] * 4, [1, "100%"], "0123", [1, 3]),
        ([BUSY] * 3, ["10%"], "012", [1, 1, 1]),
        ([BUSY], [3], "0", [1]),
    ],
)
def test_order_and_batches(serving, serial, order, batches):
    rollout = roll_out({str(i): runs for i, runs in enumerate(serving)}, serial)
    assert "".join(rollout.order) == order
    assert list(rollout.batches) == batches
    assert sum(batches) == len(serving)


@pytest.mark.parametrize(
    ("serial", "apart", "order", "batches"),
    [
        (["100%"], [["0", "2"], ["1"]], "021", [2, 1]),
        (["100%"], [["1"], ["2"]], "012", [2, 1]),
        (["100%"], [["0", "1", "2"]], "012", [3]),
        ([1], [["2"], ["1"], ["0"]], "012", [1, 1, 1]),
    ],
)
def test_servers_of_a_model_restart_apart_unless_batches_are_given(serial, apart, order, batches):
    rollout = roll_out({str(i): BUSY for i in range(3)}, serial, apart)
    assert ("".join(rollout.order), list(rollout.batches)) == (order, batches)


@pytest.mark.parametrize(
    ("serving", "serial", "apart", "canary", "order", "batches"),
    [
        ([BUSY, BUSY, BUSY], ["100%"], [], "1", "102", [1, 2]),
        ([BUSY, BUSY, BUSY], [1], [], "0", "012", [1, 1, 1]),
        ([BUSY, IDLE, BUSY], [1], [], "2", "210", [1, 1, 1]),
        ([BUSY, BUSY, BUSY], ["100%"], [["0"], ["1"], ["2"]], "0", "012", [1, 1, 1]),
        ([BUSY, BUSY], ["100%"], [], "01", "01", [2]),
        ([BUSY], [1], [], "0", "0", [1]),
    ],
)
def test_canaries_come_first(serving, serial, apart, canary, order, batches):
    rollout = roll_out({str(i): runs for i, runs in enumerate(serving)}, serial, apart, [*canary])
    assert ("".join(rollout.order), list(rollout.batches)) == (order, batches)


@pytest.mark.parametrize(("name", "before"), [("a", ()), ("b", ()), ("c", ("a", "b")), ("d", ("c",))])
def test_the_batch_before_a_host(name, before):
    assert Rollout(("a", "b", "c", "d"), (2, 1, 1)).before(name) == before


PLAN = plan("a-q2_k")
(INSTANCE,) = PLAN.instances


def became(name, now, action=ActionKind.RESTART, health=200):
    results = [ActionResult(Action("a-q2_k", action, "changed"))]
    return HostResult(name, PLAN, results, host(replace(now, health=health)), 120)


GOOD = became("good", running(INSTANCE, model_ids=("a-q2_k",)))
SLOW = became("slow", running(INSTANCE, model_ids=("a-q2_k",)), health=503)
BROKEN = became("broken", running(INSTANCE, pid=None, state="failed", log=("error: invalid argument: --x",)))
OLD = became("old", running(INSTANCE, pid=None, state="failed"), action=ActionKind.QUARANTINE)
HELD = HostResult(
    "held",
    PLAN,
    trouble=Cause("held_back", "not deployed, because in an earlier batch x failed: y; fix that and run again"),
)
WORSE = replace(GOOD, name="worse", worse=Cause("taken_back", "instance a-q2_k crashed; it is back: run again"))
LOST = HostResult("lost", PLAN, trouble=Cause("host_unreachable", "it can't be reached; bring it back and run again"))


@pytest.mark.parametrize(
    ("batch", "percentage", "named"),
    [
        ([], 0, []),
        ([GOOD, GOOD], 0, []),
        ([GOOD, SLOW], 0, ["slow failed: a-q2_k (timeout)"]),
        ([GOOD, BROKEN], 0, ["broken failed: a-q2_k (bad_option)"]),
        ([GOOD, LOST], 0, ["lost failed: it can't be reached"]),
        ([SLOW, LOST], 0, ["slow failed", "lost failed"]),
        # a second run does not take what broke this batch to the next
        ([OLD], 0, ["old failed: a-q2_k (crashed)"]),
        # as many failures as allowed, and one more
        ([GOOD, LOST], 50, []),
        ([GOOD, LOST], 49, ["lost"]),
        ([LOST, LOST], 50, ["lost"]),
        ([LOST], 100, []),
        # but no canary
        ([WORSE], 100, ["worse failed: instance a-q2_k crashed"]),
        # a batch that was held back holds back the next, in the same words
        ([HELD, HELD], 0, ["x failed: y"]),
    ],
)
def test_a_rollout_goes_no_further_after_a_batch_that_failed(batch, percentage, named):
    said = held_back(batch, percentage)
    assert bool(said) is bool(named)
    assert not said or said.startswith("not deployed, because in an earlier batch ")
    assert said.count("run again") == bool(named)
    for text in named:
        assert text in said
