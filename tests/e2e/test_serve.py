"""magi serve on a real deployment, asked by clients that know nothing of our code: what docs/serve.md says, and no more."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ..command import at_work
from ..waiting import until
from .conftest import Deployment, ask, ports
from .serving import serving

pytestmark = pytest.mark.e2e

Q2, Q3 = (f"smollm2-135m-instruct.{q}" for q in ("q2_k", "q3_k_m"))
CANARIES = {"LLAMA_API_KEY": "canary-of-a-key", "HF_TOKEN": "canary-of-a-token"}


@dataclass
class Client:
    """Speaks HTTP, and knows an address and a token."""

    url: str
    token: str
    answers: str = ""
    """All that it was answered."""

    def __call__(self, path: str, body: Any = None, method: str | None = None) -> Any:
        with self.open(path, body, method) as response:
            text = response.read().decode()
        self.answers += text
        return json.loads(text)

    def open(self, path: str, body: Any = None, method: str | None = None, **headers: str) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json", **headers}
        return urllib.request.urlopen(
            urllib.request.Request(f"{self.url}{path}", data, headers, method=method), timeout=120
        )

    def refused(self, path: str, body: Any = None, method: str | None = None) -> tuple[int, str]:
        """Return status and sentence of an error."""
        with pytest.raises(urllib.error.HTTPError) as raised:
            self(path, body, method)
        assert raised.value.headers["content-type"] == "application/problem+json"
        return raised.value.code, json.load(raised.value)["detail"]

    def follow(self, job: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the events of a job as they come, to its end."""
        with self.open(f"/api/v1/jobs/{job}/events") as stream:
            kind = ""
            for line in stream:
                self.answers += line.decode()
                name, _colon, value = line.decode().rstrip("\n").partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    yield kind, json.loads(value)


@pytest.fixture
def magi(deployment: Deployment) -> Iterator[tuple[subprocess.Popen[str], Client, Path]]:
    deployment.variables["model_server_port_range"] = ports(18220)
    for quantization in ("Q2_K", "Q3_K_M"):
        deployment.add_model(quantization)
    with serving(deployment, **CANARIES) as served:
        yield served.process, Client(served.url, served.tokens["deploy"]), served.state


def test_what_a_client_of_the_older_service_and_a_new_one_see(magi, deployment: Deployment):
    process, client, state = magi

    def up(profile: str) -> dict[str, Any]:
        return client("/api/v1/up", {"profile": profile})

    # A deployment, followed from its beginning; at the same time, nothing waits.
    told = []
    for kind, data in client.follow(up("development")["id"]):
        told.append((kind, data))
        if data.get("step") == 4:
            began = time.monotonic()
            assert client("/api/v1/jobs")[0]["state"] == "running"
            assert time.monotonic() - began < 5  # Ansible takes longer
    assert [data["step"] for kind, data in told if kind == "progress"][-1] == 5
    assert (told[-1][0], told[-1][1]["state"], told[-1][1]["exit_code"]) == ("end", "done", 0)
    job = client(f"/api/v1/jobs/{told[-1][1]['id']}")
    assert job["document"]["ready_servers"] == 2

    # The older endpoint, in its shape, of what runs.
    client("/api/v1/status?max_age=0")
    with client.open("/api/models/management/servers") as response:
        older = json.load(response)
        assert int(response.headers["Age"]) < 60
    assert {*older} == {"total_servers", "ready_servers", "servers"}
    assert (older["total_servers"], older["ready_servers"]) == (2, 2)
    for server, name, tier, quantization in zip(
        older["servers"], (Q2, Q3), ("Q2", "Q3"), ("Q2_K", "Q3_K_M"), strict=True
    ):
        assert {*server} == {"model_id", "display_name", "port", "pid", "is_ready", "tier"}
        assert (server["model_id"], server["tier"], server["is_ready"]) == (name, tier, True)
        assert server["display_name"].endswith(f"({quantization})")
        assert b"llama-server" in Path(f"/proc/{server['pid']}/cmdline").read_bytes()
        assert ask(server["port"]).strip()
    status = client("/api/models/status")
    assert [(model["id"], model["state"]) for model in status["models"]] == [(Q2, "active"), (Q3, "active")]

    # A profile of one's own: previewed against what runs, saved, seen in the plan.
    mine = f"name: mine\nenabled_models:\n  - {Q2}\n"
    plan = client("/api/v1/profiles/mine/preview", {"text": mine})["document"]
    assert {item["instance"]: item["action"] for item in plan["hosts"]["localhost"]["actions"]} == {
        Q2: "keep",
        Q3: "stop",
    }
    assert client("/api/v1/profiles/mine", {"text": mine}, "PUT")["valid"]
    assert client("/api/v1/plan?profile=mine&max_age=0")["document"]["changes"] == 1
    assert client(f"/api/v1/instances/{Q2}/logs?lines=3")["document"]["hosts"]["localhost"]
    assert "There is no instance smollm2" in client.refused("/api/v1/instances/smollm2/logs")[1]

    # A job whose Ansible is killed ends with a sentence, and the next one goes on.
    ids = up("mine")["id"]
    pids = until(lambda: at_work(state), 30, "Ansible")
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    *_rest, (kind, end) = client.follow(ids)
    assert (kind, end["state"]) == ("end", "failed")
    assert end["problem"].endswith(".")
    *_rest, (_kind, end) = client.follow(up("mine")["id"])
    assert (end["state"], client(f"/api/v1/jobs/{end['id']}")["document"]["total_servers"]) == ("done", 1)

    # The service ends in the midst of a job: nothing of Ansible is left, and what ran goes on.
    ids = up("development")["id"]
    next(data for _kind, data in client.follow(ids) if data.get("step") == 3)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, ""), err
    assert at_work(state) == []
    assert ask(older["servers"][0]["port"]).strip()
    (remembered,) = state.glob(f"magi/serve/*/{ids}.json")
    assert json.loads(remembered.read_text())["state"] == "cancelled"

    lines = [json.loads(line) for line in next(state.glob("magi/serve/*/audit.log")).read_text().splitlines()]
    assert [line["action"] for line in lines] == ["up", "profile save", "up", "up", "up"]
    kept = "".join(
        path.read_text(errors="replace") for path in state.rglob("*") if path.is_file() and path.name != "tokens"
    )
    for secret in (client.token, *CANARIES.values()):
        assert secret not in client.answers + kept + err
    assert not re.search("Traceback", err)
