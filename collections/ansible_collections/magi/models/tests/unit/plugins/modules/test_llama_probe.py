from __future__ import annotations

import json

import pytest
from ansible_collections.magi.models.plugins.module_utils._plan.pool import pool_text
from ansible_collections.magi.models.plugins.modules.llama_probe import of_pool
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import FakeServer, model, plan

POOL = plan(
    "z",
    models=[model("a"), model("e", task="embedding"), model("z")],
    pools=[{"name": "p", "models": ["a", "e"]}],
).instances[-1]


def asked(load=False, **states):
    """Return what is asked of a pool whose models are in these states."""
    said = [{"id": name, "status": {"value": state, "failed": state == "failed"}} for name, state in states.items()]
    with FakeServer({"/v1/models": (200, json.dumps({"data": said}).encode())}) as server:
        where = {**server.environment, "MAGI_POOL": pool_text(POOL.members)}
        found = of_pool("p", where, load=load)
    assert of_pool("p", where, load=load) == []  # it answers nobody
    assert all(
        item == ("p", {**where, **({"LLAMA_ARG_EMBEDDINGS": "on"} if item[2] == "e" else {})}, item[2])
        for item in found
    )
    return [item[2] for item in found]


def test_of_a_pool_those_models_are_asked_that_are_in_memory():
    assert asked(a="unloaded", e="loaded") == ["e"]
    assert asked(load=True, a="unloaded", e="loaded") == ["e"]
    assert asked(a="loaded", e="loaded") == ["a", "e"]
    assert asked(a="unloaded", e="sleeping") == []


@pytest.mark.parametrize(
    ("states", "model"),
    [
        (("unloaded", "unloaded"), "a"),
        (("unloaded", "sleeping"), "e"),
        (("unloaded", "loading"), "e"),
        (("failed", "unloaded"), "e"),
        (("failed", "failed"), "a"),
    ],
)
def test_one_is_loaded_to_be_asked_where_that_is_wanted(states, model):
    assert asked(load=True, **dict(zip("ae", states))) == [model]
