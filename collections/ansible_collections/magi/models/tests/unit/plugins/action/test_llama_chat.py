from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.action.llama_chat import serving


def host(*instances):
    return {"__model_server_after": {"host": {"instances": [{"name": n, "model_ids": ids} for n, ids in instances]}}}


@pytest.mark.parametrize(
    ("variables", "serves"),
    [
        (host(("a", ["a"])), True),
        (host(("b", ["b"]), ("a", ["a"])), True),
        (host(("a", None)), False),
        (host(("a", ["other"])), False),
        (host(("b", ["b"])), False),
        ({"__model_server_after": {"unreachable": True}}, False),
        ({}, False),
    ],
)
def test_who_serves_is_who_answers_to_the_name(variables, serves):
    assert serving("a", {"gpu1": variables}) == (["gpu1"] if serves else [])
