"""Limits of an instance, as systemd itself understands them."""

from __future__ import annotations

import pytest

from .conftest import Fleet

pytestmark = pytest.mark.fleet

Q2 = "smollm2-135m-instruct.q2_k"
SHOW = f"systemctl show --property=CPUQuotaPerSecUSec,MemoryMax,Nice magi-llama@{Q2}.service"


def test_an_instance_runs_within_its_limits(fleet: Fleet):
    fleet.profile(
        "limits", {"model": Q2, "resources": {"nice": 5}}, resources={"memory_max": "2G", "cpu_quota": "150%"}
    )
    run = fleet.deploy("limits", "--limit", "host1")
    assert run.code == 0, run.output
    assert set(fleet.sh("host1", SHOW).split()) == {"CPUQuotaPerSecUSec=1.500000s", "MemoryMax=2147483648", "Nice=5"}
    again = fleet.deploy("limits", "--limit", "host1")
    assert (again.code, again.changed) == (0, 0), again.output
