"""What is remembered after a run, and what is passed on in a file."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from magi.events import Event, Run
from magi.project import Project
from magi.runner.options import Options
from magi.state.catalog import load, path_of, remember
from magi.state.questions import passed_by_file

from .known import BINARY, Q2, Q3

PROJECT = Project(Path("/srv/project"))
REGISTRY = {"models": [Q2], "rejected": [], "companions": [], "registry_path": "/r.json"}
HOST = {"host": {"binary": BINARY.to_dict()}}


def run(*results):
    return Run(0, tuple(Event(kind, host=host, result=result) for host, kind, result in results))


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def remembered(options):
    return load(path_of(PROJECT, options.inventory))


def test_a_run_adds_to_what_is_known_and_forgets_hosts_that_are_gone():
    options = Options()
    remember(PROJECT, options, run(("a", "ok", REGISTRY), ("b", "ok", REGISTRY), ("b", "failed", HOST)))
    assert remembered(options).keys() == {"a", "b"}
    remember(PROJECT, options, run(("a", "ok", HOST)))
    assert {name: host.binary for name, host in remembered(options).items()} == {"a": BINARY}
    assert remembered(options)["a"].models == (Q2,)
    remember(PROJECT, options, run(("a", "unreachable", {}), ("b", "ok", REGISTRY)))
    assert remembered(options).keys() == {"a", "b"}


def test_a_limited_run_forgets_nobody():
    remember(PROJECT, Options(), run(("a", "ok", REGISTRY), ("b", "ok", REGISTRY)))
    remember(PROJECT, Options(limit="a"), run(("a", "ok", {**REGISTRY, "models": [Q3]})))
    assert {name: host.models for name, host in remembered(Options()).items()} == {"a": (Q3,), "b": (Q2,)}


def test_inventories_are_known_apart():
    remember(PROJECT, Options(("one",)), run(("a", "ok", REGISTRY)))
    assert remembered(Options(("one",))).keys() == {"a"}
    assert remembered(Options(("two",))) == {}


def test_a_memory_that_can_t_be_written_fails_no_verb(tmp_path):
    (tmp_path / "magi").mkdir()
    (tmp_path / "magi" / "catalogs").write_text("in the way")
    remember(PROJECT, Options(), run(("a", "ok", REGISTRY)))
    assert remembered(Options()) == {}


def test_a_text_is_passed_by_a_file_for_its_user_alone():
    with passed_by_file("{{ x }}\n") as path:
        assert path.read_text() == "{{ x }}\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()
