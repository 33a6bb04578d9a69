"""Each instance gets one of several devices: real RPC servers of llama.cpp, one of which has little memory."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from ..waiting import until
from .conftest import Deployment, ask, environment_of, ports
from .rpc import BUILD, rpc_server

pytestmark = pytest.mark.e2e

FIRST, _LAST = ports(29080)
Q2 = "smollm2-135m-instruct.q2_k"

# An RPC server offers the memory of its machine. What asks for that is told less, as by a card full of other work.
LESS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>
long sysconf(int name) {
    long (*real)(int) = (long (*)(int))dlsym(RTLD_NEXT, "sysconf");
    return name == _SC_PHYS_PAGES ? atol(getenv("MIB")) * 256 : real(name);
}
"""


@pytest.fixture
def devices(tmp_path: Path):
    """Yield the addresses of two devices, of 200 and of 1600 MiB."""
    (tmp_path / "less.c").write_text(LESS)
    library = tmp_path / "less.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "less.c", "-ldl"], check=True)
    program, started, addresses = rpc_server(), [], []
    for number, size in enumerate((200, 1600)):
        log = (tmp_path / f"rpc{number}.log").open("w")
        environment = {**os.environ, "LD_PRELOAD": str(library), "MIB": str(size)}
        command = [program, "-H", "127.0.0.1", "-p", str(FIRST + number)]
        started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        addresses.append(f"127.0.0.1:{FIRST + number}")
    yield addresses
    for process in started:
        process.terminate()
        process.wait(10)


@pytest.fixture
def wrapped(deployment: Deployment, devices: list[str]) -> Deployment:
    """A deployment whose llama-server has these devices, as one with two cards has them."""
    folder = deployment.folder / "bin"
    folder.mkdir()
    for name in ("llama-server", "llama-fit-params"):
        script = f'#!/bin/sh\nLLAMA_ARG_RPC={",".join(devices)} exec {BUILD / name} "$@"\n'
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    deployment.variables["model_server_llama_server_path"] = str(folder / "llama-server")

    def listed() -> str:
        return subprocess.run([folder / "llama-server", "--list-devices"], capture_output=True, text=True).stdout

    until(lambda: re.search(r"RPC0: .* \(200 MiB.*\n.*RPC1: .* \(1600 MiB", listed()), 20, "both devices")
    return deployment


def test_a_device_without_room_is_left_alone_and_what_fits_none_is_refused_by_name(wrapped: Deployment):
    wrapped.add_model("Q2_K")
    wrapped.add_profile("large", {"model": Q2, "options": {"ctx_size": 60_000}})
    wrapped.add_profile("small", {"model": Q2, "options": {"ctx_size": 1024}})

    refused = wrapped.play("site", profile="large")
    assert refused.code == 2, refused.output
    said = " ".join(refused.output.split())
    fits = re.search(rf"{Q2}: it needs 1\.\d GiB of RPC1, .* left, .* missing; with ctx_size: (\d+) it fits", said)
    assert fits, said
    assert 1024 < int(fits[1]) < 60_000

    # An RPC server has one client at a time, so nothing lists its device any more once this one runs.
    done = wrapped.play("site", profile="small")
    assert done.code == 0, done.output
    server = wrapped.servers()[Q2]
    assert server["devices"] == ["RPC1"]
    assert server["memory"]["need"]["RPC1"] > 100 << 20
    assert environment_of(server["pid"])["LLAMA_ARG_DEVICE"] == "RPC1"
    assert "Paris" in ask(server["port"])
