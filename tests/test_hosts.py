"""What the hosts in containers need on this machine: without docker, one sentence says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from .fleet import conftest as fleet


@pytest.fixture
def without_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A machine with Python and nothing else on its PATH."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("MAGI_TESTBED", str(tmp_path / "bed"))
    monkeypatch.delenv("CI", raising=False)


def test_it_says_so_in_one_sentence(without_docker):
    done = subprocess.run([fleet.HOSTS, "up", "--install"], env=os.environ, capture_output=True, text=True)
    assert done.returncode == fleet.NO_DOCKER
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("hosts.py: ")
    assert "install" in line


def test_tests_are_skipped_with_that_sentence(without_docker):
    with pytest.raises(pytest.skip.Exception, match=r"no hosts to test on: hosts\.py: .* can't be installed here"):
        fleet.bring_up(3)


def test_tests_fail_in_ci(without_docker, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(AssertionError, match="can't be installed here"):
        fleet.bring_up(3)


SCENARIOS = sorted(path.parent for path in (fleet.ROOT / "molecule").glob("*/molecule.yml"))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.name)
@pytest.mark.parametrize("playbook", ["converge", "verify", "side_effect"])
def test_a_scenario_sees_first_that_it_has_hosts(scenario: Path, playbook: str):
    """A play that matches no hosts passes."""
    path = scenario / f"{playbook}.yml"
    if playbook == "side_effect" and not path.exists():
        return
    first, *_others = yaml.safe_load(path.read_text())
    assert first["ansible.builtin.import_playbook"] == "../hosts/assert.yml"
