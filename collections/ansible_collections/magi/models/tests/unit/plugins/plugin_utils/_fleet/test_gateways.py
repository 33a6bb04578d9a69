from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.plugin_utils._fleet.gateways import gateway_entries, gateway_lines
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
