"""magi serve on a deployment, as its own process."""

from __future__ import annotations

import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..command import begin
from ..waiting import until
from .conftest import ROOT, Deployment


@dataclass(frozen=True)
class Serving:
    process: subprocess.Popen[str]
    url: str
    tokens: dict[str, str]
    """By role."""
    state: Path


@contextmanager
def serving(deployment: Deployment, **environment: str) -> Iterator[Serving]:
    """Run magi serve for a deployment within the block."""
    state = deployment.folder / "state"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = ("-i", str(deployment.inventory()), "--dir", str(deployment.folder / "profiles"))
    process = begin(
        state, "serve", "--port", str(port), *given, cwd=deployment.folder, MAGI_PROJECT=str(ROOT), **environment
    )
    try:
        said = [process.stderr.readline(), process.stderr.readline()]
        url = f"http://127.0.0.1:{port}"
        assert url in said[0]
        tokens = Path(said[1].removeprefix("Its tokens are in ").rstrip(".\n"))
        roles = dict(line.split() for line in tokens.read_text().splitlines() if line[0] != "#")
        until(lambda: _answers(url), 30, "an answer")
        yield Serving(process, url, roles, state)
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    with suppress(urllib.error.URLError), urllib.request.urlopen(f"{url}/api/v1/openapi.json", timeout=10):
        return True
    return False
