"""One round of make chaos: the search for faults works, and a killed deployment leaves none."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ..playbook import ROOT
from .conftest import Fleet

pytestmark = pytest.mark.fleet


def test_a_round_of_chaos_finds_nothing(fleet: Fleet):
    """It runs on the hosts of the fleet."""
    fleet.play("teardown")
    command = [sys.executable, "-m", "tests.chaos.chaos", "--minutes", "0.01", "--seed", "5", "--faults", "killed"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no finding; rounds: 1" in done.stdout
