from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._host.values import WORKER, Generation, Listener
from ansible_collections.magi.models.plugins.module_utils._llama.cause import Cause
from ansible_collections.magi.models.plugins.module_utils._plan.values import Action, ActionResult
from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import (
    HostResult,
    host_result,
    launched_models,
)
from ansible_collections.magi.models.plugins.plugin_utils._fleet.report import build_report, problems, summary_lines
from ansible_collections.magi.models.plugins.plugin_utils._fleet.status import build_status, memory_shown, status_lines
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import Way
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import (
    host,
    plan,
    running,
)

PLAN = plan("a-q2_k", "gone")
(INSTANCE,) = PLAN.instances
FELL = "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected"
OURS = Listener("127.0.0.1", 8080, 100, "llama-server", "a-q2_k")


def result(now=None, health=200, outcome=None, listeners=(OURS,)):
    return HostResult(
        "gpu1",
        PLAN,
        [replace(ActionResult(Action("a-q2_k", ActionKind.START, "new")), **(outcome or {}))],
        host(*([replace(now, health=health)] if now else []), listeners=listeners),
        120,
    )


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (result(running(INSTANCE, model_ids=("a-q2_k",))), None),
        # we can't ask it (we may not read its API keys, or they changed), but its own process holds the port
        (result(running(INSTANCE)), None),
        (result(running(INSTANCE), listeners=()), "wrong_server"),
        (result(running(INSTANCE, model_ids=("other",))), "wrong_server"),
        (result(running(INSTANCE, model_ids=("a-q2_k",), fell_back=FELL)), "not_on_device"),
        (result(running(INSTANCE, model_ids=("other",), fell_back=FELL)), "wrong_server"),
        (result(running(INSTANCE, fell_back=FELL), health=503), "timeout"),
        (result(running(INSTANCE), health=503), "timeout"),
        (result(running(INSTANCE), health=0), "timeout"),
        (result(None), "crashed"),
        (HostResult("gpu1", PLAN), "host_failed"),  # lost while its plan was applied
        (
            result(running(INSTANCE, state="failed", log=("error: invalid argument: --x",)), health=None, listeners=()),
            "bad_option",
        ),
        (result(None, outcome={"launched": False, "cause": Cause("port_taken", "x")}), "port_taken"),
    ],
)
def test_ready_means_healthy_and_the_one_that_answers(value, cause):
    report = build_report([value])
    (server,) = report["servers"]
    assert server["is_ready"] is (cause is None)
    assert report["ready_servers"] == (cause is None)
    assert [item["cause"] for item in report["summary"]["failed"]] == ([cause] if cause else [])
    if cause:
        assert report["summary"]["failed"][0]["detail"].startswith("Host gpu1, instance a-q2_k: ")
    if value.after:  # a status says the same
        assert {item["is_ready"] for item in build_status({"gpu1": value.after}, {"gpu1": Way()})["servers"]} <= {
            cause is None
        }


HELD = Cause("held_back", "not deployed")


@pytest.mark.parametrize(
    ("trouble", "now", "ready"),
    [
        # held back: a server goes on serving, though nobody waited for it
        (HELD, running(INSTANCE, health=200, model_ids=("a-q2_k",)), 1),
        (HELD, running(INSTANCE, health=200), 0),
        (HELD, running(INSTANCE, health=200, model_ids=()), 0),
        (HELD, None, 0),
    ],
)
def test_a_host_as_a_whole_is_named_once(trouble, now, ready):
    there = host(*([now] if now else []))
    report = build_report([HostResult("gpu1", PLAN, after=there, trouble=trouble)])
    assert (report["ready_servers"], report["total_servers"]) == (ready, 1)
    assert report["summary"]["failed"] == [
        {
            "instance": None,
            "host": "gpu1",
            "cause": "held_back",
            "detail": "Host gpu1: not deployed.",
            "log": [],
        }
    ]


@pytest.mark.parametrize(
    ("health", "state"),
    [(200, "running"), (503, "starting")],  # supervisor: the first seconds of a process
)
def test_what_answers_runs(health, state):
    now = running(INSTANCE, state="starting", model_ids=("a-q2_k",))
    assert build_report([result(now, health=health)])["servers"][0]["state"] == state


def test_a_quarantined_instance_is_named_with_its_cause_and_the_way_out():
    now = running(INSTANCE, state="failed", pid=None, log=("", "error: invalid argument: --x", " "))
    (item,) = build_report([result(now, outcome={"action": Action("a-q2_k", ActionKind.QUARANTINE, "failed")})])[
        "summary"
    ]["failed"]
    assert item["cause"] == "bad_option"
    assert item["log"] == ["error: invalid argument: --x"]
    assert "model_server_retry_quarantined" in item["detail"]


def test_the_shape_of_a_report():
    report = build_report([result(running(INSTANCE, model_ids=("a-q2_k",), started_at=5.0))])
    assert report == {
        "total_servers": 1,
        "ready_servers": 1,
        "servers": [
            {
                "model_id": "a-q2_k",
                "instance": "a-q2_k",
                "display_name": "A-Q2_K",
                "aliases": [],
                "tier": "Q2",
                "task": "chat",
                "host": "gpu1",
                "address": "127.0.0.1",
                "port": 8080,
                "url": "http://127.0.0.1:8080",
                "url_from": "controller",
                "pid": 100,
                "started_at": 5.0,
                "state": "running",
                "is_ready": True,
                "action": "start",
                "devices": [],
                "memory": {"need": None, "used": None, "used_gpu": None},
            }
        ],
        "summary": {
            "profile": "test",
            "models_discovered": 4,
            "models_enabled": 1,
            "servers_launched": 1,
            "servers_ready": 1,
            "failed": [],
            "degraded": [{"host": "gpu1", "detail": PLAN.degraded[0]}],
            "warnings": [],
        },
    }


LOST = HostResult("gpu2", trouble=Cause("host_unreachable", "it can't be reached"))
GOOD = result(running(INSTANCE, model_ids=("a-q2_k",)))
GOOD3 = replace(GOOD, name="gpu3")
BAD = result(running(INSTANCE), health=503)


def strict(result, **more):
    return replace(result, plan=replace(PLAN, strict=True, **more))


@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        ([GOOD], {}),
        ([strict(GOOD, degraded=())], {}),
        ([strict(GOOD)], {"gpu1": "strict is set"}),
        ([strict(GOOD), GOOD3], {"gpu1": "strict is set"}),
        ([GOOD3, BAD], {}),
        ([GOOD3, strict(BAD, degraded=())], {"gpu1": "strict is set"}),
        ([BAD], {"gpu1": "No server is ready (0 of 1);"}),
        ([GOOD, LOST], {"gpu2": "Host gpu2: it can't be reached."}),
        ([BAD, LOST], {"gpu1": "No server is ready (0 of 1);", "gpu2": "Host gpu2: it can't be reached."}),
    ],
)
def test_which_hosts_a_run_fails_for(hosts, said):
    found = problems(build_report(hosts), hosts)
    assert found.keys() == said.keys()
    assert all(found[name].startswith(text) for name, text in said.items())


def test_a_summary_names_what_failed_with_its_last_lines():
    lines = "\n".join(
        summary_lines(build_report([result(None, outcome={"cause": Cause("x", "y"), "log": ("l\x1b[31m",)}), LOST]))
    )
    assert "4 models discovered, 1 enabled, 1 server launched, 0/1 ready" in lines
    assert "x: Host gpu1, instance a-q2_k: y." in lines
    assert "| l\\x1b[31m" in lines
    assert "host_unreachable: Host gpu2: it can't be reached." in lines
    assert "\x1b" not in lines


def test_a_summary_says_what_is_missing_before_its_warnings():
    hosts = [replace(GOOD, plan=replace(PLAN, warnings=("Mind\x1b this.",)))]
    assert summary_lines(build_report(hosts))[-3:] == [
        "",
        f"Degraded: {PLAN.degraded[0]}",
        "Warning: Mind\\x1b this.",
    ]


@pytest.mark.parametrize(
    ("address", "port", "url", "url_from"),
    [
        ("0.0.0.0", 8080, "http://gpu1.lan:8080", "controller"),
        ("127.0.0.1", 8080, "http://127.0.0.1:8080", "host"),
        (None, 8080, None, None),  # nothing is known about its process
        ("127.0.0.1", None, None, None),
    ],
)
def test_a_status_says_where_each_server_is_asked(address, port, url, url_from):
    environment = {"LLAMA_ARG_HOST": address} if address else {}
    now = host(running(INSTANCE, environment=environment, port=port))
    (server,) = build_status({"gpu1": now, "gone": None}, {"gpu1": Way("gpu1.lan", "ssh")})["servers"]
    assert [server[key] for key in ("address", "port", "url", "url_from")] == [address, port, url, url_from]


def test_requests_that_were_cut_are_warned_of():
    report = build_report([result(running(INSTANCE, model_ids=("a-q2_k",)), outcome={"cut": 115})])
    (warning,) = report["summary"]["warnings"]
    assert warning.startswith("Host gpu1: model_server_stop_timeout ran out for a-q2_k: 115 requests were cut")


def test_the_profiles_of_hosts_that_differ_are_all_named():
    hosts = [HostResult("a", replace(PLAN, profile="one")), HostResult("b", replace(PLAN, profile="two"))]
    assert build_report(hosts)["summary"]["profile"] == "one, two"


def test_what_a_host_that_could_not_be_asked_runs_is_unknown():
    lost = HostResult("a", PLAN, trouble=Cause("host_unreachable", "it can't be reached"))
    assert build_report([lost])["servers"][0]["state"] == "unknown"
    assert build_report([HostResult("a", PLAN, after=host())])["servers"][0]["state"] == "absent"


def test_hosts_that_can_not_be_reached_are_one_line():
    lost = [
        HostResult(f"h{i}", trouble=Cause("host_unreachable", f"it can't be reached (at 10.0.0.{i})")) for i in (1, 2)
    ]
    lines = summary_lines(build_report(lost))
    assert [line for line in lines if "unreachable" in line] == [
        "  host_unreachable: 2 hosts (h1, h2). The first: Host h1: it can't be reached (at 10.0.0.1)."
    ]


def test_hosts_that_one_and_the_same_keeps_from_being_deployed_are_one_line():
    hosts = [
        HostResult(f"h{i}", trouble=Cause("host_failed", said)) for i, said in enumerate(["no room", "busy", "busy"])
    ]
    assert [line for line in summary_lines(build_report(hosts)) if "host_failed" in line] == [
        "  host_failed: Host h0: no room.",
        "  host_failed: 2 hosts (h1, h2). The first: Host h1: busy.",
    ]


@pytest.mark.parametrize(
    ("generation", "health", "cause"),
    [
        (Generation(3, "x"), 503, "timeout"),
        (Generation(4, "y", "ada@desk, process 7", "now", "other"), 503, "changed_meanwhile"),
        (Generation(4, "y"), 200, None),  # it serves, whoever deployed it
    ],
)
def test_a_server_of_a_host_that_another_deployment_changed_has_no_false_cause(generation, health, cause):
    there = host(replace(running(INSTANCE, model_ids=("a-q2_k",)), health=health), generation=generation)
    value = replace(GOOD, after=there, generation=Generation(3, "x"))
    assert [item["cause"] for item in build_report([value])["summary"]["failed"]] == ([cause] if cause else [])


def test_a_time_out_says_how_long_it_has_been():
    now = running(INSTANCE, started_at=100.0)
    value = replace(GOOD, after=replace(host(replace(now, health=0)), looked_at=107.4))
    (item,) = build_report([value])["summary"]["failed"]
    assert "it does not answer 7 s after its start" in item["detail"]


@pytest.mark.parametrize(
    ("value", "launched"),
    [
        (result(running(INSTANCE, model_ids=("a-q2_k",))), ["a"]),
        (result(running(INSTANCE, model_ids=("other",))), []),  # it does not serve, which is said of it
        (result(running(INSTANCE), outcome={"action": Action("a-q2_k", ActionKind.KEEP, "as it is")}), []),
        (result(None, outcome={"launched": False, "cause": Cause("port_taken", "x")}), []),
        (HostResult("gpu1"), []),
    ],
)
def test_what_was_launched_and_serves(value, launched):
    assert launched_models([value]) == ([INSTANCE.model_id] if launched else [])


@pytest.mark.parametrize(
    ("environment", "more", "devices", "shown"),
    [
        ({}, {}, [], "425 MiB"),
        ({"LLAMA_ARG_DEVICE": "CUDA1", "MAGI_GPU": "CUDA1"}, {}, ["CUDA1"], "425 MiB, CUDA1"),
        ({"LLAMA_ARG_DEVICE": "CUDA1"}, {"used_gpu": 2 << 30}, ["CUDA1"], "425 MiB, 2.0 GiB on CUDA1"),
        ({"LLAMA_ARG_DEVICE": "RPC0,RPC1"}, {}, ["RPC0", "RPC1"], "425 MiB, RPC0,RPC1"),
        ({"LLAMA_ARG_DEVICE": "none"}, {}, [], "425 MiB"),
        # it is told no name: the driver sees it, it said that it fell to the CPU, or nobody can tell
        ({"MAGI_GPU": "ROCm0,ROCm1"}, {"used_gpu": 2 << 30}, ["ROCm0", "ROCm1"], "425 MiB, 2.0 GiB on ROCm0,ROCm1"),
        ({"MAGI_GPU": "ROCm0"}, {"fell_back": "no usable GPU found"}, [], "425 MiB"),
        ({"MAGI_GPU": "Vulkan0"}, {}, None, "425 MiB"),
        ({"LLAMA_ARG_DEVICE": "CUDA1"}, {"pid": None, "used_memory": None, "state": "failed"}, None, "-"),
    ],
)
def test_a_report_and_a_status_say_on_which_gpu_a_server_is(environment, more, devices, shown):
    now = running(INSTANCE, model_ids=("a-q2_k",), **{"used_memory": 425 << 20, **more})
    now = replace(now, environment={**now.environment, **environment})
    status = build_status({"gpu1": host(now)}, {"gpu1": Way()})
    for document in (status, build_report([result(now)])):
        (server,) = document["servers"]
        assert server["devices"] == devices
        assert (memory_shown(server) or "-") == shown
    assert any(f" {shown} " in line for line in status_lines(status))


def test_a_status_names_the_gpu_without_which_a_server_does_not_start():
    log = (FELL, 'error while handling environment variable "LLAMA_ARG_DEVICE": invalid device: CUDA0')
    status = build_status({"gpu1": host(running(INSTANCE, state="failed", pid=None, log=log))}, {"gpu1": Way()})
    (said,) = status["summary"]["failed"]
    assert (said["instance"], said["cause"]) == ("a-q2_k", "device_missing")
    assert "did not find the device CUDA0 at its start" in said["detail"]
    other = host(running(INSTANCE, state="failed", pid=None, log=("out of memory",)))
    assert build_status({"gpu1": other}, {"gpu1": Way()})["summary"]["failed"] == []


PLANNED = {"MAGI_NEED": "CUDA0=2147483648 CUDA1=1073741824 Host=1073741824 mapped=1073741824"}


@pytest.mark.parametrize(
    ("used", "used_gpu", "said"),
    [
        (2 << 30, 3 << 30, ""),
        (int(2.2 * (1 << 30)), None, ""),
        (int(2.3 * (1 << 30)), None, "uses 2.3 GiB of memory, and was planned with 2.0 GiB"),
        (None, 4 << 30, "uses 4.0 GiB of its GPUs, and was planned with 3.0 GiB"),
    ],
)
def test_an_instance_that_uses_more_than_it_was_planned_with_is_named(used, used_gpu, said):
    now = running(INSTANCE, model_ids=("a-q2_k",), used_memory=used, used_gpu=used_gpu)
    now = replace(now, environment={**now.environment, **PLANNED})
    report = build_report([result(now)])
    (server,) = report["servers"]
    need = {"Host": 2 << 30, "CUDA0": 2 << 30, "CUDA1": 1 << 30}
    assert server["memory"] == {"need": need, "used": used, "used_gpu": used_gpu}
    expected = [f"Host gpu1: a-q2_k {said}; leave more free (docs/capacity.md)."] if said else []
    assert report["summary"]["warnings"] == expected
    status = build_status({"gpu1": host(now)}, {"gpu1": Way()})
    assert (status["servers"][0]["memory"], status["summary"]["warnings"]) == (server["memory"], expected)
    assert [line for line in status_lines(status) if line.startswith("Warning")] == [f"Warning: {x}" for x in expected]


def test_a_pool_is_shown_with_its_models_and_is_known_by_them():
    value = plan(pools=[{"name": "small", "models": ["a-q2_k", {"model": "d-q4_1", "aliases": ["d"]}]}])
    (pool,) = (x for x in value.instances if x.members)
    now = running(pool, health=200, model_ids=("a-q2_k", "d-q4_1"), models={"a-q2_k": "loaded", "d-q4_1": "unloaded"})
    status = build_status({"gpu1": host(now)}, {"gpu1": Way()})
    (server,) = status["servers"]
    assert (server["is_ready"], server["model_id"], server["models"]) == (True, "small", dict(now.models))
    members = [
        {"model_id": "a-q2_k", "tier": "Q2", "task": "chat", "aliases": []},
        {"model_id": "d-q4_1", "tier": "Q4", "task": "chat", "aliases": ["d"]},
    ]
    assert server["members"] == members
    for seen in (now, replace(now, health=0, model_ids=None, models=None)):
        deployed = build_report([HostResult("gpu1", plan=value, after=host(seen))])
        assert [x["members"] for x in deployed["servers"] if "members" in x] == [members]
    lines = status_lines(status)
    assert [line.split()[0] for line in lines[-3:]] == ["small", "a-q2_k", "d-q4_1"]
    assert "loaded" in lines[-2]
    assert "unloaded" in lines[-1]
    other = build_status({"gpu1": host(replace(now, model_ids=("a-q2_k",)))}, {"gpu1": Way()})
    assert other["summary"]["failed"][0]["cause"] == "wrong_server"
    idle = replace(now, models={"a-q2_k": "unloaded", "d-q4_1": "unloaded"}, asleep=True)
    assert build_status({"gpu1": host(idle)}, {"gpu1": Way()})["servers"][0]["state"] == "asleep"


def test_the_end_of_what_stood_in_is_the_last_that_is_known_of_a_host():
    def looked(number, at):
        there = replace(host(running(INSTANCE, model_ids=("a-q2_k",), health=200)), looked_at=at)
        return {"host": there.to_dict(), "generation": asdict(Generation(number, "x")), "actions": []}

    seen = {
        "settings": {"settings": {"max_startup_time": 60}, "way": {"address": "h", "connection": "ssh"}},
        "planned": {"plan": PLAN.to_dict()},
        "applied": looked(2, 10),
        "relieved": looked(3, 20),
    }
    result = host_result("gpu1", seen)
    assert (result.generation.number, result.after.looked_at, result.trouble) == (3, 20, None)
    taken_back = host_result("gpu1", {**seen, "applied": looked(4, 30)})
    assert (taken_back.generation.number, taken_back.after.looked_at) == (4, 30)
    failed = host_result("gpu1", {**seen, "relieved": {"failed": True, "msg": "no room on the disk"}})
    assert (failed.generation.number, failed.trouble) == (2, Cause("host_failed", "no room on the disk"))


def test_what_came_first_on_a_host_is_a_part_of_its_deployment():
    """At first, its own plan is that of the host; then that of all, in which it is kept."""

    def applied(**kinds):
        actions = [ActionResult(Action(name, ActionKind(kind), "why")).to_dict() for name, kind in kinds.items()]
        return {"host": host().to_dict(), "generation": asdict(Generation(2, "x")), "actions": actions}

    first, whole, back = (replace(PLAN, profile=name) for name in ("first", "whole", "back"))
    seen = {
        "settings": {"settings": {"max_startup_time": 60}, "way": {"address": "h", "connection": "ssh"}},
        "planned": {"plan": whole.to_dict()},
        "rollout": {"alone": {"gpu1": first.to_dict()}},
        "applied": applied(a="restart", b="keep"),
    }
    assert host_result("gpu1", seen).plan.profile == "first"
    assert host_result("gpu2", seen).plan.profile == "whole"
    restored = {"plan": replace(back, restores=1.5).to_dict()}
    assert host_result("gpu1", {**seen, "planned": restored}).plan.profile == "back"

    launched = {"gpu1": seen["applied"]["actions"][:1]}
    seen.update(rollout={"alone": {}}, applied=applied(a="keep", b="restart"), canary={"launched": launched})
    result = host_result("gpu1", seen)
    assert result.plan.profile == "whole"
    assert {item.instance: item.action.action for item in result.results} == {"a": "restart", "b": "restart"}


@pytest.mark.parametrize(
    ("more", "listeners", "ready", "state", "cause"),
    [
        ({"health": 200}, (replace(OURS, port=8089, instance="big.worker"),), True, "running", None),
        ({"health": 0}, (), False, "running", "timeout"),
        (
            {"health": None, "pid": None, "state": "failed", "log": ("Failed to create server socket",)},
            (),
            False,
            "failed",
            "port_taken",
        ),
        (None, (), False, "absent", "crashed"),
    ],
)
def test_workers_are_apart_from_servers(more, listeners, ready, state, cause):
    environment = {"LLAMA_ARG_HOST": "10.0.0.2", WORKER: "gpu1/big", "MAGI_NEED": f"Host={1 << 30} mapped=0"}
    worker = replace(INSTANCE, name="big.worker", port=8089, environment=environment)
    there = host(*([running(worker, **more)] if more else []), listeners=listeners)
    done = [ActionResult(Action("big.worker", ActionKind.START, "new"))]
    value = HostResult("gpu2", replace(PLAN, instances=(), workers=(worker,)), done, there, 120)
    report = build_report([value])
    (found,) = report["workers"]
    assert (report["servers"], report["total_servers"]) == ([], 0)
    assert (found["instance"], found["host"], found["server"]) == ("big.worker", "gpu2", "gpu1/big")
    assert (found["port"], found["state"], found["is_ready"]) == (8089, state, ready)
    assert [item["cause"] for item in report["summary"]["failed"]] == ([cause] if cause else [])
    assert any(line.split()[:4] == ["big.worker", "gpu1/big", "gpu2", "8089"] for line in summary_lines(report))
    status = build_status({"gpu2": there}, {"gpu2": Way()})
    assert [item["is_ready"] for item in status.get("workers", ())] == ([ready] if more else [])
    assert status["servers"] == []
    assert any("big.worker" in line for line in status_lines(status)) == bool(more)
