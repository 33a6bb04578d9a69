"""How a session treats its arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from magi import verbs
from magi.errors import UsageError
from magi.project import Project
from magi.runner.options import Options
from magi.session import Session

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


TAGS = ["discover", "health", "launch", "plan"]


@pytest.mark.parametrize(
    ("given", "unknown"),
    [
        ("plan", ""),
        ("discover,plan", ""),
        ("all", ""),
        ("untagged, health", ""),
        ("x", "x"),
        ("plan,x,y", "x, y"),
        ("", ""),
    ],
)
def test_a_tag_that_no_task_has_is_named_with_those_there_are(given: str, unknown: str, monkeypatch):
    monkeypatch.setattr("magi.session.run", lambda *_given, **_more: pytest.fail("begun"))
    said = rf"--tags: no task has the tag {unknown}; there are {', '.join(TAGS)}\." if unknown or not given else "begun"
    with pytest.raises((UsageError, pytest.fail.Exception), match=said):
        verbs.up(Session.of(ROOT, Options(tags=given)))


def test_the_tags_of_a_project_are_those_of_its_tasks(tmp_path: Path):
    assert Project(ROOT).tags() == TAGS
    for path, text in {
        "playbooks/site.yml": "- hosts: all\n  tags: a, b\n  tasks: [{block: [{tags: [c, always]}], rescue: [{tags: d}]}]\n",
        "roles/mine/tasks/main.yml": "- debug: {msg: !unsafe x}\n  tags: e\n",
        "playbooks/empty.yml": "",
        "playbooks/broken.yml": "- [",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert Project(tmp_path).tags() == sorted([*"abcde", *TAGS])  # its collection is magi's own


def test_the_tags_are_in_the_documents():
    text = (ROOT / "docs" / "fleet.md").read_text()
    assert [tag for tag in TAGS if f"| `{tag}` |" not in text] == []
    assert "[fleet.md](fleet.md) lists the tags" in (ROOT / "docs" / "controller.md").read_text()
