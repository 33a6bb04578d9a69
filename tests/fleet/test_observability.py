"""Prometheus and node_exporter on systemd hosts, from nothing."""

from __future__ import annotations

import json
import re
import urllib.parse
from typing import Any

import pytest

from ..waiting import until
from .conftest import Q2, Q3, Fleet, bare

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


def value(fleet: Fleet, query: str) -> float | None:
    found = asked(fleet, "query", query=query).get("result")
    return float(found[0]["value"][1]) if found else None


KEYS, KEY = "/etc/test-keys", "/etc/test-key"
"""Those of the servers, and that one of them which Prometheus has."""
PROBE = "/etc/systemd/system/magi-probe.* /usr/local/lib/magi-probe /var/lib/prometheus/node-exporter/magi-probe.*"
"""Where the functional probe has files."""


@pytest.fixture
def watched(fleet: Fleet):
    """Servers on host1 and host2, of which one wants a key, and one sleeps; looked at from host1."""
    bare(fleet, "host1", "host2")
    for host in ("host1", "host2"):
        fleet.sh(host, f"umask 077; cat >{KEYS}", stdin="# ours\nsecret-of-the-test\n")
    fleet.sh("host1", f"umask 077; tail -n 1 {KEYS} >{KEY}")
    for host in ("host1", "host2"):  # the addresses that they are reached at over SSH are this machine's alone
        fleet.hosts[host]["model_server_host"] = fleet.sh(host, "hostname -I").split()[0]
    fleet.groups["monitoring"] = {"hosts": {"host1": {}}}
    fleet.variables |= {
        "observability_install": True,
        "observability_interval": 1,
        "observability_key_file": KEY,
        "observability_probe": True,
        "observability_probe_interval": 2,
    }
    fleet.profile("one", {"model": Q2, "options": {"api_key_file": KEYS}}, {"model": Q3, "idle": "2s"})
    yield fleet
    run = fleet.play("teardown", "--limit", "host1,host2")
    left = fleet.sh(
        "host1",
        f"ls -d /etc/systemd/system/magi-* /etc/magi-monitoring /var/lib/private/* {PROBE} 2>/dev/null",
        check=False,
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
    there = {f"{host} {name}" for host in ("host1", "host2") for name in (Q2, Q3)} | {"host1 host host1"}
    until(lambda: up(fleet) == dict.fromkeys(there, "up"), 60, "all targets are up", pause=0.5)
    assert value(fleet, 'magi_deployment_success{host="host1"}') == 1
    flags = asked(fleet, "status/flags")
    assert (flags["storage.tsdb.retention.time"], flags["web.listen-address"]) == ("30d", "127.0.0.1:9090")
    units = asked(fleet, "query", query=f'node_systemd_unit_state{{name="magi-llama@{Q2}.service",state="active"}}')
    assert [item["value"][1] for item in units["result"]] == ["1"]

    assert fleet.deploy("one", *limit).changed == 0
    the_functional_probe(fleet)
    units = {"magi-prometheus.service": 1.5, "magi-node-exporter.service": 5.0, "magi-probe.service": 1.2}
    for unit, most in units.items():
        scored = fleet.sh("host1", f"systemd-analyze security --no-pager {unit}")
        exposure = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", scored)
        assert exposure, scored
        assert float(exposure[1]) <= most, scored
        assert fleet.sh("host1", f"systemd-analyze verify 2>&1 {unit}", check=False) == ""
    for asked_for in ("is-active", "is-enabled"):  # Debian's own
        said = fleet.sh("host1", f"systemctl {asked_for} {packages}", check=False).split()
        assert not {*said} & {"active", "enabled"}, said

    # Without the probe, nothing of it stays.
    there = probe_files(fleet)
    assert there
    assert fleet.deploy("one", "--check", "--diff", *limit, observability_probe=False).changed > 0
    assert probe_files(fleet) == there
    assert fleet.deploy("one", *limit, observability_probe=False).changed > 0
    assert fleet.sh("host1", f"ls -d {PROBE} 2>/dev/null", check=False) == ""
    assert fleet.sh("host1", "systemctl list-units --all --plain --no-legend 'magi-probe.*'") == ""

    # A change of the rules is taken without a restart.
    before = fleet.sh("host1", "systemctl show --value --property=MainPID magi-prometheus.service")
    assert fleet.deploy("one", *limit, observability_limits={"queue": 77}).code == 0
    until(lambda: "magi:queue > 77" in json.dumps(asked(fleet, "rules")), 30, "the rules are taken", pause=0.5)
    assert fleet.sh("host1", "systemctl show --value --property=MainPID magi-prometheus.service") == before


def probe_files(fleet: Fleet) -> set[str]:
    """What the probe has on host1, without the file that it writes at this moment."""
    return {path for path in fleet.sh("host1", f"ls -d {PROBE}").split() if not path.endswith(".new")}


def the_functional_probe(fleet: Fleet) -> None:
    """The timer asks the server that does not sleep, with its key, and says so; again and again."""
    of = f'{{host="host1",instance="{Q2}",model_id="{Q2}"}}'
    until(lambda: (value(fleet, f"changes(magi_probe_time_seconds{of}[1m])") or 0) >= 2, 60, "it asks again", pause=0.5)
    assert value(fleet, f"magi_probe_success{of}") == 1
    assert value(fleet, f"magi_probe_duration_seconds{of}") < 60
    assert value(fleet, f'magi_probe_success{{instance="{Q3}"}}') is None
    (port,) = {s["port"] for s in fleet.report()["servers"] if (s["host"], s["instance"]) == ("host1", Q3)}
    until(lambda: fleet.get("host1", port, "/props")[1]["is_sleeping"], 30, "the idle server sleeps")
    shown = fleet.sh(
        "host1", "systemctl show --property=User,DynamicUser magi-probe.service; cat /etc/systemd/system/magi-probe.*"
    )
    assert "secret" not in shown

    # It has no key any more.
    fleet.sh("host1", f"mv {KEYS} {KEYS}.away")
    until(lambda: value(fleet, f"magi_probe_success{of}") == 0, 30, "the probe fails", pause=0.5)
    said = fleet.sh("host1", "journalctl --unit magi-probe --output cat --no-pager")
    assert f"{Q2}: it was asked for one token and answered HTTP status 401; its file of API keys has changed" in said
    fleet.sh("host1", f"mv {KEYS}.away {KEYS}")
    until(lambda: value(fleet, f"magi_probe_success{of}") == 1, 30, "it works again", pause=0.5)
    woken = fleet.sh(
        "host1", f"journalctl --unit magi-llama@{Q3} --output cat | grep -c 'exiting sleeping'", check=False
    )
    assert woken.strip() == "0"
