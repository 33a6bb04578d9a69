"""Health as clients see it: by ansible.builtin.uri in a deployment, and of all servers by magi health."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import threading
import urllib.request
from pathlib import Path
from typing import IO

import pytest

from ..command import Ran, begin
from ..waiting import until
from .conftest import Deployment

pytestmark = pytest.mark.e2e

Q2, Q3 = (f"smollm2-135m-instruct.{q}" for q in ("q2_k", "q3_k_m"))


def health(deployment: Deployment, *arguments: str, **variables: object) -> Ran:
    inventory = str(deployment.inventory())
    extra = ["-e", json.dumps(variables)] if variables else []
    return Ran(begin(deployment.folder / "state", "health", "--json", "-i", inventory, *arguments, *extra))


def causes(ran: Ran) -> dict[str, str]:
    return {item["instance"]: item["cause"] for item in ran.document["summary"]["failed"]}


def busy(port: int) -> bool:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/slots", timeout=10) as response:
        return json.load(response)[0]["is_processing"]


def read(stream: IO[bytes]) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):  # it ends with its server
        stream.read()


def test_what_was_launched_is_asked_by_uri_and_all_is_by_magi_health(deployment: Deployment, tmp_path: Path):
    deployment.add_model("Q2_K")
    deployment.add_model("Q3_K_M")
    nothing = health(deployment)
    assert (nothing.code, "no server runs" in nothing.err) == (1, True)

    deployment.add_profile("p", "*", options={"parallel": 1})
    first = deployment.play(profile="p")
    assert first.code == 0, first.output
    asked = first.task("[5/5] Health check: from where clients are")
    for server in deployment.servers().values():
        assert f"{server['instance']} at {server['url']}, by host" in asked
    again = deployment.play(profile="p")
    assert (again.code, again.changed) == (0, 0), again.output
    assert "from where clients are" not in again.output

    well = health(deployment, "--deep")
    assert (well.code, causes(well)) == (0, {}), well.err
    for server in well.document["servers"]:
        assert server["asked"] == {"url": server["url"], "by": "host", "status": 200}

    # /health stays 200 while a server computes nothing for anybody: its only slot is taken
    server = deployment.servers()[Q2]
    body = json.dumps({"prompt": "1", "n_predict": 100_000, "ignore_eos": True, "stream": True}).encode()
    stream = urllib.request.urlopen(f"http://127.0.0.1:{server['port']}/completion", body, timeout=60)
    try:
        until(lambda: busy(server["port"]), 20, "the slot is taken")
        threading.Thread(target=read, args=(stream,), daemon=True).start()
        assert health(deployment).code == 0
        hangs = health(deployment, "--deep", deep_timeout=2)
        assert (hangs.code, causes(hangs)) == (3, {Q2: "no_work"})
        assert f"instance {Q2}: it did not give one token in 2 seconds" in hangs.err
        os.kill(server["pid"], signal.SIGSTOP)
        stopped = health(deployment)
        assert (stopped.code, causes(stopped)) == (3, {Q2: "not_ready"})
    finally:
        os.kill(server["pid"], signal.SIGKILL)  # a stop would wait for it and its client
