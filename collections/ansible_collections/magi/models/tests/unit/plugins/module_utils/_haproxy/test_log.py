from __future__ import annotations

import json

import pytest
from ansible_collections.magi.models.plugins.module_utils._haproxy.log import first_tokens

LINE = {"time": "2026-01-01T00:00:10Z", "server": "gpu1::a", "status": 200, "queue_ms": 20, "first_byte_ms": 300}
SINCE = 1767225605.0  # 2026-01-01T00:00:05Z


def test_the_wait_for_a_slot_counts():
    said = [json.dumps(LINE), "[NOTICE] (1) : New worker forked", json.dumps({**LINE, "queue_ms": 0})]
    assert first_tokens(said, SINCE) == {"gpu1::a": [320, 300]}


@pytest.mark.parametrize(
    "other",
    [
        {"time": "2026-01-01T00:00:04Z"},
        {"status": 429},
        {"server": ""},
        {"first_byte_ms": -1},
        {"queue_ms": "x"},
        {"time": None},
    ],
)
def test_what_does_not_count(other):
    assert first_tokens([json.dumps({**LINE, **other})], SINCE) == {}
