"""The engines of this machine, with an image of the real llama-server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..fleet.conftest import HOSTS, NO_DOCKER
from .conftest import LLAMA_SERVER, WORKER

IMAGE = f"magi-e2e-{WORKER}:1"


def said_by(engine: str, *arguments: str) -> str:
    """Return what a command of docker or podman prints."""
    return subprocess.run([engine, *arguments], capture_output=True, text=True, check=True).stdout.strip()


def docker(*arguments: str) -> str:
    return said_by("docker", *arguments)


def hosts(verb: str) -> None:
    """Run a verb of the test hosts' script; skip where there is no docker or podman, but not in CI."""
    done = subprocess.run([HOSTS, verb, "--install"], capture_output=True, text=True, timeout=1800)
    if done.returncode == NO_DOCKER and not os.environ.get("CI"):
        pytest.skip(f"no engine to test with: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr


@contextmanager
def llama_image(folder: Path, engine: str = "docker") -> Iterator[None]:
    """Have an image of the host's llama-server and its libraries, and nothing else, within the block."""
    libraries = subprocess.run(["ldd", LLAMA_SERVER], capture_output=True, text=True, check=True).stdout
    for path in (str(LLAMA_SERVER), *re.findall(r"(/\S+) \(0x", libraries)):
        target = folder / ("app/llama-server" if path == str(LLAMA_SERVER) else path[1:])
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    with subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE) as tar:
        command = [engine, "import", "--change", 'ENTRYPOINT ["/app/llama-server"]', "-", IMAGE]
        subprocess.run(command, stdin=tar.stdout, capture_output=True, check=True)
    yield
    said_by(engine, "image", "rm", IMAGE)
