"""Molecule's scenarios, on the hosts of the other tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT, Fleet, bare, bring_up

pytestmark = pytest.mark.fleet


SCENARIOS = sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml"))


def molecule(scenario: str, destroy: str) -> None:
    program = Path(sys.executable).with_name("molecule")
    done = subprocess.run(
        [program, "test", "--scenario-name", scenario, "--destroy", destroy],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name != "default"])
def test_scenario(fleet: Fleet, scenario: str):
    if any(fleet.sh(host, "ls -d /etc/magi", check=False) for host in fleet.hosts):
        bare(fleet, *fleet.hosts)
    molecule(scenario, destroy="never")


def test_scenario_default_makes_the_hosts_and_takes_them_away(fleet: Fleet):
    """The scenario removes the hosts, so they are made again after it."""
    containers = [host["testbed_container"] for host in fleet.hosts.values()]
    try:
        molecule("default", destroy="always")
        names = subprocess.run(["docker", "ps", "--all", "--format", "{{.Names}}"], capture_output=True, text=True)
        assert not set(containers) & set(names.stdout.split())
    finally:
        bring_up(len(containers))
    assert all(fleet.sh(host, "hostname").strip() == host for host in fleet.hosts)
