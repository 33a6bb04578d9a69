"""Servers in containers of this machine's docker and podman: the real playbooks, and an image made here."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import stat
import subprocess
from collections.abc import Callable
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

from ..waiting import until
from .conftest import LLAMA_SERVER, PORTS, Deployment, alive, ask, environment_of
from .engine import IMAGE, hosts, llama_image, said_by

pytestmark = pytest.mark.e2e

Q2, Q3 = (f"smollm2-135m-instruct.{q}" for q in ("q2_k", "q3_k_m"))
NAME = 'it\'s "quoted", {{ 7 * 7 }} $HOME %n\nnewline 🐫.Q2_K.gguf'


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


def containers(deployment: Deployment, engine: str) -> list[dict[str, Any]]:
    found = said_by(engine, "ps", "--all", "--quiet", "--filter", f"label=magi.home={deployment.home}").split()
    return json.loads(said_by(engine, "inspect", *found)) if found else []


def moves_and_comes_back(contained: Deployment, instance: str) -> None:
    """To another manager and back."""
    where = {"LLAMA_ARG_PORT": str(PORTS[0])}
    contained.variables["model_server_manager"] = "supervisor"
    check = contained.play("site", "--check", profile="p")
    assert f"restart {instance}: moves here from docker" in check.output
    assert len(containers(contained, "docker")) == 1
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
    assert len(containers(contained, "docker")) == 1


def starts_at_boot(contained: Deployment, instance: str) -> None:
    """By what systemd runs at boot, which is not everywhere."""
    (container,) = containers(contained, "podman")
    said_by("podman", "stop", container["Id"])
    assert ask_health({"LLAMA_ARG_PORT": str(PORTS[0])}) == 0
    unit = (contained.home / "podman" / "boot.service").read_text()
    (command,) = re.findall(r"^ExecStart=(.+)$", unit, re.MULTILINE)
    subprocess.run(shlex.split(command), check=True, capture_output=True)
    until(lambda: ask_health({"LLAMA_ARG_PORT": str(PORTS[0])}) == 200, 60, f"{instance} serves again")


@pytest.mark.parametrize(
    ("engine", "further"), [("docker", moves_and_comes_back), ("podman", starts_at_boot)], indirect=["engine"]
)
def test_a_deployment_in_containers_from_start_to_teardown(
    contained: Deployment, engine: str, further: Callable[[Deployment, str], None]
):
    keys = contained.folder / "keys"
    keys.write_text("canary-key\n")
    keys.chmod(0o600)
    model = contained.add_model("Q2_K", NAME)
    template = contained.folder / "chat.jinja"
    template.write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    options = {"ctx_size": 512, "api_key_file": str(keys), "chat_template_file": str(template)}
    contained.add_profile("p", {"model": "*", "options": options})

    check = contained.play("site", "--check", "--diff", profile="p")
    assert check.code == 0, check.output
    assert (contained.tree(), containers(contained, engine)) == ({}, [])

    run = contained.play(profile="p")
    assert run.code == 0, run.output
    (server,) = contained.report()["servers"]
    (first,) = containers(contained, engine)
    pid = first["State"]["Pid"]
    environment = environment_of(pid)
    assert (server["state"], server["pid"]) == ("running", pid)
    assert environment["LLAMA_ARG_MODEL"] == str(model)
    assert first["Config"]["Labels"]["magi.config_hash"] == environment["MAGI_CONFIG_HASH"]
    status = Path(f"/proc/{pid}/status").read_text()
    assert re.search(r"^Uid:\s+65534\s", status, re.MULTILINE)
    assert re.search(r"^CapBnd:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    assert (first["HostConfig"]["Memory"], first["HostConfig"]["ReadonlyRootfs"]) == (2 << 30, True)
    assert all(not mount["RW"] for mount in first["Mounts"])
    assert str(contained.models) in {mount["Source"] for mount in first["Mounts"]}
    files = [path for path in contained.home.rglob("*") if path.is_file()]
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in files if path.suffix in (".env", ".args"))
    assert "canary-key" not in run.output + json.dumps(first) + json.dumps(contained.report())
    where = {"LLAMA_ARG_PORT": str(PORTS[0])}
    assert ask_health(where) == 200

    again = contained.play(profile="p")
    assert (again.code, again.changed) == (0, 0), again.output
    assert containers(contained, engine)[0]["Id"] == first["Id"]

    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid) and ask_health(where) == 200, 60, "the killed server is back")
    assert containers(contained, engine)[0]["RestartCount"] == 1

    further(contained, server["instance"])

    stopped = contained.play("stop")
    assert stopped.code == 0, stopped.output
    assert containers(contained, engine) == []

    down = contained.play("teardown")
    assert down.code == 0, down.output
    assert not contained.home.exists()
    assert said_by(engine, "images", "--quiet", IMAGE)  # it was there before


@pytest.mark.parametrize("engine", ["docker"], indirect=True)  # podman takes seconds to give up
def test_what_is_wrong_with_an_image_is_one_sentence(contained: Deployment):
    contained.add_model("Q2_K")
    for verb, image, said in (
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


@BOTH
def test_a_server_that_does_not_start_is_explained_and_the_others_serve(contained: Deployment):
    contained.variables["model_server_concurrent_starts"] = False
    contained.add_model("Q2_K")
    contained.add_model("Q3_K_M")
    contained.add_profile("p", Q2, {"model": Q3, "options": {"cache_type_v": "q4_0", "flash_attn": False}})
    run = contained.play(profile="p")
    assert run.code == 0, run.output
    (failed,) = contained.report()["summary"]["failed"]
    assert (failed["instance"], failed["cause"]) == (Q3, "bad_option")
    assert "quantized V cache requires flash_attn" in failed["detail"]
    assert "France" in ask(contained.servers()[Q2]["port"])
    again = contained.play(profile="p")
    assert f"quarantine {Q3}: failed with exactly this configuration" in again.output
    assert again.changed == 0
