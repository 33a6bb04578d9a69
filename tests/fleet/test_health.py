"""Health as clients see it from the controller, which a host can't know."""

from __future__ import annotations

import pytest

from .conftest import Q2, Q3, Fleet, bare

pytestmark = pytest.mark.fleet

HOST = ("--limit", "host1")
PORT = 8150
"""A port that the hosts' containers do not publish (molecule/hosts/hosts.py)."""


def test_a_server_that_only_its_own_host_reaches_is_not_ready(fleet: Fleet):
    bare(fleet, "host1")
    address = fleet.hosts["host1"]["ansible_host"]
    fleet.profile("one", Q2, {"model": Q3, "port": PORT})
    run = fleet.deploy("one", *HOST)
    assert run.code == 0, run.output
    servers = {server["instance"]: server for server in fleet.report()["servers"]}
    assert {name: server["is_ready"] for name, server in servers.items()} == {Q2: True, Q3: False}
    assert servers[Q3]["state"] == "running"
    (failed,) = fleet.report()["summary"]["failed"]
    assert failed["cause"] == "not_reached"
    assert f"it is ready, but http://{address}:{PORT} can't be reached from the controller (" in failed["detail"]
    asked = run.task("[5/5] Health check: from where clients are")
    assert f"{Q2} at http://{address}:8080, by controller" in asked

    # Only the look at the host asks a kept server; magi health's playbook asks all, from where clients are.
    again = fleet.deploy("one", *HOST)
    assert (again.code, again.changed) == (0, 0), again.output
    assert "from where clients are" not in again.output
    sick = fleet.play("health", *HOST, deep=True)
    assert sick.code != 0
    assert f"Host host1, instance {Q3}: it is ready, but http://{address}:{PORT} can't be reached" in sick.text
    fleet.profile("one", Q2)
    assert fleet.deploy("one", *HOST).code == 0
    well = fleet.play("health", *HOST, deep=True)
    assert (well.code, well.changed) == (0, 0), well.output


@pytest.mark.parametrize(
    ("variables", "by"),
    [({"model_server_host": "127.0.0.1"}, "host"), ({"model_server_health_from": "host"}, "host")],
)
def test_what_is_reached_on_the_host_alone_is_asked_there(fleet: Fleet, variables: dict[str, str], by: str):
    bare(fleet, "host1")
    fleet.profile("one", {"model": Q2, "port": PORT})
    run = fleet.deploy("one", *HOST, **variables)
    assert run.code == 0, run.output
    assert f"{Q2} at http://127.0.0.1:{PORT}, by {by}" in run.task("[5/5] Health check: from where clients are")
    assert fleet.report()["ready_servers"] == 1
