from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.text import counted, one_line, printable


@pytest.mark.parametrize(("number", "text"), [(0, "0 hosts"), (1, "1 host"), (2, "2 hosts")])
def test_counted(number, text):
    assert counted(number, "host") == text


@pytest.mark.parametrize(
    ("text", "shown"), [("ä b", "ä b"), ("a\x1b[2J\n", "a\\x1b[2J\\n"), ("\u202ex\udcff", "\\u202ex\\udcff")]
)
def test_printable(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("{{ lookup('pipe', 'touch X') }} %n $HOME", "{{ lookup('pipe', 'touch X') }} %n $HOME"),
        ("a\n[Service]\nExecStart=x", "a [Service] ExecStart=x"),
        ("\x1b[31mred\x1b[0m\0", "[31mred [0m"),
        ("right\u202eleft", "right left"),
        ("x" * (1 << 20), "x" * 200),
        (" \n\t ", None),
        (4711, None),
    ],
)
def test_names_that_files_give_themselves_become_one_line(value, expected):
    assert one_line(value) == expected
