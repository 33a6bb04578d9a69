from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._host.values import Listener
from ansible_collections.magi.models.plugins.plugin_utils._fleet.health import (
    HostHealth,
    build_health,
    health_problems,
)
from ansible_collections.magi.models.plugins.plugin_utils._fleet.questions import Answer, HealthQuestion
from ansible_collections.magi.models.plugins.plugin_utils._fleet.status import build_status, status_lines
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import host, plan, running

(INSTANCE,) = plan("a-q2_k").instances
OURS = Listener("0.0.0.0", 8080, 100, "llama-server", "a-q2_k")


def examined(*, status=200, probes=None, **now):
    answer = Answer(HealthQuestion("a-q2_k", "http://gpu1:8080", "controller"), status, "refused")
    seen = running(INSTANCE, **{"health": 200, "model_ids": ("a-q2_k",), **now})
    return HostHealth(host(seen, listeners=(OURS,)), {"a-q2_k": answer} if status else {}, probes or {})


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (examined(), None),
        (examined(probes={"a-q2_k": ""}), None),
        (examined(status=0), None),  # not asked
        (examined(status=-1), "not_reached"),
        (examined(probes={"a-q2_k": "it did not give one token"}), "no_work"),
        (examined(state="stopped", health=None), "stopped"),
        (examined(state="failed", health=None, log=("error: invalid argument: --x",)), "bad_option"),
        (examined(health=503), "loading"),
        (examined(health=0), "not_ready"),
        (examined(model_ids=("other",)), "wrong_server"),
        (examined(fell_back="failed to initialize CUDA"), "not_on_device"),
        (examined(health=503, fell_back="failed to initialize CUDA"), "loading"),
    ],
)
def test_a_server_serves_or_there_is_a_cause(value, cause):
    hosts = {"gpu1": value}
    document = build_health(hosts)
    (server,) = document["servers"]
    assert server["is_ready"] is (cause is None)
    assert document["ready_servers"] == document["summary"]["servers_ready"] == (cause is None)
    assert [item["cause"] for item in document["summary"]["failed"]] == ([cause] if cause else [])
    problems = health_problems(document, hosts)
    assert problems.keys() == ({"gpu1"} if cause else set())
    if cause:
        assert problems["gpu1"].startswith("Host gpu1, instance a-q2_k: ")
        assert problems["gpu1"] in "\n".join(status_lines(document))


def test_a_gateway_is_a_problem_of_its_host_or_of_the_first():
    routes = [{"names": ["a-q2_k"], "servers": [{"host": "gpu1", "instance": "a-q2_k"}]}]
    entry = {"host": "gw1", "names": ["a-q2_k"], "is_ready": True, "cause": None, "detail": "", "routes": routes}
    asked = {"name": "a-q2_k", "url": "http://gw1:8000/models/a-q2_k/health", "by": "controller"}
    for status, cause in ((200, None), (503, "not_reached")):
        seen = {"looked": {"gateway": entry}, "reached": {"results": [{"item": asked, "status": status}]}}
        hosts = {"gpu1": examined()}
        document = build_health(hosts, {"gw1": seen})
        assert [item["cause"] for item in document["gateways"]] == [cause]
        assert [(item["host"], item["cause"]) for item in document["summary"]["failed"]] == (
            [("gw1", cause)] if cause else []
        )
        assert health_problems(document, hosts).keys() == ({"gpu1"} if cause else set())


def test_one_that_sleeps_serves():
    value = examined(asleep=True)
    document = build_health({"gpu1": value})
    assert document["ready_servers"] == 1
    assert document["servers"][0]["state"] == "asleep"
    assert document["summary"]["failed"] == []
    assert [line for line in status_lines(document) if "asleep" in line and line.endswith("yes")]
    # one that answers nothing does not sleep
    assert build_health({"gpu1": examined(asleep=True, health=0)})["servers"][0]["state"] == "running"


def test_hosts_without_servers_are_a_problem_where_nobody_has_one():
    nobody = {"gpu1": HostHealth(host()), "gpu2": HostHealth()}
    assert health_problems(build_health(nobody), nobody).keys() == {"gpu1", "gpu2"}
    somebody = {"gpu1": HostHealth(host()), "gpu2": examined()}
    document = build_health(somebody)
    assert health_problems(document, somebody) == {}
    assert document["servers"][0]["asked"] == {"url": "http://gpu1:8080", "by": "controller", "status": 200}


@pytest.mark.parametrize(
    ("now", "cause"),
    [
        ({}, None),
        ({"model_ids": ("other",)}, "wrong_server"),
        ({"fell_back": "failed to initialize CUDA", "environment": {"MAGI_GPU": "CUDA0"}}, "not_on_device"),
        ({"state": "failed", "health": None, "fell_back": "failed to initialize CUDA"}, None),  # magi health says why
    ],
)
def test_a_status_says_why_a_healthy_server_is_not_ready(now, cause):
    value = examined(**now)
    document = build_status({"gpu1": value.host}, {"gpu1": value.way})
    said = [item["cause"] for item in document["summary"]["failed"]]
    assert said == ([cause] if cause else [])
    assert [line for line in status_lines(document) if cause and line.startswith(f"  {cause}: Host gpu1")] == [
        f"  {cause}: {item['detail']}" for item in document["summary"]["failed"]
    ]
    if cause == "not_on_device":
        assert "on the CPU and not on CUDA0" in document["summary"]["failed"][0]["detail"]
