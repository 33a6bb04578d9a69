"""One profile by all service managers, each on a host of its own: the same reports, and nothing left behind.

systemd runs a test host; supervisor, docker and podman are this machine's. Both engines pull the image themselves.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .. import registry
from ..e2e.conftest import CACHE, LLAMA_SERVER, ports
from ..e2e.engine import hosts, image_files, left
from .conftest import Q2, Q3, Fleet, bare

pytestmark = pytest.mark.fleet

PORTS = ports(18480)
ENGINES = ("docker", "podman")
LOCAL = (*ENGINES, "supervisor")
BROKEN = {"cache_type_v": "q4_0", "flash_attn": False}
HALF = "truncated.Q4_K_M.gguf"


@pytest.fixture
def managers(
    request: pytest.FixtureRequest, fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, dict[str, Any]]]:
    """Hosts by name, which is that of their manager; each has a model of which half is missing, too."""
    bare(fleet, "host1")
    for engine in ENGINES:
        hosts({"docker": "engine"}.get(engine, engine))
    (tmp_path / "half").mkdir()
    half = (CACHE / "models" / "SmolLM2-135M-Instruct.Q4_K_M.gguf").read_bytes()[:4_000_000]
    (tmp_path / "half" / HALF).write_bytes(half)
    fleet.sh(
        "host1", f"mkdir -p /srv/half; head -c {len(half)} /models/SmolLM2-135M-Instruct.Q4_K_M.gguf >/srv/half/{HALF}"
    )
    image_files(tmp_path / "image")
    with registry.serving(tmp_path / "image", ["/app/llama-server"]) as image:
        settings = {
            "CONTAINERS_CONF": '[engine]\nruntime = "runc"\n',
            "CONTAINERS_REGISTRIES_CONF": f'[[registry]]\nlocation = "{image.partition("/")[0]}"\ninsecure = true\n',
        }
        for name, text in settings.items():
            (tmp_path / name).write_text(text)
            monkeypatch.setenv(name, str(tmp_path / name))
        found = {
            name: {
                "ansible_connection": "local",
                "ansible_python_interpreter": sys.executable,
                "model_server_manager": name,
                "model_server_image": image,
                "model_server_supervisord_path": str(Path(sys.executable).with_name("supervisord")),
                "model_server_llama_server_path": str(LLAMA_SERVER),
                "model_server_home": str(tmp_path / name),
                "model_server_registry_path": str(tmp_path / f"{name}.json"),
                "model_server_scan_paths": [str(CACHE / "models"), str(tmp_path / "half")],
                "model_server_host": "127.0.0.1",
                "model_server_port_range": [PORTS[0] + 5 * number, PORTS[0] + 5 * number + 4],
            }
            for number, name in enumerate(LOCAL)
        }
        found["host1"] = {**fleet.hosts["host1"], "model_server_scan_paths": ["/models", "/srv/half"]}
        yield found
        if request.node.session.testsfailed:  # else the test has done it
            fleet.play("teardown", hosts=found)
    fleet.sh("host1", "rm -r /srv/half")


def alike(said: dict[str, dict[str, Any]]) -> None:
    for host, each in said.items():
        assert each == said["host1"], host


def told(fleet: Fleet, host: str) -> dict[str, Any]:
    """What the report says of a host, but for what is its own: its name, folders, ports, processes and times."""
    report = fleet.report()
    own = {"host", "address", "port", "url", "url_from", "pid", "started_at", "memory"}
    failed = [item for item in report["summary"]["failed"] if item["host"] == host]
    degraded = [item["detail"] for item in report["summary"]["degraded"] if item["host"] == host]
    servers = [server for server in report["servers"] if server["host"] == host]
    first = min(server["port"] for server in servers)

    def anywhere(text: str) -> str:
        return re.sub(rf"\b{host}\b|/\S+(?=/half/)", "…", text)

    return {
        "servers": [{key: server[key] for key in server.keys() - own} for server in servers],
        "ports": [server["port"] - first for server in servers],
        "failed": [(item["instance"], item["cause"], anywhere(item["detail"])) for item in failed],
        "log": [any("quantized V cache" in line for line in item["log"]) for item in failed],
        "degraded": [*map(anywhere, degraded)],
    }


def test_a_profile_is_deployed_by_all_managers_with_the_same_report(fleet: Fleet, managers: dict[str, dict[str, Any]]):
    def ours(engine: str) -> list[str]:
        return left(engine, managers[engine]["model_server_home"], managers[engine]["model_server_image"])

    fleet.profile("one", Q2, {"model": Q3, "options": BROKEN}, "not-there-q8_0", "truncated.q4_k_m")
    fleet.profile("two", {"model": Q2, "options": {"ctx_size": 1024}}, Q3)

    # one serves, one fails for good, one is not there, and one is broken
    run = fleet.deploy("one", hosts=managers)
    assert run.code == 0, run.output
    first = {host: told(fleet, host) for host in managers}
    pids = fleet.pids()
    alike(first)
    assert pids.keys() == {(host, Q2) for host in managers}
    assert [cause for _name, cause, _detail in first["host1"]["failed"]] == ["bad_option"]
    assert first["host1"]["log"] == [True]
    assert len(first["host1"]["degraded"]) == 2
    assert [len(ours(host)) for host in ENGINES] == [3, 3]  # two containers, and the image that was pulled

    # nothing changes, and what failed is not tried again
    same = fleet.deploy("one", hosts=managers)
    assert (same.code, same.changed, fleet.pids()) == (0, 0, pids), same.output
    again = {host: told(fleet, host) for host in managers}
    alike(again)
    assert {server["action"] for server in again["host1"]["servers"]} == {"keep", "quarantine"}

    # an update from host to host ends with the first that fails
    broken = {**managers, "docker": {**managers["docker"], "model_server_options": BROKEN}}
    run = fleet.deploy("two", hosts=broken, model_server_serial=1)
    assert run.code != 0
    causes = {item["host"]: item["cause"] for item in fleet.report()["summary"]["failed"]}
    assert causes == {"docker": "bad_option", **dict.fromkeys(managers.keys() - {"docker"}, "held_back")}
    assert {key: pid for key, pid in fleet.pids().items() if key[1] == Q2} == {
        key: pid for key, pid in pids.items() if key[0] != "docker"
    }

    # mended, it goes on, and the model that failed serves
    run = fleet.deploy("two", hosts=managers)
    assert run.code == 0, run.output
    second = {host: told(fleet, host) for host in managers}
    assert fleet.report()["ready_servers"] == 2 * len(managers)
    for each, action in zip(second["docker"]["servers"], ("restart", "start")):
        each["action"] = action  # there, both had failed
    alike(second)

    down = fleet.play("teardown", hosts=managers)
    assert down.code == 0, down.output
    assert [ours(host) for host in ENGINES] == [[], []]
    assert not [host for host in LOCAL if os.path.exists(managers[host]["model_server_home"])]
    assert not [line for line in fleet.snapshot("host1") if "magi" in line]
