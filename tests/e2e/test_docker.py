"""Servers in containers of the docker engine of this machine: the real playbooks, and an image made here."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.magi.models.plugins.module_utils._llama.client import ask_health
from ansible_collections.magi.models.plugins.module_utils._services.containers import (
    create_arguments,
    gpu_options,
    limits,
    mount,
)

from ..waiting import until
from .conftest import PORTS, Deployment, alive, ask, environment_of
from .engine import IMAGE, docker, hosts, llama_image

pytestmark = pytest.mark.e2e

Q2, Q3 = (f"smollm2-135m-instruct.{q}" for q in ("q2_k", "q3_k_m"))
NAME = 'it\'s "quoted", {{ 7 * 7 }} $HOME %n\nnewline 🐫.Q2_K.gguf'


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory):
    hosts("engine")
    with llama_image(tmp_path_factory.mktemp("image")):
        yield


@pytest.fixture
def contained(engine: None, deployment: Deployment) -> Deployment:
    deployment.variables = {
        "model_server_manager": "docker",
        "model_server_image": IMAGE,
        "model_server_resources": {"memory_max": "2G"},
    }
    return deployment


def containers(deployment: Deployment) -> list[dict[str, Any]]:
    found = docker("ps", "--all", "--quiet", "--filter", f"label=magi.home={deployment.home}").split()
    return json.loads(docker("inspect", *found)) if found else []


def test_a_deployment_in_containers_from_start_to_teardown(contained: Deployment):
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
    assert (contained.tree(), containers(contained)) == ({}, [])

    run = contained.play(profile="p")
    assert run.code == 0, run.output
    (server,) = contained.report()["servers"]
    (first,) = containers(contained)
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
    assert containers(contained)[0]["Id"] == first["Id"]

    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid) and ask_health(where) == 200, 60, "the killed server is back")
    assert containers(contained)[0]["RestartCount"] == 1

    # to another manager and back
    contained.variables["model_server_manager"] = "supervisor"
    check = contained.play("site", "--check", profile="p")
    assert f"restart {server['instance']}: moves here from docker" in check.output
    assert len(containers(contained)) == 1
    assert contained.play(profile="p").code == 0
    assert containers(contained) == []
    assert not (contained.home / "docker").exists()
    assert ask_health(where) == 200
    contained.variables["model_server_manager"] = "docker"
    moved = contained.play(profile="p")
    assert moved.code == 0, moved.output
    assert f"restart {server['instance']}: moves here from supervisor" in moved.output
    assert not (contained.home / "supervisor").exists()
    assert ask_health(where) == 200
    assert len(containers(contained)) == 1

    stopped = contained.play("stop")
    assert stopped.code == 0, stopped.output
    assert containers(contained) == []

    down = contained.play("teardown")
    assert down.code == 0, down.output
    assert not contained.home.exists()
    assert docker("images", "--quiet", IMAGE)  # it was there before


def test_what_is_wrong_with_an_image_is_one_sentence(contained: Deployment):
    contained.add_model("Q2_K")
    build = re.search(r"build (\d+)", subprocess.run([LLAMA_SERVER, "--version"], capture_output=True, text=True).stderr)
    for verb, image, said in (
        ("plan", "", f"the image ghcr.io/ggml-org/llama.cpp:server-b{build[1]} is not on the host"),
        ("plan", "localhost:9/none:1", "the image localhost:9/none:1 is not on the host: a deployment pulls it"),
        ("site", "localhost:9/none:1", "docker can't pull the image localhost:9/none:1"),
        ("plan", "none", "Setting model_server_image must be an image with its tag or digest"),
    ):
        contained.variables["model_server_image"] = image
        run = contained.play(verb)
        assert run.code != 0
        assert said in run.text
        assert not (contained.home / "docker").exists()


def test_the_engine_has_every_option_that_we_give_it(engine: None):
    environment = {"LLAMA_ARG_HOST": "127.0.0.1", "LLAMA_ARG_PORT": "1", "MAGI_CONFIG_HASH": "h", "X": "it's"}
    given = [
        *create_arguments("docker", "/m", IMAGE, "a", {**environment, "LLAMA_ARG_LOAD_MODE": "mlock"}),
        *limits("memory_max=1G cpu_quota=50% nice=5", 1, 1),
        *(mount("/m", "/m"), "--detach", "--rm", "--network=none"),
        *gpu_options("docker", ["/dev/nvidia0"], []),
        *gpu_options("docker", ["/dev/kfd"], [1]),
    ]
    options = {word.split("=")[0] for word in given if word.startswith("--")} - {"--host"}
    assert options <= {*re.findall(r"--[a-z-]+", docker("run", "--help"))}


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
