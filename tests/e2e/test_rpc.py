"""One model computed by several hosts: real workers (ggml-rpc-server), each a service of a host of its own."""

from __future__ import annotations

import os
import signal
import urllib.error
from pathlib import Path

import pytest

from ..waiting import until
from .conftest import Deployment, alive, ask, ports
from .rpc import with_rpc_server

pytestmark = pytest.mark.e2e

Q2 = "smollm2-135m-instruct.q2_k"
WORKER = f"{Q2}.worker"
FIRST, LAST = ports(29100)


@pytest.fixture
def hosts(deployment: Deployment) -> Deployment:
    """Three hosts, all this machine: the first has the model."""
    for number, name in enumerate(("one", "two", "three")):
        home = deployment.home if name == "one" else deployment.folder / name
        models = deployment.models if name == "one" else deployment.folder / f"{name}-models"
        models.mkdir(exist_ok=True)
        deployment.hosts[name] = {
            "model_server_home": str(home),
            "model_server_scan_paths": [str(models)],
            "model_server_registry_path": str(deployment.folder / f"{name}.json"),
            "model_server_port_range": [FIRST + 5 * number, FIRST + 5 * number + 4],
        }
    del deployment.hosts["localhost"]
    deployment.variables["model_server_llama_server_path"] = str(with_rpc_server(deployment.folder / "bin"))
    deployment.add_model("Q2_K")
    return deployment


def test_a_model_is_computed_by_workers_that_start_first_and_end_last(hosts: Deployment):
    entry = {"model": Q2, "rpc": ["two", "three"], "options": {"ctx_size": 1024, "cache_ram": 16}}
    hosts.add_profile("split", entry)
    done = hosts.play("site", profile="split")
    assert done.code == 0, done.output

    report = hosts.report()
    (server,), workers = report["servers"], {item["host"]: item for item in report["workers"]}
    assert (server["host"], server["is_ready"], server["port"]) == ("one", True, FIRST)
    assert {name: (item["instance"], item["server"]) for name, item in workers.items()} == dict.fromkeys(
        ("two", "three"), (WORKER, f"one/{Q2}")
    )
    assert all(item["is_ready"] and item["address"] == "127.0.0.1" for item in workers.values())
    assert (workers["two"]["port"], workers["three"]["port"]) == (FIRST + 9, FIRST + 14)
    assert all(item["started_at"] <= server["started_at"] for item in workers.values())
    assert "Paris" in ask(server["port"])
    # Each has its part of the weights and of the context, and its host's ledger has that.
    for item in workers.values():
        used, planned = _memory(item["pid"]), item["memory"]["need"]["Host"]
        assert 20 << 20 < used < planned * 1.1

    again = hosts.play("site", profile="split")
    assert again.code == 0 and "changed=0" in again.output, again.output
    assert hosts.report()["servers"][0]["pid"] == server["pid"]

    # A worker that dies takes its server with it; both come back by themselves.
    os.kill(workers["two"]["pid"], signal.SIGKILL)
    until(lambda: _answers(server["port"]), 60, "the server has its new worker")
    assert not alive(server["pid"])

    # A worker that changes is restarted, and so is its server, which has ended before.
    hosts.hosts["three"]["model_server_environment"] = {"GGML_RPC_DEBUG": "1"}
    changed = hosts.play("site", profile="split")
    assert changed.code == 0, changed.output
    (server,), workers = hosts.report()["servers"], {item["host"]: item for item in hosts.report()["workers"]}
    assert workers["three"]["started_at"] <= server["started_at"]
    assert server["is_ready"] and "Paris" in ask(server["port"])
    assert "Remote RPC server crashed" not in (hosts.home / "logs" / f"{Q2}.log").read_text()

    stopped = hosts.play("stop")
    assert stopped.code == 0, stopped.output
    assert not any(alive(item["pid"]) for item in (server, *workers.values()))
    assert "Remote RPC server crashed" not in (hosts.home / "logs" / f"{Q2}.log").read_text()


def _answers(port: int) -> bool:
    try:
        return "Paris" in ask(port)
    except (OSError, urllib.error.URLError):
        return False


def _memory(pid: int) -> int:
    """Return the bytes that a process has for itself."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Private_"))
