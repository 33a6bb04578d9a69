"""What Prometheus sees of a deployment: the real one, which looks each second, at real servers and a real gateway."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..command import Ran, begin
from ..load import ask_once
from ..prometheus import Prometheus, get
from ..waiting import until
from .conftest import PORTS, Deployment

PROMETHEUS, NODE_EXPORTER = map(shutil.which, ("prometheus", "prometheus-node-exporter"))
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not (PROMETHEUS and NODE_EXPORTER),
        reason="Prometheus is not installed (Debian: apt-get install prometheus prometheus-node-exporter)",
    ),
]

Q2, Q3 = "smollm2-135m-instruct.q2_k", "smollm2-135m-instruct.q3_k_m"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """Process and port of a node_exporter that reads our file, and little else."""
    port = free_port()
    process = subprocess.Popen(
        [
            *(NODE_EXPORTER, "--collector.disable-defaults", "--collector.textfile"),
            *("--collector.meminfo", "--collector.filesystem"),
            *(f"--collector.textfile.directory={tmp_path / 'textfiles'}", f"--web.listen-address=127.0.0.1:{port}"),
        ],
        stderr=subprocess.DEVNULL,
    )
    yield process.pid, port
    process.terminate()
    process.wait()


@pytest.fixture
def watched(deployment: Deployment, node: tuple[int, int]) -> Deployment:
    """A deployment with two models, of which one falls asleep, a gateway, and files for Prometheus."""
    for quantization in ("Q2_K", "Q3_K_M"):
        deployment.add_model(quantization)
    deployment.add_profile("both", {"model": Q2, "idle": "2s"}, {"model": Q3})
    deployment.add_profile("one", {"model": Q2, "idle": "2s"})
    deployment.variables["model_server_port_range"] = [PORTS[0], PORTS[1] - 1]
    here = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
    }
    deployment.groups["model_gateways"] = {
        "hosts": {"localhost": {}},
        "vars": {
            **here,
            "model_gateway_manager": "supervisor",
            "model_gateway_supervisord_path": str(Path(sys.executable).with_name("supervisord")),
            "model_gateway_home": str(deployment.folder / "gateway"),
            "model_gateway_port": PORTS[1],
            "model_gateway_metrics_port": free_port(),
        },
    }
    deployment.groups["monitoring"] = {
        "hosts": {"localhost": {}},
        "vars": {
            **here,
            "observability_home": str(deployment.folder / "monitoring"),
            "observability_interval": 1,
            "observability_limits": {"down": 1, "memory": 1, "disk": 1},
            "observability_node_port": node[1],
            "observability_textfile_dir": str(deployment.folder / "textfiles"),
        },
    }
    return deployment


def magi(watched: Deployment, *arguments: str) -> dict:
    ran = Ran(begin(watched.folder / "state", *arguments, "--json", "-i", str(watched.inventory())))
    assert ran.code == 0, ran.err
    return ran.document


def looked_at_by_all_verbs(watched: Deployment) -> None:
    """Look with each verb at a fleet of which Q2 sleeps."""
    for arguments in (("status",), ("health", "--deep")):
        servers = {server["instance"]: server for server in magi(watched, *arguments)["servers"]}
        assert {name: (x["state"], x["is_ready"]) for name, x in servers.items()} == {
            Q2: ("asleep", True),
            Q3: ("running", True),
        }
        # it is planned with what it needs awake, and has less
        assert servers[Q2]["memory"]["used"] < servers[Q2]["memory"]["need"]["Host"] / 2
    plan = magi(watched, "plan", "both")["hosts"]["localhost"]
    assert {item["instance"]: item["reason"] for item in plan["actions"]} == {
        Q2: "asleep, as desired",
        Q3: "runs as desired",
    }
    assert magi(watched, "doctor", "-e", "profile=both")["problems"] == 0


def test_prometheus_sees_all_warns_and_wakes_nobody(watched: Deployment, node: tuple[int, int]):
    home = watched.folder / "monitoring"
    run = watched.play(profile="both")
    assert run.code == 0, run.output
    assert watched.play(profile="both").changed == 0
    with Prometheus(
        [
            *(PROMETHEUS, "--config.file", str(home / "prometheus.yml")),
            *("--storage.tsdb.path", str(watched.folder / "series")),
            f"--web.listen-address=127.0.0.1:{free_port()}",
        ],
        watched.folder,
    ) as prometheus:
        there = {Q2, Q3, "gateway localhost", "host localhost"}
        until(lambda: prometheus.up() == dict.fromkeys(there, True), 20, "all targets are up")
        labels = f'{{host="localhost",instance="{Q3}",model_id="{Q3}",tier="Q3",profile="both",device="cpu"}}'
        assert prometheus.value(f"llamacpp:requests_processing{labels}") == 0

        assert prometheus.value('magi_deployment_success{host="localhost"}') == 1
        assert prometheus.value('magi_deployment_info{host="localhost",profile="both"}') == 1
        assert prometheus.value(f'magi_instance_ready{{host="localhost",instance="{Q3}",model_id="{Q3}"}}') == 1

        # What our rules are made of is there, and they can be evaluated.
        servers = watched.servers()
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", PORTS[1], timeout=60)) as gateway:
            assert ask_once(gateway, Q3, stream=True, tokens=8) is None
        for name in ("magi:tokens:rate1m", "magi:queue", "magi:slots:busy_share", "magi:first_token:seconds"):
            until(lambda name=name: prometheus.value(f'{name}{{model_id="{Q3}"}}') is not None, 20, f"{name} is there")
        rules = [rule for group in prometheus.asked("rules")["groups"] for rule in group["rules"]]
        assert {rule["health"] for rule in rules} == {"ok"}

        # Each panel shows something.
        chosen = {"$host": "localhost", "$model": Q3}
        for path in sorted((home / "dashboards").glob("*.json")):
            for panel in json.loads(path.read_text())["panels"]:
                for target in panel["targets"]:
                    query = re.sub(r"\$\w+", lambda found: chosen[found[0]], target["expr"])
                    until(lambda query=query: prometheus.value(query) is not None, 20, f"{path.name}: {query}")

        # It falls asleep though it is looked at, and sleeps on.
        def asleep() -> bool:
            return get(f"http://127.0.0.1:{servers[Q2]['port']}/props")["is_sleeping"]

        looks = f'count_over_time(up{{instance="{Q2}"}}[1h])'
        until(asleep, 20, "the idle server sleeps")
        log = watched.home / "logs" / f"{Q2}.log"
        fell_asleep, before = log.read_text().count("entering sleeping state"), prometheus.value(looks)
        looked_at_by_all_verbs(watched)
        until(lambda: prometheus.value(looks) >= before + 10, 30, "ten more looks")
        assert asleep()
        assert log.read_text().count("entering sleeping state") == fell_asleep

        # magi top does not wake it, either, and has from the gateway what servers do not tell.
        found = Ran(begin(watched.folder / "state", "top", "--json", "-i", str(watched.inventory()))).document
        seen = {item["instance"]: item for item in found["servers"]}
        assert (seen[Q2]["state"], seen[Q3]["state"], seen[Q3]["first_token"]["requests"]) == ("asleep", "ready", 1)
        assert asleep()
        assert log.read_text().count("entering sleeping state") == fell_asleep

        assert prometheus.firing() == {}
        stopped = (servers[Q3]["pid"], node[0])
        for process in stopped:
            os.kill(process, signal.SIGSTOP)
        try:
            until(lambda: prometheus.firing().keys() == {"MagiServerDown", "MagiHostDown"}, 30, "both alerts fire")
            found = prometheus.firing()
        finally:
            for process in stopped:
                os.kill(process, signal.SIGCONT)
        said = found["MagiServerDown"]["annotations"]
        assert said["summary"] == f"Server {Q3} on host localhost does not answer"
        assert said["runbook_url"].endswith("/docs/alerts.md#magiserverdown")
        assert found["MagiHostDown"]["labels"]["host"] == "localhost"
        until(lambda: not prometheus.firing(), 30, "the alerts end")

        # What no longer runs is no target.
        assert watched.play(profile="one").code == 0
        until(lambda: {*prometheus.up()} == there - {Q3}, 20, "the target is gone")
        assert asleep()

        # Whoever asks for it gets its answer: it counts as up, and wakes.
        def woken() -> int:
            return log.read_text().count("server is exiting sleeping state")

        assert woken() == 0
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", PORTS[1], timeout=60)) as gateway:
            assert ask_once(gateway, Q2, stream=True, tokens=8) is None
        assert woken() == 1
        until(asleep, 20, "it sleeps again")
        magi(watched, "health", "--deep", "-e", "deep_wake=true")
        assert woken() > 1  # by the server's own host and, if it slept again until then, by the gateway
    assert watched.play("teardown").code == 0
    assert not home.exists()
    assert [*(watched.folder / "textfiles").iterdir()] == []
