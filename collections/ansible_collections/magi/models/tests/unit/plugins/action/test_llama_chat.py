from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.action.llama_chat import serving


def host(*instances):
    """Return a look at a host with these instances: name, what it lists, and the models of a pool."""
    keys = ("name", "model_ids", "models")
    return {"host": {"instances": [{"models": None, **dict(zip(keys, item))} for item in instances]}}


@pytest.mark.parametrize(
    ("looked", "serves"),
    [
        (host(("a", ["a"])), True),
        (host(("b", ["b"]), ("a", ["a"])), True),
        (host(("a", None)), False),
        (host(("a", ["other"])), False),
        (host(("b", ["b"])), False),
        (host(("pool", ["a", "b"], {"a": "unloaded", "b": "loaded"})), True),
        (host(("pool", ["other"], {"a": "unloaded"})), False),
        ({"unreachable": True}, False),
        ({}, False),
    ],
)
def test_who_serves_is_who_answers_to_the_name(looked, serves):
    assert serving("a", {"gpu1": looked}) == (["gpu1"] if serves else [])
