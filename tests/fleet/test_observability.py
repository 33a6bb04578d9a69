"""Prometheus and node_exporter on systemd hosts, from nothing."""

from __future__ import annotations

import json
import re
import urllib.parse
from typing import Any

import pytest

from ..waiting import until
from .conftest import Q2, Fleet, bare

pytestmark = pytest.mark.fleet


def asked(fleet: Fleet, path: str, **query: str) -> Any:
    """Return what Prometheus on host1 answers."""
    url = f"http://127.0.0.1:9090/api/v1/{path}?{urllib.parse.urlencode(query)}"
    script = f"import urllib.request as u; print(u.urlopen({url!r}, timeout=10).read().decode())"
    said = fleet.sh("host1", f'python3 -c "{script}" 2>/dev/null || true')
    return json.loads(said)["data"] if said.strip() else {}


def up(fleet: Fleet) -> dict[str, str]:
    found = asked(fleet, "targets").get("activeTargets", ())
    return {f"{item['labels']['host']} {item['labels']['instance']}": item["health"] for item in found}


@pytest.fixture
def watched(fleet: Fleet):
    """Servers on host1 and host2, looked at from host1."""
    bare(fleet, "host1", "host2")
    for host in ("host1", "host2"):  # the addresses that they are reached at over SSH are this machine's alone
        fleet.hosts[host]["model_server_host"] = fleet.sh(host, "hostname -I").split()[0]
    fleet.groups["monitoring"] = {"hosts": {"host1": {}}}
    fleet.variables |= {"observability_install": True, "observability_interval": 1}
    fleet.profile("one", Q2)
    yield fleet
    run = fleet.play("teardown", "--limit", "host1,host2")
    left = fleet.sh(
        "host1", "ls -d /etc/systemd/system/magi-* /etc/magi-monitoring /var/lib/private/* 2>/dev/null", check=False
    )
    fleet.groups.clear()
    fleet.variables.clear()
    for host in ("host1", "host2"):
        del fleet.hosts[host]["model_server_host"]
    assert (run.code, left) == (0, ""), run.output


def test_prometheus_from_nothing(watched: Fleet):
    fleet, limit = watched, ("--limit", "host1,host2")
    packages = "prometheus prometheus-node-exporter"
    # A new host has never heard of them.
    fleet.sh("host1", f"DEBIAN_FRONTEND=noninteractive apt-get purge -qy {packages} >/dev/null", check=False)
    run = fleet.deploy("one", *limit)
    assert run.code == 0, run.output
    # node_exporter on host2 binds what only host2 reaches, as nobody said otherwise.
    assert "Host host2: its metrics are at 127.0.0.1, where Prometheus on host1 can't reach them" in run.text
    there = {f"host1 {Q2}", f"host2 {Q2}", "host1 host host1"}
    until(lambda: up(fleet) == dict.fromkeys(there, "up"), 60, "all targets are up", pause=0.5)
    (found,) = asked(fleet, "query", query='magi_deployment_success{host="host1"}')["result"]
    assert found["value"][1] == "1"
    units = asked(fleet, "query", query=f'node_systemd_unit_state{{name="magi-llama@{Q2}.service",state="active"}}')
    assert [item["value"][1] for item in units["result"]] == ["1"]

    for unit, most in (("magi-prometheus.service", 1.5), ("magi-node-exporter.service", 5.0)):
        scored = fleet.sh("host1", f"systemd-analyze security --no-pager {unit}")
        exposure = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", scored)
        assert exposure, scored
        assert float(exposure[1]) <= most, scored
        assert fleet.sh("host1", f"systemd-analyze verify 2>&1 {unit}", check=False) == ""
    for asked_for in ("is-active", "is-enabled"):  # Debian's own
        said = fleet.sh("host1", f"systemctl {asked_for} {packages}", check=False).split()
        assert not {*said} & {"active", "enabled"}, said
    assert fleet.deploy("one", *limit).changed == 0

    # A change of the rules is taken without a restart.
    before = fleet.sh("host1", "systemctl show --value --property=MainPID magi-prometheus.service")
    assert fleet.deploy("one", *limit, observability_limits={"queue": 77}).code == 0
    until(lambda: "magi:queue > 77" in json.dumps(asked(fleet, "rules")), 30, "the rules are taken", pause=0.5)
    assert fleet.sh("host1", "systemctl show --value --property=MainPID magi-prometheus.service") == before
