"""Models that take turns in memory, behind one real llama-server in router mode and a real gateway."""

from __future__ import annotations

import hashlib
import http.client
import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ..command import Ran, begin
from .conftest import PORTS, Deployment

pytestmark = pytest.mark.e2e

Q2, Q3 = (f"smollm2-135m-instruct.{q}" for q in ("q2_k", "q3_k_m"))
PORT = PORTS[1]
KEYS = (("all", "*"), ("only-q2", "*q2_k"))


@pytest.fixture
def behind(deployment: Deployment) -> Deployment:
    """A deployment with two models and a gateway, all on this machine."""
    deployment.add_model("Q2_K")
    deployment.add_model("Q3_K_M", "{{ x }} [$HOME] %s 'SmolLM2-135M-Instruct.Q3_K_M.gguf")
    deployment.variables["model_server_port_range"] = [PORTS[0], PORT - 1]
    keys = deployment.folder / "keys"
    keys.write_text(
        "".join(f"{hashlib.sha256(key.encode()).hexdigest()} {key} models={globs}\n" for key, globs in KEYS)
    )
    keys.chmod(0o600)
    deployment.add_gateway(PORT, model_gateway_keys_file=str(keys))
    return deployment


def chat(model: str) -> tuple[int, Any]:
    """Return status and document of what the gateway answers to a short chat."""
    return post({"model": model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4})


def post(
    body: Any, key: str = "all", kind: str = "application/json", path: str = "chat/completions"
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=240)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", f"/v1/{path}", data, {"Content-Type": kind, "x-api-key": key})
    answer = connection.getresponse()
    document = json.loads(answer.read())
    connection.close()
    return answer.status, document


def magi(deployment: Deployment, *arguments: str) -> Ran:
    return Ran(begin(deployment.folder / "state", *arguments, "-i", str(deployment.inventory())))


def of_pool(deployment: Deployment) -> dict[str, Any]:
    status = magi(deployment, "status", "--json")
    assert status.code == 0, status.err
    (server,) = status.document["servers"]
    return server


def test_two_models_take_turns_and_every_request_is_answered(behind: Deployment):
    (third,) = (path.name for path in behind.models.iterdir() if path.name.startswith("{{"))
    discovered = behind.play("discover")
    assert discovered.code == 0, discovered.output
    ids = [item["id"] for item in json.loads(behind.registry.read_text())["models"]]
    (odd,) = (name for name in ids if name != Q2)
    pool = {"name": "small", "models": [Q2, {"model": odd, "aliases": ["chat"]}]}
    options = {"ctx_size": 512, "parallel": 2}
    behind.add_profile("development", pools=[{**pool, "options": options}])
    first = behind.play()
    assert first.code == 0, first.output
    assert "at most 1 of them in memory at the same time" in first.text
    assert third in (behind.home / "instances" / "small.ini").read_text()
    (entry,) = behind.report()["gateways"]
    assert entry["names"] == sorted([Q2, odd, "chat"])

    # looking loads nothing
    again = behind.play()
    assert (again.code, again.changed) == (0, 0), again.output
    assert magi(behind, "health", "--deep").code == 0
    server = of_pool(behind)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(f"http://127.0.0.1:{server['port']}/metrics?model={Q2}&autoload=false", timeout=10)
    with pytest.raises(urllib.error.HTTPError, match="400"):  # llama-server takes the last that is named
        asked = f"http://127.0.0.1:{PORT}/models/{Q2}/props?model=chat&autoload=true"
        urllib.request.urlopen(urllib.request.Request(asked, headers={"x-api-key": "all"}), timeout=10)
    server = of_pool(behind)
    assert (server["state"], server["is_ready"]) == ("asleep", True)
    assert [item["aliases"] for item in server["members"]] == [[], ["chat"]]
    assert server["models"] == {Q2: "unloaded", odd: "unloaded"}

    # 20 clients of each, where one model fits
    asked = [Q2, "chat"] * 20
    with ThreadPoolExecutor(len(asked)) as clients:
        answers = list(clients.map(chat, asked))
    assert [(status, document.get("error")) for status, document in answers] == [(200, None)] * len(asked)
    assert all(document["choices"][0]["message"]["content"] for _status, document in answers)
    assert [document["model"] for _status, document in answers] == [{"chat": odd}.get(name, name) for name in asked]
    server = of_pool(behind)
    assert sorted(server["models"].values()) == ["loaded", "unloaded"]
    assert server["state"] == "running"
    assert 50 << 20 < server["memory"]["used"] < server["memory"]["need"]["Host"]

    # a key to one of them finds no way to another, however the body says its name
    long, said = "x" * (12 << 20), '"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1'
    form = '--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    forms = form % ("model", "chat") + form % ("prompt", "Hi") + "--b--\r\n"
    for body, kind, path, wanted in (
        (f'{{"model": "{Q2}", {said}, "user": "{long}"}}', "application/json", "chat/completions", 200),
        (f'{{"model": "{Q2}", "model": "chat", {said}}}', "application/json", "chat/completions", 400),
        (f'{{"model": "{Q2}", "\\u006dodel": "chat", {said}}}', "application/json", "chat/completions", 400),
        (
            f'{{"model": "{Q2}", "model": "chat", {said}, "user": "{long}"}}',
            "application/json",
            "chat/completions",
            400,
        ),
        (f'{{"model": "{Q2}"}}\r\n{forms}', "multipart/form-data; boundary=b", "completions", 400),
    ):
        status, answer = post(body.encode(), "only-q2", kind, path)
        assert status == wanted, answer
    own = urllib.request.Request(f"http://127.0.0.1:{PORT}/models/{Q2}/props", headers={"x-api-key": "only-q2"})
    with urllib.request.urlopen(own, timeout=10) as answer:
        assert answer.status == 200

    # one model less, and all of it back
    behind.add_profile("development", pools=[{**pool, "models": [Q2], "options": options}])
    fewer = behind.play()
    assert fewer.code == 0, fewer.output
    assert (chat(Q2)[0], chat("chat")[0]) == (200, 404)
    back = magi(behind, "rollback")
    assert back.code == 0, back.err
    for through in ((), ("--instance",)):
        asked_one = magi(behind, "ask", "chat", "Say hello.", "--max-tokens", "4", *through)
        assert asked_one.code == 0, asked_one.err
    refused = magi(behind, "ask", "small", "Say hello.", "--instance")
    assert f"small is a pool; ask one of its models: {Q2}, {odd}" in refused.err
    assert of_pool(behind)["models"] == {Q2: "unloaded", odd: "loaded"}
