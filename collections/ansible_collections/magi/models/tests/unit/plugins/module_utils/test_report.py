from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._host import Listener
from ansible_collections.magi.models.plugins.module_utils._plan import build_plan
from ansible_collections.magi.models.plugins.module_utils._report import (
    HostResult,
    build_report,
    failure,
    summary_lines,
    table,
)

from .builders import host, profile, registry, running, settings

PLAN = build_plan(
    host_name="gpu1", profile=profile("a-q2_k", "gone"), registry=registry(), host=host(), settings=settings()
)
(INSTANCE,) = PLAN.instances
OURS = Listener("127.0.0.1", 8080, 100, "llama-server", "a-q2_k")


def result(now=None, health=200, outcome=None, listeners=(OURS,)):
    return HostResult(
        "gpu1",
        PLAN,
        [{"instance": "a-q2_k", "action": "start", "launched": True, "cause": "", **(outcome or {})}],
        {"a-q2_k": health},
        host(*([now] if now else []), listeners=listeners),
        120,
    )


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (result(running(INSTANCE, model_ids=("a-q2_k",))), None),
        # it can't be asked (an API key that we may not read), but its own process holds the port
        (result(running(INSTANCE)), None),
        (result(running(INSTANCE), listeners=()), "wrong_server"),
        (result(running(INSTANCE, model_ids=("other",))), "wrong_server"),
        (result(running(INSTANCE), health=503), "timeout"),
        (result(running(INSTANCE), health=-1), "timeout"),
        (result(None), "crashed"),
        (HostResult("gpu1", PLAN), "host_failed"),  # lost while its plan was applied
        (result(running(INSTANCE, state="failed", log=("error: invalid argument: --x",))), "bad_option"),
        (result(None, outcome={"launched": False, "cause": "port_taken", "detail": "x"}), "port_taken"),
    ],
)
def test_ready_means_healthy_and_the_one_that_answers(value, cause):
    report = build_report("test", [value])
    (server,) = report["servers"]
    assert server["is_ready"] is (cause is None)
    assert report["ready_servers"] == (cause is None)
    assert [item["cause"] for item in report["summary"]["failed"]] == ([cause] if cause else [])
    if cause:
        assert report["summary"]["failed"][0]["detail"].startswith("Host gpu1, instance a-q2_k: ")


def test_the_shape_of_a_report():
    report = build_report("test", [result(running(INSTANCE, model_ids=("a-q2_k",), started_at=5.0))])
    assert report == {
        "total_servers": 1,
        "ready_servers": 1,
        "servers": [
            {
                "model_id": "a-q2_k",
                "instance": "a-q2_k",
                "display_name": "A-Q2_K",
                "tier": "Q2",
                "host": "gpu1",
                "address": "127.0.0.1",
                "port": 8080,
                "pid": 100,
                "started_at": 5.0,
                "state": "running",
                "is_ready": True,
                "action": "start",
            }
        ],
        "summary": {
            "profile": "test",
            "models_discovered": 4,
            "models_enabled": 1,
            "servers_launched": 1,
            "servers_ready": 1,
            "failed": [],
            "warnings": [PLAN.degraded[0]],
        },
    }


LOST = HostResult("gpu2", error="Host gpu2: unreachable.")
GOOD = result(running(INSTANCE, model_ids=("a-q2_k",)))
BAD = result(running(INSTANCE), health=503)


@pytest.mark.parametrize(
    ("hosts", "strict", "degraded", "said"),
    [
        ([GOOD], False, True, None),
        ([GOOD], True, False, None),
        ([GOOD], True, True, "strict is set"),
        ([GOOD, BAD], False, False, None),
        ([GOOD, BAD], True, False, "strict is set"),
        ([BAD], False, False, "None of 1 servers is ready"),
        ([GOOD, LOST], False, False, "No deployment on gpu2"),
    ],
)
def test_when_a_deployment_has_failed(hosts, strict, degraded, said):
    sentence = failure(build_report("test", hosts), strict=strict, degraded=degraded)
    assert (sentence is None) if said is None else sentence.startswith(said)


def test_a_summary_names_what_failed_with_its_last_lines():
    lines = "\n".join(
        summary_lines(
            build_report("test", [result(None, outcome={"cause": "x", "detail": "y", "log": ["l\x1b[31m"]}), LOST])
        )
    )
    assert "0/1 ready" in lines
    assert "x: Host gpu1, instance a-q2_k: y." in lines
    assert "| l\\x1b[31m" in lines
    assert "Host gpu2: unreachable." in lines
    assert "\x1b" not in lines


def test_table_and_printable():
    assert table(["a", "bb"], [["1\n2", "x"], ["long", ""]]) == ["a     bb", "----  --", "1\\n2  x", "long"]
