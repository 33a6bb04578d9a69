"""Servers in containers of this machine's docker and podman: the real playbooks, and an image made here."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.magi.models.plugins.module_utils._host.binary import upstream_image
from ansible_collections.magi.models.plugins.module_utils._llama.client import ask_health
from ansible_collections.magi.models.plugins.module_utils._services.containers import (
    create_arguments,
    gpu_options,
    limits,
    mount,
)

from .. import hostile
from ..load import Clients, ask_once
from ..waiting import until
from .conftest import LLAMA_SERVER, MODELS, PORTS, ROOT, Deployment, alive, environment_of
from .engine import IMAGE, OwnDocker, hosts, left, llama_image, own_docker, said_by

pytestmark = pytest.mark.e2e

Q2, Q3 = (f"smollm2-135m-instruct.{q}" for q in ("q2_k", "q3_k_m"))
PORT = PORTS[1]
CANARIES = {"LLAMA_API_KEY": "canary-of-a-key", "HF_TOKEN": "canary-of-a-token"}
BOTH = pytest.mark.parametrize("engine", ["docker", "podman"], indirect=True)


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """An engine's name; it has the image."""
    hosts({"docker": "engine", "podman": "podman"}[request.param])
    folder = tmp_path_factory.mktemp("image")
    # Podman's usual runtime, crun, wants all that the kernel has of cgroup v1, which is not mounted everywhere.
    settings = folder.with_suffix(".conf")
    settings.write_text('[engine]\nruntime = "runc"\n')
    with pytest.MonkeyPatch.context() as patch, llama_image(folder, request.param):
        patch.setenv("CONTAINERS_CONF", str(settings))
        yield request.param


@pytest.fixture
def contained(engine: str, deployment: Deployment) -> Deployment:
    deployment.variables = {
        "model_server_manager": engine,
        "model_server_image": IMAGE,
        "model_server_resources": {"memory_max": "2G"},
    }
    return deployment


@pytest.fixture
def foreign(engine: str) -> Iterator[str]:
    """A container of another home folder, which is not ours to remove."""
    container = said_by(engine, "create", "--label=magi.home=/of/somebody/else", IMAGE)
    yield container
    said_by(engine, "rm", container)


def containers(deployment: Deployment, engine: str) -> list[dict[str, Any]]:
    found = said_by(engine, "ps", "--all", "--quiet", "--filter", f"label=magi.home={deployment.home}").split()
    return json.loads(said_by(engine, "inspect", *found)) if found else []


def moves_and_comes_back(contained: Deployment, instance: str, port: int) -> None:
    """To another manager and back."""
    where = {"LLAMA_ARG_PORT": str(port)}
    contained.variables["model_server_manager"] = "supervisor"
    check = contained.play("site", "--check", profile="p")
    assert f"restart {instance}: moves here from docker" in check.output
    assert len(containers(contained, "docker")) == 2
    assert contained.play(profile="p").code == 0
    assert containers(contained, "docker") == []
    assert not (contained.home / "docker").exists()
    assert ask_health(where) == 200
    contained.variables["model_server_manager"] = "docker"
    moved = contained.play(profile="p")
    assert moved.code == 0, moved.output
    assert f"restart {instance}: moves here from supervisor" in moved.output
    assert not (contained.home / "supervisor").exists()
    assert ask_health(where) == 200
    assert len(containers(contained, "docker")) == 2


def starts_at_boot(contained: Deployment, instance: str, port: int) -> None:
    """By what systemd runs at boot, which is not everywhere."""
    ours = [container["Id"] for container in containers(contained, "podman")]
    said_by("podman", "stop", *ours)
    assert ask_health({"LLAMA_ARG_PORT": str(port)}) == 0
    unit = (contained.home / "podman" / "boot.service").read_text()
    (command,) = re.findall(r"^ExecStart=(.+)$", unit, re.MULTILINE)
    subprocess.run(shlex.split(command), check=True, capture_output=True)
    until(lambda: ask_health({"LLAMA_ARG_PORT": str(port)}) == 200, 60, f"{instance} serves again")


def stream(port: int, **headers: str) -> Any:
    """A client of a server that gets its tokens for ever."""
    body = json.dumps({"prompt": "Once", "n_predict": -1, "ignore_eos": True, "stream": True}).encode()
    answer = urllib.request.urlopen(
        urllib.request.Request(f"http://127.0.0.1:{port}/completion", body, headers), timeout=60
    )
    assert answer.readline()
    return answer


@pytest.mark.parametrize(
    ("engine", "further"), [("docker", moves_and_comes_back), ("podman", starts_at_boot)], indirect=["engine"]
)
def test_a_deployment_in_containers_from_start_to_teardown(
    contained: Deployment, engine: str, foreign: str, further: Callable[[Deployment, str, int], None]
):
    """With hostile names of files and models, secrets in the environment, and a container of somebody else."""
    keys = contained.folder / "keys"
    keys.write_text("canary-key\n")
    keys.chmod(0o600)
    hostile.make(MODELS, contained.models)
    template = contained.folder / "chat.jinja"
    template.write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    options = {"ctx_size": 512, "api_key_file": str(keys), "chat_template_file": str(template)}
    contained.add_profile("p", {"tier": "Q4", "options": options})
    contained.environment = CANARIES
    before = left(engine, contained.home, IMAGE)

    run = contained.play("site", "--diff", profile="p")
    assert run.code == 0, run.output
    ours = {item["Config"]["Labels"]["magi.instance"]: item for item in containers(contained, engine)}
    servers = contained.servers()
    started = {name: environment_of(item["State"]["Pid"]) for name, item in ours.items()}
    assert {(one["LLAMA_ARG_MODEL"], one["MAGI_DISPLAY_NAME"]) for one in started.values()} == {
        (path, shown) for path, shown in hostile.served_from(str(contained.models)) if "(Q4" in shown
    }
    # Where a template's lookup would have run its command.
    assert not [*ROOT.glob("own*"), *ROOT.glob("playbooks/own*")]
    for name, item in ours.items():
        pid = item["State"]["Pid"]
        assert (servers[name]["state"], servers[name]["pid"], servers[name]["is_ready"]) == ("running", pid, True)
        assert item["Config"]["Labels"]["magi.config_hash"] == started[name]["MAGI_CONFIG_HASH"]
        status = Path(f"/proc/{pid}/status").read_text()
        assert re.search(r"^Uid:\s+65534\s", status, re.MULTILINE)
        assert re.search(r"^CapBnd:\s+0+$", status, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
        assert (item["HostConfig"]["Memory"], item["HostConfig"]["ReadonlyRootfs"]) == (2 << 30, True)
        assert all((mount["Type"], mount["RW"]) == ("bind", False) for mount in item["Mounts"])
        assert {*item["NetworkSettings"]["Networks"]} == {{"docker": "bridge", "podman": "podman"}[engine]}
        assert str(contained.models) in {mount["Source"] for mount in item["Mounts"]}
    files = [path for path in contained.home.rglob("*") if path.is_file()]
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in files if path.suffix in (".env", ".args"))
    said = [run.output, json.dumps([ours, started]), *(path.read_bytes().decode(errors="replace") for path in files)]
    assert not [secret for secret in CANARIES.values() for text in said if secret in text]
    holders = [path for path in files if b"canary-key" in path.read_bytes()]
    assert {path.parent for path in holders} == {contained.home / engine / "keys"}
    assert "canary-key" not in run.output + json.dumps([ours, started, contained.report()])
    name, port = next((name, server["port"]) for name, server in servers.items())
    pid, where = servers[name]["pid"], {"LLAMA_ARG_PORT": str(port)}
    assert ask_health(where) == 200

    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid) and ask_health(where) == 200, 60, "the killed server is back")
    assert json.loads(said_by(engine, "inspect", ours[name]["Id"]))[0]["RestartCount"] == 1

    further(contained, name, port)

    # Of docker, the next test has it.
    clients = [stream(port, Authorization="Bearer canary-key")] if engine == "podman" else []
    stopped = contained.play("stop", model_server_stop_timeout=1)
    assert stopped.code == 0, stopped.output
    for client in clients:
        assert f"model_server_stop_timeout ran out for {name}: 1 request was cut" in stopped.text
        client.close()
    assert containers(contained, engine) == []

    down = contained.play("teardown")
    assert down.code == 0, down.output
    assert not contained.home.exists()
    assert left(engine, contained.home, IMAGE) == before  # the image was there before
    assert said_by(engine, "inspect", "--format={{.Id}}", foreign) == foreign


@pytest.fixture
def rebooted(tmp_path: Path) -> Iterator[OwnDocker]:
    """An engine that has the image, too."""
    hosts("engine")
    if os.geteuid() or not (shutil.which("dockerd") and shutil.which("ip")):
        pytest.skip("only root, with dockerd and ip, can start an engine")
    with own_docker() as engine, llama_image(tmp_path / "image"):
        yield engine


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
def test_what_containers_survive(rebooted: OwnDocker, contained: Deployment):
    """Behind a gateway: switches under load, two deployments at once, one that is killed, a boot, a server that hangs, a
    port that is taken meanwhile, and a stop with work in flight."""
    contained.add_model("Q2_K")
    contained.add_model("Q3_K_M")
    contained.variables |= {"model_server_port_range": [PORTS[0], PORT - 1], "model_server_stop_timeout": 60}
    contained.add_gateway(PORT, model_gateway_hold=60)

    def ours() -> dict[str, str]:
        found = containers(contained, "docker")
        return {item["Config"]["Labels"]["magi.instance"]: item["Id"] for item in found if item["State"]["Running"]}

    check = contained.play("site", "--check", "--diff")
    assert check.code == 0, check.output
    assert (contained.tree(), ours()) == ({}, {})
    run = contained.play()
    assert run.code == 0, run.output
    first = ours()
    with Clients("127.0.0.1", PORT, [Q2], pause=4) as clients:
        ended: list[Any] = []
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=120)
        last = threading.Thread(target=lambda: ended.append(ask_once(connection, Q3, stream=True, tokens=100)))
        last.start()
        run = contained.play(profile="fast-only")
        assert run.code == 0, run.output
        last.join()
        assert (ended, ours()) == ([None], {Q2: first[Q2]})
        contained.add_profile("p", Q2, {"model": Q3, "options": {"ctx_size": 512}})
        run = contained.play(profile="p")
        assert run.code == 0, run.output
    assert (clients.wrong, clients.answered[Q2] > 30) == ([], True)
    assert ours()[Q2] == first[Q2]

    gateway = contained.groups.copy()
    contained.groups.clear()

    # one waits for a client, another refuses, and what is killed in between is made up for
    port = contained.servers()[Q3]["port"]
    written = contained.home / "instances" / f"{Q3}.env"
    contained.add_profile("p", Q2, {"model": Q3, "options": {"ctx_size": 1024}})
    client = stream(port)
    playing = contained.start(profile="p")
    until(lambda: 'CTX_SIZE="1024"' in written.read_text(), 60, "it has written what it wants", pause=0.02)
    run = contained.play(profile="fast-only")
    assert run.code != 0
    assert re.search(rf"another deployment is at work: \S+, process {playing.process.pid}, with profile p", run.text), (
        run.text
    )
    playing.send(signal.SIGKILL)
    playing.process.wait()
    client.close()
    run = contained.play(profile="p")
    assert run.code == 0, run.output
    pids = {name: server["pid"] for name, server in contained.servers().items()}
    assert {*ours()} == {*pids} == {Q2, Q3}
    assert environment_of(pids[Q3])["LLAMA_ARG_CTX_SIZE"] == "1024"

    rebooted.stop()
    assert not any(alive(pid) for pid in pids.values())
    rebooted.start()
    wheres = [{"LLAMA_ARG_PORT": str(server["port"])} for server in contained.servers().values()]
    until(lambda: [*map(ask_health, wheres)] == [200, 200], 60, "both servers are back")

    hung = next(item["State"]["Pid"] for item in containers(contained, "docker") if item["Id"] == ours()[Q3])
    os.kill(hung, signal.SIGSTOP)
    try:
        run = contained.play(profile="p", model_server_max_startup_time=3)
        assert (run.code, run.changed) == (0, 0), run.output
    finally:
        os.kill(hung, signal.SIGCONT)
    (failed,) = contained.report()["summary"]["failed"]
    assert (failed["instance"], failed["cause"]) == (Q3, "timeout")
    assert re.search(r"it does not answer \d+ s after its start", failed["detail"])
    assert contained.servers()[Q2]["is_ready"]

    taken = PORTS[0] + 9
    contained.add_profile("p", Q2, {"model": Q3, "port": taken})
    client = stream(port)
    playing = contained.start(profile="p")
    until(lambda: f'PORT="{taken}"' in written.read_text(), 60, "it has written what it wants", pause=0.02)
    path = contained.models / "SmolLM2-135M-Instruct.Q2_K.gguf"
    command = [LLAMA_SERVER, "--model", path, "--alias", "impostor", "--port", str(taken), "--ctx-size", "256"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as impostor:
        try:
            until(lambda: ask_health({"LLAMA_ARG_PORT": str(taken)}) == 200, 60, "the impostor answers")
            client.close()
            run = playing.finish()
            assert run.code == 0, run.output
            (failed,) = contained.report()["summary"]["failed"]
            assert (failed["instance"], failed["cause"]) == (Q3, "port_taken")
            assert f"another process holds its port (127.0.0.1:{taken})" in failed["detail"]
            assert {*ours()} == {Q2}

            port = contained.servers()[Q2]["port"]
            streams, waits = stream(port), http.client.HTTPConnection("127.0.0.1", port)
            waits.request("POST", "/completion", json.dumps({"prompt": "Once", "n_predict": -1, "ignore_eos": True}))
            slots = f"http://127.0.0.1:{port}/slots"
            until(lambda: sum(x["is_processing"] for x in json.load(urllib.request.urlopen(slots))) == 2, 30, "both")
            run = contained.play("stop", model_server_stop_timeout=1)
            assert f"model_server_stop_timeout ran out for {Q2}: 2 requests were cut" in run.text
            assert ours() == {}
            for client in (streams, waits):
                client.close()
            contained.groups |= gateway
            down = contained.play("teardown")
            assert (down.code, contained.home.exists()) == (0, False), down.output
            assert containers(contained, "docker") == []
            assert contained.play("teardown").changed == 0
            assert impostor.poll() is None
        finally:
            impostor.kill()


@pytest.mark.parametrize("engine", ["docker"], indirect=True)  # podman takes seconds to give up
def test_what_is_wrong_with_an_image_or_a_key_file_is_one_sentence(contained: Deployment):
    contained.add_model("Q2_K")
    keys = contained.folder / "keys"
    keys.write_bytes(b"# none yet\r\n\n")
    contained.variables["model_server_options"] = {"api_key_file": str(keys)}
    for verb, image, said in (
        ("site", IMAGE, f"its API key file {keys} holds no key (it is empty, or has comments only)"),
        ("plan", "", f"the image {upstream_image(str(LLAMA_SERVER))} is not on the host"),
        ("plan", "localhost:9/none:1", "the image localhost:9/none:1 is not on the host: a deployment pulls it"),
        ("site", "localhost:9/none:1", "docker can't pull the image localhost:9/none:1"),
        ("plan", "none", "Setting model_server_image must be an image with its tag or digest"),
    ):
        contained.variables["model_server_image"] = image
        run = contained.play(verb)
        assert run.code != 0
        assert said in run.text
        assert not (contained.home / "docker").exists()


@BOTH
def test_the_engine_has_every_option_that_we_give_it(engine: str):
    environment = {"LLAMA_ARG_HOST": "127.0.0.1", "LLAMA_ARG_PORT": "1", "MAGI_CONFIG_HASH": "h", "X": "it's"}
    given = [
        *create_arguments(engine, "/m", IMAGE, "a", {**environment, "LLAMA_ARG_LOAD_MODE": "mlock"}),
        *limits("memory_max=1G cpu_quota=50% nice=5", 1, 1),
        *(mount("/m", "/m"), "--detach", "--rm", "--network=none"),
        *gpu_options(engine, ["/dev/nvidia0"], []),
        *gpu_options(engine, ["/dev/kfd"], [1]),
    ]
    options = {word.split("=")[0] for word in given if word.startswith("--")} - {"--host"}
    assert options <= {*re.findall(r"--[a-z-]+", said_by(engine, "run", "--help"))}
