"""The engines of this machine, with an image of the real llama-server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..fleet.conftest import HOSTS, NO_DOCKER
from ..waiting import until
from .conftest import LLAMA_SERVER, WORKER

IMAGE = f"magi-e2e-{WORKER}:1"


def said_by(engine: str, *arguments: str) -> str:
    """Return what a command of docker or podman prints."""
    return subprocess.run([engine, *arguments], capture_output=True, text=True, check=True).stdout.strip()


def docker(*arguments: str) -> str:
    return said_by("docker", *arguments)


def left(engine: str, home: Path, image: str) -> list[str]:
    """What an engine has of ours: containers of a home folder, and an image. Our containers have no volume and no
    network of their own; others come and go while tests run."""
    containers = said_by(engine, "ps", "--all", "--quiet", f"--filter=label=magi.home={home}")
    return [*containers.split(), *said_by(engine, "image", "ls", "--quiet", image).split()]


def hosts(verb: str) -> None:
    """Run a verb of the test hosts' script; skip where there is no docker or podman, but not in CI."""
    done = subprocess.run([HOSTS, verb, "--install"], capture_output=True, text=True, timeout=1800)
    if done.returncode == NO_DOCKER and not os.environ.get("CI"):
        pytest.skip(f"no engine to test with: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr


def image_files(folder: Path) -> None:
    """Copy the host's llama-server and its libraries, and nothing else, to a folder, as an image has them."""
    libraries = subprocess.run(["ldd", LLAMA_SERVER], capture_output=True, text=True, check=True).stdout
    for path in (str(LLAMA_SERVER), *re.findall(r"(/\S+) \(0x", libraries)):
        target = folder / ("app/llama-server" if path == str(LLAMA_SERVER) else path[1:])
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


class OwnDocker:
    """A docker engine that nobody else uses, so that it may end and start again as at a boot. Its ports are published by
    processes alone, without rules of a firewall."""

    def __init__(self, folder: Path):
        self.bridge = f"magi-e2e-{WORKER}"
        self.host = f"unix://{folder}/socket"
        own = {"data-root": folder / "data", "exec-root": folder / "exec", "pidfile": folder / "pid"}
        off = ("iptables", "ip-forward", "ip-masq")
        self._command = [
            "dockerd",
            f"--host={self.host}",
            f"--bridge={self.bridge}",
            *(f"--{name}=false" for name in off),
        ]
        self._command += [f"--{name}={path}" for name, path in own.items()]
        self._log = folder / "log"

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True)
        ask = ["docker", f"--host={self.host}", "version"]
        until(lambda: subprocess.run(ask, capture_output=True).returncode == 0, 30, f"it answers: see {self._log}")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)


@contextmanager
def own_docker() -> Iterator[OwnDocker]:
    """Have such an engine within the block, and all commands use it."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:  # a socket's path is short
        engine = OwnDocker(Path(folder))
        subprocess.run(["ip", "link", "delete", engine.bridge], capture_output=True)  # of a run that was killed
        for words in (
            f"link add {engine.bridge} type bridge",
            f"address add 172.31.254.{16 * WORKER + 1}/28 dev {engine.bridge}",
            f"link set {engine.bridge} up",
        ):
            subprocess.run(["ip", *words.split()], check=True)
        patch.setenv("DOCKER_HOST", engine.host)
        try:
            engine.start()
            yield engine
        finally:
            engine.stop()
            subprocess.run(["ip", "link", "delete", engine.bridge], check=True)


@contextmanager
def llama_image(folder: Path, engine: str = "docker") -> Iterator[None]:
    """Have an image of these files within the block."""
    image_files(folder)
    with subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE) as tar:
        command = [engine, "import", "--change", 'ENTRYPOINT ["/app/llama-server"]', "-", IMAGE]
        subprocess.run(command, stdin=tar.stdout, capture_output=True, check=True)
    yield
    said_by(engine, "image", "rm", IMAGE)
