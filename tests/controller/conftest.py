"""What tests of the API and of the console have in common."""

from __future__ import annotations

from pathlib import Path

import pytest

from magi.web import Service

from ..playbook import copy_profiles
from .fake_run import FakeRun
from .known import ROOT


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRun:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("magi.project.Project.is_bare", False)
    fake = FakeRun()
    monkeypatch.setattr("magi.session.run", fake)
    return fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy_profiles(tmp_path / "profiles")
    return tmp_path / "profiles"


@pytest.fixture
def service(run: FakeRun, folder: Path) -> Service:
    return Service(project=ROOT, profiles=folder, allowed_hosts=["127.0.0.1", "models.lan"])  # as the command line does
