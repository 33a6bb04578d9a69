from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.plugin_utils._fleet.gateways import (
    gateway_entries,
    gateway_lines,
    health_entries,
)
from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import HostResult
from ansible_collections.magi.models.plugins.plugin_utils._fleet.report import build_report, problems, summary_lines
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import plan

GATEWAY = {
    "url": "http://127.0.0.1:8000/v1",
    "url_from": "controller",
    "asks_key": False,
    "routes": [{"names": ["b", "chat"], "servers": []}, {"names": ["a"], "servers": []}],
}
SERVES = {"missing": "", "installable": False, "gateway": GATEWAY}
MISSING = {**SERVES, "missing": "HAProxy is not at /usr/sbin/haproxy: install it"}


@pytest.mark.parametrize(
    ("seen", "cause", "said"),
    [
        ({"configured": SERVES}, None, "Gateway: http://127.0.0.1:8000/v1 routes 3 names: a, b, chat"),
        ({"configured": SERVES, "installed": {"skipped": True}}, None, "routes 3 names"),
        ({"configured": {**MISSING, "installable": True}, "installed": SERVES}, None, "routes 3 names"),
        ({"configured": {"gateway": {**GATEWAY, "url_from": "host"}}}, None, "/v1 (on gw1 itself) routes"),
        ({"configured": {"gateway": {**GATEWAY, "routes": []}}}, None, "routes 0 names: none"),
        (
            {"configured": MISSING},
            None,
            "Note: there is no gateway on gw1: HAProxy is not at /usr/sbin/haproxy: install it.",
        ),
        (
            {"configured": {**MISSING, "installable": True}},
            "gateway_failed",
            "Gateway gw1: HAProxy could not be installed; see the output above.",
        ),
        (
            {"configured": {"failed": True, "msg": "Task failed: Module failed: Host gw1: port 8000 is taken."}},
            "gateway_failed",
            "Gateway gw1: port 8000 is taken.",
        ),
        (
            {"configured": {"unreachable": True, "msg": "Connection refused"}},
            "host_unreachable",
            "Gateway gw1: it can't be reached (Connection refused); start its SSH server, or correct ansible_host and "
            "ansible_port and run again.",
        ),
        (
            {"configured": {"failed": True, "msg": "Missing sudo password"}},
            "gateway_failed",
            "Gateway gw1: Missing sudo password; give the right password (--ask-become-pass, or a file: "
            "ANSIBLE_BECOME_PASSWORD_FILE), or let the user become root without one and run again.",
        ),
    ],
)
def test_what_came_of_a_gateway(seen, cause, said):
    (entry,) = entries = gateway_entries({"gw1": seen})
    assert entry["cause"] == cause
    assert entry["is_ready"] is ("routes" in said)
    host = HostResult("gpu1", plan("a-q2_k"))
    report = build_report([host], entries)
    assert said in " ".join(summary_lines(report))
    failures = [item for item in report["summary"]["failed"] if item["host"] == "gw1"]
    assert [item["detail"] for item in failures] == ([said] if cause else [])


NO = {"item": {"name": "a", "url": "http://gw1:8000/models/a/health", "by": "controller"}, "status": 503}


def test_what_was_launched_and_clients_can_t_have_is_degraded_and_fails_only_a_strict_run():
    (entry,) = gateway_entries({"gw1": {"configured": SERVES, "reached": {"results": [NO]}}})
    assert (entry["is_ready"], entry["cause"]) == (False, "not_reached")
    assert entry["detail"].startswith("Gateway gw1: it reaches no server of a; open")
    assert entry["asked"] == [{**NO["item"], "status": 503}]
    for strict in (False, True):
        host = HostResult("gpu1", replace(plan("a-q2_k"), strict=strict))
        report = build_report([host], [entry])
        assert entry["detail"] in [item["detail"] for item in report["summary"]["failed"]]
        ready = {**report, "total_servers": 1, "ready_servers": 1, "summary": {"failed": [], "degraded": []}}
        assert problems(ready, [host]) == ({"gpu1": entry["detail"]} if strict else {})
    failed = {"failed": True, "msg": "port 8000 is taken."}
    (entry,) = gateway_entries({"gw1": {"configured": failed, "reached": {"results": [NO]}}})
    assert entry["cause"] == "gateway_failed"


LOOKED = {
    "gateway": {
        "host": "gw1",
        "names": ["a", "b"],
        "is_ready": True,
        "cause": None,
        "detail": "",
        "routes": [{"names": [name], "servers": [{"host": "gpu1", "instance": name}]} for name in ("a", "b")],
    }
}


def server(name, ready):
    return {"host": "gpu1", "instance": name, "is_ready": ready}


@pytest.mark.parametrize(
    ("seen", "servers", "cause"),
    [
        ({}, [], ()),
        ({"looked": LOOKED}, [], None),
        ({"looked": LOOKED, "reached": {"results": [NO]}}, [server("a", True)], "not_reached"),
        ({"looked": LOOKED, "reached": {"results": [NO]}}, [], "not_reached"),  # its host was not asked
        ({"looked": LOOKED, "reached": {"results": [NO]}}, [server("a", False)], None),  # that is said of the server
        ({"looked": LOOKED, "probed": {"probes": {"a": "", "b": "it is slow; see its log"}}}, [], "no_work"),
        ({"looked": LOOKED, "probed": {"probes": {"b": "it is slow"}}}, [server("b", False)], None),
        ({"looked": {"unreachable": True, "msg": "no route"}}, [], "host_unreachable"),
        ({"looked": {"failed": True, "msg": "Host gw1: it must be root."}}, [], "gateway_failed"),
    ],
)
def test_the_health_of_a_gateway(seen, servers, cause):
    entries = health_entries({"gw1": seen}, servers)
    assert [item["cause"] for item in entries] == ([cause] if cause != () else [])
    assert [item["is_ready"] for item in entries] == ([cause is None] if cause != () else [])
    assert all(item["detail"].startswith("Gateway gw1") and item["detail"][-1] == "." for item in entries if cause)


def test_what_the_run_left_out_is_not_reported():
    assert gateway_entries({"gw1": {}, "gw2": {"configured": {"skipped": True}}}) == []
    assert "gateways" not in build_report([])
    assert gateway_lines([]) == []


def test_a_gateway_that_failed_fails_the_run():
    host = HostResult("gpu1", plan("a-q2_k"))
    serves = [{"is_ready": True, "host": "gpu1", "cause": None}]
    ready = {"total_servers": 1, "ready_servers": 1, "servers": [], "summary": {"failed": [], "degraded": []}}
    assert problems({**ready, "gateways": serves}, [host]) == {}
    for name in ("gpu1", "gw1"):
        broken = [{"is_ready": False, "host": name, "cause": "gateway_failed", "detail": f"Gateway {name}: x."}]
        assert problems({**ready, "gateways": broken}, [host]) == {"gpu1": f"Gateway {name}: x."}
