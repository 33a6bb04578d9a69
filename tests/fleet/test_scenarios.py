"""Molecule's scenarios, on the hosts of the other tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT, Fleet, bare

pytestmark = pytest.mark.fleet


@pytest.mark.parametrize("scenario", sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml")))
def test_scenario(fleet: Fleet, scenario: str):
    if any(fleet.sh(host, "ls -d /etc/magi", check=False) for host in fleet.hosts):
        bare(fleet, *fleet.hosts)
    program = Path(sys.executable).with_name("molecule")
    done = subprocess.run(
        [program, "test", "--scenario-name", scenario, "--destroy", "never"],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
