from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.table import text_table


@pytest.mark.parametrize(
    ("rows", "numbers", "lines"),
    [
        ([["1\n2", "x"], ["long", ""]], (), ["a     bb", "----  --", "1\\n2  x", "long"]),
        ([["x", 7], ["y", 1000]], {"bb"}, ["a    bb", "-  ----", "x     7", "y  1000"]),
        ([], (), ["a  bb", "-  --"]),
    ],
)
def test_a_table(rows, numbers, lines):
    assert text_table(["a", "bb"], rows, numbers) == lines
