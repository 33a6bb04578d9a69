from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.action.llama_chat import serving


def host(*instances):
    return {"host": {"instances": [{"name": n, "model_ids": ids} for n, ids in instances]}}


@pytest.mark.parametrize(
    ("looked", "serves"),
    [
        (host(("a", ["a"])), True),
        (host(("b", ["b"]), ("a", ["a"])), True),
        (host(("a", None)), False),
        (host(("a", ["other"])), False),
        (host(("b", ["b"])), False),
        ({"unreachable": True}, False),
        ({}, False),
    ],
)
def test_who_serves_is_who_answers_to_the_name(looked, serves):
    assert serving("a", {"gpu1": looked}) == (["gpu1"] if serves else [])
