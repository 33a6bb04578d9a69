"""The main job: from GGUF files to servers that answer, switched, stopped and torn down."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.magi.models.plugins.module_utils._services.supervisor import socket_path

from .. import hostile
from .conftest import MODELS, PORTS, ROOT, Deployment, alive, ask, environment_of

pytestmark = pytest.mark.e2e

Q2, Q3, Q4 = (f"smollm2-135m-instruct.{q}" for q in ("q2_k", "q3_k_m", "q4_k_m"))


def add_all(deployment: Deployment) -> None:
    for quantization in ("Q2_K", "Q3_K_M", "Q4_K_M"):
        deployment.add_model(quantization)


def test_from_files_to_answers_and_back(deployment: Deployment):
    add_all(deployment)

    # check → real → again → again in check
    bare = deployment.play("site", "--check", "--diff")
    assert bare.code == 0, bare.output
    assert deployment.tree() == {}
    foreseen = [line for line in bare.output.splitlines() if line.startswith(("start ", "+LLAMA_ARG"))]
    assert f"start {Q2}: new in this profile" in foreseen

    first = deployment.play("site", "--diff")
    assert first.code == 0, first.output
    done = [line for line in first.output.splitlines() if line.startswith(("start ", "+LLAMA_ARG"))]
    assert done == foreseen
    for step in (
        "[1/5] Model discovery",
        "[2/5] Loading profile",
        "[3/5] Filtering enabled models",
        "[4/5] Launching servers",
        "[5/5] Health check",
    ):
        assert step in first.output
    report = deployment.report()
    assert (report["total_servers"], report["ready_servers"]) == (3, 3)
    assert report["summary"] == {
        "profile": "development",
        "models_discovered": 3,
        "models_enabled": 3,
        "servers_launched": 3,
        "servers_ready": 3,
        "failed": [],
        "degraded": [],
        "warnings": [],
    }
    servers = deployment.servers()
    assert list(servers) == [Q2, Q3, Q4]
    for server in servers.values():
        assert {k: server[k] for k in ("host", "is_ready", "model_id")} == {
            "host": "localhost",
            "is_ready": True,
            "model_id": server["instance"],
        }
        assert str(server["port"]) in first.output
        assert "France" in ask(server["port"])  # smaller quantizations do not all know Paris
    assert [servers[name]["tier"] for name in (Q2, Q3, Q4)] == ["Q2", "Q3", "Q4"]
    assert "curl " in first.output

    again = deployment.play()
    assert (again.code, again.changed) == (0, 0), again.output
    assert {n: s["pid"] for n, s in deployment.servers().items()} == {n: s["pid"] for n, s in servers.items()}
    state = deployment.tree()
    checked = deployment.play("site", "--check")
    assert (checked.code, checked.changed) == (0, 0), checked.output
    assert deployment.tree() == state

    # switch: a server that both profiles enable keeps its process and its port
    switched = deployment.play(profile="fast-only")
    assert switched.code == 0, switched.output
    assert f"stop {Q3}: not enabled by profile fast-only" in switched.output
    now = deployment.servers()
    assert {k: now[Q2][k] for k in ("pid", "port")} == {k: servers[Q2][k] for k in ("pid", "port")}
    assert list(now) == [Q2]
    assert not alive(servers[Q3]["pid"])

    back = deployment.play(profile="production")
    assert back.code == 0, back.output
    assert list(deployment.servers()) == [Q3, Q4]
    assert not alive(servers[Q2]["pid"])

    status = deployment.play("status")
    assert status.code == 0
    assert Q3 in status.output

    # what is not ours stays, and a second teardown finds nothing to do
    theirs = [deployment.home / path for path in ("logs/theirs.log", "instances/theirs", "supervisor/theirs")]
    for path in theirs:
        path.write_text("x")
    foreign = subprocess.Popen([sys.executable, "-m", "http.server", str(PORTS[1]), "--bind", "127.0.0.1"])
    try:
        pids = [server["pid"] for server in deployment.servers().values()]
        gone = deployment.play("teardown")
        assert gone.code == 0, gone.output
        assert gone.changed == 1
        assert not any(alive(pid) for pid in pids)
        assert {*deployment.home.rglob("*")} == {*theirs, *(path.parent for path in theirs)}
        assert not deployment.registry.exists()
        assert (deployment.models / "SmolLM2-135M-Instruct.Q2_K.gguf").exists()
        assert foreign.poll() is None
        twice = deployment.play("teardown")
        assert (twice.code, twice.changed) == (0, 0), twice.output
    finally:
        foreign.terminate()
        foreign.wait()


def test_one_after_the_other(deployment: Deployment):
    add_all(deployment)
    deployment.variables["model_server_concurrent_starts"] = False
    run = deployment.play()
    assert run.code == 0, run.output
    assert deployment.report()["ready_servers"] == 3
    started = [server["started_at"] for server in deployment.servers().values()]
    assert started == sorted(started)


def test_stop_and_start_again(deployment: Deployment):
    add_all(deployment)
    assert deployment.play().code == 0
    before = deployment.servers()
    stopped = deployment.play("stop", model_server_stop_instances=[Q2])
    assert (stopped.code, stopped.changed) == (0, 1), stopped.output
    assert [alive(before[name]["pid"]) for name in (Q2, Q3, Q4)] == [False, True, True]
    assert deployment.play("stop", model_server_stop_instances=[Q2]).changed == 0
    again = deployment.play()
    assert again.code == 0
    assert f"start {Q2}: was stopped" in again.output
    after = deployment.servers()
    assert after[Q2]["port"] == before[Q2]["port"]
    assert after[Q3]["pid"] == before[Q3]["pid"]


def test_a_changed_option_restarts_what_it_concerns_and_nothing_else(deployment: Deployment):
    add_all(deployment)
    assert deployment.play().code == 0
    before = deployment.servers()
    deployment.add_profile("development", "*", {"model": Q3, "instances": 2, "options": {"ctx_size": 1024}})
    run = deployment.play()
    assert run.code == 0, run.output
    assert f"restart {Q3}: ctx_size unset → 1024" in run.output
    after = deployment.servers()
    assert [after[name]["pid"] == before[name]["pid"] for name in (Q2, Q3, Q4)] == [True, False, True]
    assert after[Q3]["port"] == before[Q3]["port"]
    assert after[f"{Q3}-2"]["is_ready"]
    assert environment_of(after[Q3]["pid"])["LLAMA_ARG_CTX_SIZE"] == "1024"


def test_instances_share_the_cores_and_nothing_of_the_caller_s_environment(deployment: Deployment):
    add_all(deployment)
    deployment.environment = {"LLAMA_API_KEY": "canary-1", "HF_TOKEN": "canary-2", "LLAMA_ARG_CTX_SIZE": "77"}
    run = deployment.play("site", "-vvv", "--diff")
    assert run.code == 0, run.output
    assert "canary-" not in run.output  # a profile has a key canary
    for server in deployment.servers().values():
        environment = environment_of(server["pid"])
        assert "canary" not in str(environment)
        assert "LLAMA_ARG_CTX_SIZE" not in environment
        assert environment["OMP_WAIT_POLICY"] == "passive"
        assert int(environment["LLAMA_ARG_THREADS"]) >= 1
    assert "canary" not in "".join(map(str, deployment.tree().values()))


def test_hostile_names_and_metadata_reach_the_process_exactly(deployment: Deployment):
    hostile.make(MODELS, deployment.models)
    run = deployment.play("site", "--diff")
    assert run.code == 0, run.output
    servers = deployment.servers().values()
    assert [server["is_ready"] for server in servers] == [True] * len(hostile.MODELS), run.output
    started = [environment_of(server["pid"]) for server in servers]
    assert {(one["LLAMA_ARG_MODEL"], one["MAGI_DISPLAY_NAME"]) for one in started} == hostile.served_from(
        str(deployment.models)
    )
    details = " ".join(item["detail"] for item in deployment.report()["summary"]["degraded"])
    assert "the file name of bell-.q3_k_m on localhost has control characters" in details
    assert "not UTF-8" in details
    assert "has a name that is not UTF-8" in deployment.registry.read_text()
    # Where a template's lookup would have run its command.
    assert not [*ROOT.glob("own*"), *ROOT.glob("playbooks/own*")]


def test_a_home_whose_path_is_too_long_for_a_socket(deployment: Deployment):
    deployment.add_model("Q2_K")
    home = deployment.folder / ("long" * 25)
    deployment.variables["model_server_home"] = str(home)
    path = Path(socket_path(str(home)))
    try:
        run = deployment.play()
        assert run.code == 0, run.output
        assert path.is_socket()
        assert deployment.play().changed == 0
    finally:
        gone = deployment.play("teardown")
        assert gone.code == 0, gone.output
    assert not path.exists()
    assert not home.exists()


@pytest.mark.parametrize("give", ["environment", "extra"])
def test_settings_come_from_the_environment_and_e_beats_it(deployment: Deployment, give: str, tmp_path):
    other = tmp_path / "other folder"
    other.mkdir()
    deployment.add_model("Q2_K").rename(other / "mine.Q2_K.gguf")
    deployment.cwd = tmp_path
    deployment.environment = {
        "MODEL_SCAN_PATH": f"/nonexistent:{other.name}",
        "MODEL_PORT_RANGE": f"{PORTS[1] - 2}-{PORTS[1] - 1}",
    }
    extra = {"model_server_port_range": [PORTS[1] - 1, PORTS[1]]} if give == "extra" else {}
    run = deployment.play(**extra)
    assert run.code == 0, run.output
    assert [(s["instance"], s["port"]) for s in deployment.servers().values()] == [
        ("mine.q2_k", PORTS[1] - (1 if give == "extra" else 2))
    ]
