"""What a session makes of what it is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from magi.runner import Options
from magi.verbs import Session

from .known import ROOT

VAULT = "$ANSIBLE_VAULT;1.1;AES256\n6162\n"


@pytest.mark.parametrize("content", ["a: 1\n", "---\na: !vault x\n", '{"a": 1}', '{"a":\t1}', VAULT])
def test_a_file_of_variables_is_that_of_the_working_directory(content: str, tmp_path: Path, monkeypatch):
    (tmp_path / "mine.yml").write_text(content)
    monkeypatch.chdir(tmp_path)
    session = Session.of(ROOT, Options(extra_vars=("@mine.yml",)))
    assert session.options.extra_vars == (f"@{tmp_path / 'mine.yml'}",)


@pytest.mark.parametrize("given", ["a=1", "a='b c' d=\"e\"", '{"a": {"b": "{{ c }}"}}', "{a: b}", "a={{ b }}", ""])
def test_other_variables_stay_as_they_were_given(given: str):
    assert Session.of(ROOT, Options(extra_vars=(given,))).options.extra_vars == (given,)
