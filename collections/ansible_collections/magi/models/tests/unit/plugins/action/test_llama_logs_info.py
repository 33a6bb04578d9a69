from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.action.llama_logs_info import fresh


@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        ([], ["a"], ["a"]),
        (["a", "b"], ["a", "b"], []),
        (["a", "b"], ["a", "b", "c"], ["c"]),
        (["a", "b", "c"], ["b", "c", "d", "e"], ["d", "e"]),  # the window moved
        (["first", "b"], ["rst", "b", "c"], ["c"]),  # and its first line is cut
        (["a", "a"], ["a", "a", "a"], ["a"]),
        (["a", "b"], ["x", "y"], ["x", "y"]),  # started again
        (["a", "b"], [], []),
    ],
)
def test_what_is_new_in_a_log(before, after, new):
    assert list(fresh(before, after)) == new
