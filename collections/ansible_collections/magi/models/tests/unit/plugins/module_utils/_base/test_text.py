from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.text import counted, printable


@pytest.mark.parametrize(("number", "text"), [(0, "0 hosts"), (1, "1 host"), (2, "2 hosts")])
def test_counted(number, text):
    assert counted(number, "host") == text


@pytest.mark.parametrize(
    ("text", "shown"), [("ä b", "ä b"), ("a\x1b[2J\n", "a\\x1b[2J\\n"), ("\u202ex\udcff", "\\u202ex\\udcff")]
)
def test_printable(text, shown):
    assert printable(text) == shown
