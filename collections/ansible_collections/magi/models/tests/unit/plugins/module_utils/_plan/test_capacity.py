from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._plan.capacity import share_cores


@pytest.mark.parametrize(
    ("cores", "claims", "shares"),
    [
        (2, [None] * 4, [1, 1, 1, 1]),
        (8, [None, None], [4, 4]),
        (8, [None, None, None], [3, 3, 2]),
        (8, [6, None, None], [6, 1, 1]),
        (8, [8, None], [8, 1]),
        (8, [2], [2]),
        (8, [], []),
        (1, [None, 3, None], [1, 3, 1]),
    ],
)
def test_cores_are_shared_out(cores, claims, shares):
    assert share_cores(cores, claims) == shares
