"""A model computed by hosts of a fleet together: hardened services at private addresses, in the right order."""

from __future__ import annotations

import pytest

from ..e2e.rpc import rpc_server
from .conftest import BUILDS, Q2, Fleet, bare
from .test_unit import exposure

pytestmark = pytest.mark.fleet

WORKER = f"{Q2}.worker"


def test_hosts_compute_a_model_together_by_hardened_workers_at_private_addresses(fleet: Fleet):
    bare(fleet, *fleet.hosts)
    program = f"/opt/llama.cpp/{rpc_server().relative_to(BUILDS.resolve())}"
    hosts = {}
    for name, variables in fleet.hosts.items():
        fleet.sh(name, f"ln -sf {program} /usr/local/bin/ggml-rpc-server")
        address = fleet.sh(name, "hostname -I").split()[0]
        hosts[name] = {**variables, "model_server_rpc_address": address}
    options = {"ctx_size": 1024, "cache_ram": 16}
    fleet.profile("split", {"model": Q2, "hosts": "host1", "rpc": ["host2", "host3"], "options": options})
    try:
        # They are reached at published ports of this machine's loopback addresses: nobody else reaches a worker there.
        refused = fleet.deploy("split")
        assert refused.code == 2, refused.output
        assert "host2: its address is not known; set model_server_rpc_address there" in " ".join(refused.text.split())
        assert not any(fleet.sh(name, "ls /etc/magi/instances", check=False) for name in hosts)

        run = fleet.deploy("split", hosts=hosts)
        assert run.code == 0, run.output
        report = fleet.report()
        (server,), workers = report["servers"], {item["host"]: item for item in report["workers"]}
        assert (server["host"], server["is_ready"]) == ("host1", True)
        for name in ("host2", "host3"):
            worker, unit = workers[name], f"magi-llama@{WORKER}.service"
            assert (worker["is_ready"], worker["server"]) == (True, f"host1/{Q2}")
            assert worker["address"] == hosts[name]["model_server_rpc_address"]
            heard = fleet.sh(name, f"ss -Hltn sport = :{worker['port']}").split()[3]
            assert heard == f"{worker['address']}:{worker['port']}"
            assert exposure(fleet.sh(name, f"systemd-analyze security --no-pager {unit}")) <= 1.2
            used = fleet.sh(
                name, f"awk '/^Private_/ {{size += $2}} END {{print size}}' /proc/{worker['pid']}/smaps_rollup"
            )
            assert 20 << 10 < int(used) < worker["memory"]["need"]["Host"] >> 10
        assert fleet.ask("host1", server["port"])[0].startswith(Q2)

        fleet.profile("none", Q2)
        run = fleet.deploy("none", hosts=hosts)
        assert run.code == 0, run.output
        assert fleet.report().get("workers") is None
        assert {fleet.state(name, WORKER) for name in ("host2", "host3")} == {"inactive"}
        # It ended before them, so it missed none.
        log = fleet.sh("host1", f"journalctl --no-pager -o cat -u magi-llama@{Q2}")
        assert "RPC server crashed" not in log
    finally:
        for name in fleet.hosts:
            fleet.sh(name, "rm -f /usr/local/bin/ggml-rpc-server")
