"""What Prometheus sees of a deployment: the real one, which looks each second, at real servers and a real gateway."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.files import write_atomic
from ansible_collections.magi.models.plugins.module_utils._llama.probe_all import probe_all
from ansible_collections.magi.models.plugins.plugin_utils._observe.rules import Limits, alerts

from ..command import Ran, begin
from ..load import Clients, ask_once
from ..playbook import Run
from ..prometheus import Prometheus, get
from ..waiting import until
from .conftest import PORTS, Deployment, environment_of

PROMETHEUS, NODE_EXPORTER = map(shutil.which, ("prometheus", "prometheus-node-exporter"))
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not (PROMETHEUS and NODE_EXPORTER) and "CI" not in os.environ,
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
            *(f"--collector.textfile.directory={tmp_path / 'textfiles'}*", f"--web.listen-address=127.0.0.1:{port}"),
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
    deployment.add_gateway(PORTS[1], model_gateway_metrics_port=free_port())
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

        looks = f'sum(count_over_time(up{{instance="{Q2}"}}[1h]))'
        until(asleep, 20, "the idle server sleeps")
        log = watched.home / "logs" / f"{Q2}.log"
        fell_asleep, before = log.read_text().count("entering sleeping state"), prometheus.value(looks)
        looked_at_by_all_verbs(watched)
        assert asleep()
        assert log.read_text().count("entering sleeping state") == fell_asleep

        # magi top does not wake it, either, and has from the gateway what servers do not tell: of our question, and of that
        # of health --deep.
        found = Ran(begin(watched.folder / "state", "top", "--json", "-i", str(watched.inventory()))).document
        seen = {item["instance"]: item for item in found["servers"]}
        assert (seen[Q2]["state"], seen[Q3]["state"], seen[Q3]["first_token"]["requests"]) == ("asleep", "ready", 2)
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
        until(lambda: prometheus.value(looks) >= before + 60, 60, "a minute of looks since it fell asleep")
        assert asleep()
        assert log.read_text().count("entering sleeping state") == fell_asleep

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


LIMITS = {"down": 1, "loading": 0, "hung": 1, "probe": 5, "slow": 1, "queue": 2, "first_token": 0.01, "restarts": 0}
WINDOWS = {"[15m]": "[10s]", "[5m]": "[5s]", "[1m]": "[5s]"}
"""The rules look back for so long, in the time of this test."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 16 MiB."""
    image, folder = tmp_path / "disk.img", tmp_path / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(1 << 24)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def memory_in_use() -> float:
    """Return the share of this machine's memory that is in use, as the rule computes it."""
    found = dict(re.findall(r"^(Mem\w+): +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE))
    return 1 - int(found["MemAvailable"]) / int(found["MemTotal"])


def processes(program: str, mark: str) -> list[int]:
    """Return the processes of a program that have ``mark`` in their command line or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            said = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes() if entry.name.isdigit() else b""
            if mark.encode() in said and (entry / "exe").resolve().name == program:
                found.append(int(entry.name))
    return found


def server_of(deployment: Deployment, name: str) -> list[int]:
    """Return the process of an instance, in a list; none while it is started again."""
    return [
        pid
        for pid in processes("llama-server", f"MAGI_HOME={deployment.home}\0")
        if environment_of(pid)["MAGI_INSTANCE"] == name
    ]


@contextlib.contextmanager
def held(*processes: int) -> Iterator[None]:
    """Within it, these do nothing."""
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


@contextlib.contextmanager
def slowed(process: int) -> Iterator[None]:
    """Within it, a process gets a tenth of its time."""
    over = threading.Event()

    def turns() -> None:
        while not over.wait(0.02):
            with held(process):
                over.wait(0.2)

    thread = threading.Thread(target=turns)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def hung(process: int) -> Iterator[None]:
    """Within it, the first thread of a process stands still, as if what it computes hung, and the others go on."""
    trace = ctypes.CDLL(None, use_errno=True).ptrace
    attach, detach, all_threads = 16, 17, 0x40000000  # ptrace(2), waitpid(2)
    assert trace(attach, process, 0, 0) == 0, os.strerror(ctypes.get_errno())
    os.waitpid(process, all_threads)
    try:
        yield
    finally:
        trace(detach, process, 0, 0)


def probed(deployment: Deployment, name: str, textfiles: Path) -> int:
    """Ask an instance as the timer does where systemd runs, and return the verdict."""
    labels = f'{{host="localhost",instance="{name}",model_id="{name}"}}'
    where = {"LLAMA_ARG_HOST": "127.0.0.1", "LLAMA_ARG_PORT": str(deployment.servers()[name]["port"])}
    text, _wrong = probe_all(
        [{"name": name, "labels": labels, "environment": where, "keyed": False, "model": ""}], timeout=2
    )
    write_atomic(textfiles / "magi-probe.prom", text.encode(), 0o644)
    return int(re.search(r"^magi_probe_success\S+ (\d)$", text, re.MULTILINE)[1])


SAID = {
    "MagiServerDown": f"Server {Q2} on host localhost does not answer",
    "MagiServerNotReady": f"Server {Q3} on host localhost still loads its model",
    "MagiServerRestarts": f"Server {Q3} on host localhost starts again and again",
    "MagiServerQuarantined": f"Server {Q3} on host localhost failed to start too often, and is left alone",
    "MagiWrongServer": f"Something else answers at the port of server {Q3} on host localhost",
    "MagiServerHung": f"Server {Q3} on host localhost answers, and computes nothing",
    "MagiProbeStopped": r"Host localhost: nobody has asked its servers for a token for \S+s",
    "MagiMemoryLow": r"Host (localhost|other) uses \S+ of its memory",
    "MagiQueueLong": rf"Model {Q3} at gateway localhost: \S+ requests wait",
    "MagiFirstTokenSlow": rf"Model {Q3} at gateway localhost: the first token takes \S+ s",
    "MagiErrors": rf"Model {Q3} at gateway localhost: \S+ of the requests fail",
    "MagiGatewayDown": "The gateway on host localhost does not answer",
    "MagiHostDown": r"Host (localhost|other): its node_exporter does not answer",
    "MagiDiskNearlyFull": r"Host (localhost|other): \S+/disk is \S+% full",
    "MagiDeploymentFailed": "Host localhost: its last deployment failed",
    "MagiDrift": f"Host (localhost|other) has other bytes for model {Q2} than other hosts",
}
"""By alert, a pattern for its summary."""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system, and stops a thread of a process: run it as root")
def test_every_alert_is_caused_for_real(watched: Deployment, node: tuple[int, int], small_disk: Path):
    """Each fires, names host and instance, and resolves: the real rules, with short times."""
    home, textfiles = watched.folder / "monitoring", watched.folder / "textfiles"
    watched.add_profile("broken", Q2, {"model": Q3, "options": {"cache_type_v": "q4_0", "flash_attn": False}})
    watched.add_profile("good", Q2, Q3)
    elsewhere = watched.add_model("Q3_K_M", "../elsewhere/SmolLM2-135M-Instruct.Q2_K.gguf")
    watched.hosts["other"] = {
        "model_server_home": str(watched.folder / "other"),
        "model_server_registry_path": str(watched.folder / "other.json"),
        "model_server_scan_paths": [str(elsewhere.parent)],
        "model_server_port_range": [PORTS[0] + 10, PORTS[0] + 10],
        "observability_textfile_dir": f"{textfiles}-other",
    }
    watched.groups["model_gateways"]["vars"]["model_gateway_hold"] = 1
    settings = watched.groups["monitoring"]["vars"]

    def deploy(profile: str) -> Run:
        run = watched.play(profile=profile)
        rules = (home / "rules.yml").read_text()
        for window, short in WINDOWS.items():
            rules = rules.replace(window, short)
        (home / "rules.yml").write_text(rules)
        return run

    deploy("broken")
    settings["observability_limits"] = {**LIMITS, "memory": memory_in_use() + 0.03, "disk": 0.99}
    assert f"quarantine {Q3}" in deploy("broken").output
    command = [
        *(PROMETHEUS, "--config.file", str(home / "prometheus.yml")),
        *("--storage.tsdb.path", str(watched.folder / "series")),
        f"--web.listen-address=127.0.0.1:{free_port()}",
    ]
    said: dict[str, str] = {}
    with Prometheus(command, watched.folder) as prometheus:

        def caused(*names: str) -> None:
            until(lambda: {*names} <= prometheus.firing().keys(), 30, f"{', '.join(names)} fire")
            said.update({name: prometheus.firing()[name]["annotations"]["summary"] for name in names})

        def resolved(*names: str) -> None:
            until(lambda: not {*names} & prometheus.firing().keys(), 40, f"{', '.join(names)} resolve")

        caused("MagiDeploymentFailed", "MagiServerQuarantined", "MagiDrift")
        shutil.copyfile(watched.models / elsewhere.name, elsewhere)
        assert deploy("good").code == 0
        resolved("MagiDeploymentFailed", "MagiServerQuarantined", "MagiDrift")

        with Clients("127.0.0.1", PORTS[1], [Q3], count=12):
            taken = b"x" * int(0.06 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
            with contextlib.suppress(OSError), (small_disk / "full").open("wb", 0) as file:
                while file.write(bytes(1 << 12)):
                    pass
            caused("MagiQueueLong", "MagiFirstTokenSlow", "MagiMemoryLow", "MagiDiskNearlyFull")
            del taken
            (small_disk / "full").unlink()

        (server,) = server_of(watched, Q3)
        assert probed(watched, Q3, textfiles) == 1
        caused("MagiProbeStopped")
        with hung(server):
            caused("MagiServerHung")
            assert probed(watched, Q3, textfiles) == 0
        assert probed(watched, Q3, textfiles) == 1
        until(lambda: "MagiProbeStopped" not in prometheus.firing(), 10, "somebody has asked again")
        (textfiles / "magi-probe.prom").unlink()
        (first,) = server_of(watched, Q2)
        resolved("MagiServerHung")
        with held(first, node[0], *processes("haproxy", f"{watched.folder}/gateway/")):
            caused("MagiServerDown", "MagiGatewayDown", "MagiHostDown")

        # A server is stopped, and then another program has its port.
        port = watched.servers()[Q3]["port"]
        assert watched.play("stop", model_server_stop_instances=[Q3]).code == 0
        with Clients("127.0.0.1", PORTS[1], [Q3], count=2):
            caused("MagiErrors")
        stranger = [NODE_EXPORTER, "--collector.disable-defaults", f"--web.listen-address=127.0.0.1:{port}"]
        with subprocess.Popen(stranger, stderr=subprocess.DEVNULL) as process:
            try:
                caused("MagiWrongServer")
            finally:
                process.kill()
        assert deploy("good").code == 0

        # It ends, and loads for long.
        (server,) = server_of(watched, Q3)
        os.kill(server, signal.SIGKILL)
        (again,) = until(lambda: [pid for pid in server_of(watched, Q3) if pid != server], 10, "it is started again")
        with slowed(again):
            caused("MagiServerNotReady")
        caused("MagiServerRestarts")
        until(lambda: not prometheus.firing(), 60, "all resolve")
    assert said.keys() == SAID.keys() == {item.name for item in alerts(Limits())}
    assert {name: text for name, text in said.items() if not re.fullmatch(SAID[name], text)} == {}
    assert watched.play("teardown").code == 0
