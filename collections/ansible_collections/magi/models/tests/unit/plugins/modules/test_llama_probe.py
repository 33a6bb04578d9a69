from __future__ import annotations

import json

from ansible_collections.magi.models.plugins.module_utils._plan.pool import pool_text
from ansible_collections.magi.models.plugins.modules.llama_probe import of_pool
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import FakeServer, model, plan


def test_of_a_pool_those_models_are_asked_that_are_in_memory():
    models = [model("a"), model("e", task="embedding"), model("z")]
    (pool,) = (x for x in plan("z", models=models, pools=[{"name": "p", "models": ["a", "e"]}]).instances if x.members)
    said = [{"id": name, "status": {"value": state}} for name, state in (("a", "unloaded"), ("e", "loaded"))]
    with FakeServer({"/v1/models": (200, json.dumps({"data": said}).encode())}) as server:
        where = {**server.environment, "MAGI_POOL": pool_text(pool.members)}
        assert of_pool("p", where) == [("p", {**where, "LLAMA_ARG_EMBEDDINGS": "on"}, "e")]
    assert of_pool("p", where) == []  # it answers nobody
