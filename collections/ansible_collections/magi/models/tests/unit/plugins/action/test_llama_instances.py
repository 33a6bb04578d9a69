from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.action.llama_instances import joined, part_of
from ansible_collections.magi.models.plugins.plugin_utils._fleet.stand_in import stand_in
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import host, model, names, plan, running

MODELS = [model("a"), model("b"), model("c")]
OLD = {item.name: running(item) for item in plan("a", "c", models=MODELS).instances}
PLAN = plan("a", "b", models=MODELS, on=host(replace(OLD["a"], config_hash="old"), OLD["c"]))
STANDS_IN = stand_in(PLAN.instances[0], 8085, ())


@pytest.mark.parametrize(
    ("given", "instances", "actions"),
    [
        # in one call
        ((None, ()), ["a", "b"], {"a": "restart", "b": "start", "c": "stop"}),
        # in two
        ((["b"], ()), ["b"], {"b": "start"}),
        ((None, ["b"]), ["a", "b"], {"a": "restart", "b": "keep", "c": "stop"}),
        # in three, if something stands in: it is in no plan, and so its files are in none of the other two
        ((["b", STANDS_IN.name], (), [STANDS_IN]), ["b", STANDS_IN.name], {"b": "start", STANDS_IN.name: "start"}),
        (
            (None, ["b", STANDS_IN.name], [STANDS_IN]),
            ["a", "b"],
            {"a": "restart", "b": "keep", "c": "stop", STANDS_IN.name: "keep"},
        ),
        (
            (None, ["a", "b", "c"], [STANDS_IN], True),
            ["a", "b"],
            {"a": "keep", "b": "keep", "c": "keep", STANDS_IN.name: "stop"},
        ),
    ],
)
def test_each_call_does_its_part(given, instances, actions):
    *first, relieves = given if len(given) == 4 else (*given, False)
    part = part_of(PLAN, *first, relieves=relieves)
    assert names(part) == instances
    assert {item.instance: item.action.value for item in part.actions} == actions


def test_a_server_ends_before_its_workers_and_starts_again_with_the_rest():
    part = part_of(PLAN, ["a"], (), ends=True)
    assert names(part) == []
    assert {item.instance: item.action.value for item in part.actions} == {"a": "stop"}
    workers = replace(PLAN, instances=PLAN.instances[:1], workers=PLAN.instances[1:])
    part = part_of(workers, ["b"], ())
    assert (names(part), [item.name for item in part.workers]) == ([], ["b"])


def test_what_each_call_did_is_joined():
    def done(**actions):
        return {name: {"action": action, "cut": cut} for name, (action, cut) in actions.items()}

    ended, workers = done(a=("stop", 3)), done(w=("start", 0), v=("stop", 0))
    first = joined(ended, workers, all_done=False)
    assert first == [ended["a"], workers["w"], workers["v"]]
    before = {"a": ended["a"], **workers}
    last = done(a=("restart", 0), w=("keep", 0), v=("stop", 0), b=("start", 0))
    assert joined(before, last, all_done=True) == [
        {"action": "restart", "cut": 3},
        workers["w"],
        last["v"],
        last["b"],
    ]
    kept = done(a=("keep", 0))
    assert joined(ended, kept, all_done=True) == [ended["a"]]
