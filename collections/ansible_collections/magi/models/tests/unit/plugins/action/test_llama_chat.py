from __future__ import annotations

import json

import pytest
from ansible_collections.magi.models.plugins.action.llama_chat import serving


def host(*instances):
    """Return a look at a host with these instances: name, what it lists, and the models of a pool with their
    aliases."""
    found = []
    for name, model_ids, *models in instances:
        members = [
            {"model": model, "tier": "", "task": "chat", "slots": "", "aliases": aliases}
            for model, aliases in (models[0] if models else {}).items()
        ]
        environment = {"MAGI_POOL": json.dumps(members)} if members else {}
        found.append({"name": name, "model_ids": model_ids, "environment": environment})
    return {"host": {"instances": found}}


@pytest.mark.parametrize(
    ("looked", "serves"),
    [
        (host(("a", ["a"])), True),
        (host(("b", ["b"]), ("a", ["a"])), True),
        (host(("a", None)), False),
        (host(("a", ["other"])), False),
        (host(("b", ["b"])), False),
        (host(("pool", ["a", "b"], {"a": [], "b": []})), True),
        (host(("pool", ["b", "a"], {"b": ["a"]})), True),
        (host(("pool", ["other"], {"a": []})), False),
        (host(("a", ["b"], {"b": []})), True),  # the module says what to ask for instead
        (host(("a", None, {"b": []})), False),
        ({"unreachable": True}, False),
        ({}, False),
    ],
)
def test_who_serves_is_who_answers_to_the_name(looked, serves):
    assert serving("a", {"gpu1": looked}) == (["gpu1"] if serves else [])
