"""The gateway: one address for everything that is deployed, through real HAProxy and llama-server on loopback."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.history import history
from ansible_collections.magi.models.plugins.module_utils._haproxy.program import Program
from ansible_collections.magi.models.plugins.module_utils._haproxy.runtime import ask as tell
from ansible_collections.magi.models.plugins.module_utils._haproxy.runtime import servers
from ansible_collections.magi.models.plugins.module_utils._host.procfs import orphans
from ansible_collections.magi.models.plugins.module_utils._services.supervisor import Supervisor
from ansible_collections.magi.models.plugins.plugin_utils._gateway.haproxy import proxy_name

from .. import minilm
from ..clients import talk
from ..command import Ran, begin
from ..load import Clients, ask_once
from ..playbook import ROOT, Playing, Run
from ..waiting import until
from .conftest import HAPROXY, PORTS, Deployment, alive, embedding_model, environment_of

pytestmark = pytest.mark.e2e

Q2, Q3, Q4 = (f"smollm2-135m-instruct.{q}" for q in ("q2_k", "q3_k_m", "q4_k_m"))
PORT = PORTS[1]


@pytest.fixture
def behind(deployment: Deployment) -> Deployment:
    """A deployment with three models and a gateway, all on this machine."""
    for quantization in ("Q2_K", "Q3_K_M", "Q4_K_M"):
        deployment.add_model(quantization)
    deployment.variables["model_server_port_range"] = [PORTS[0], PORT - 1]
    deployment.add_gateway(PORT, model_gateway_hold=5)
    return deployment


def ask(path: str = "/v1/chat/completions", body: Any = None, **headers: str) -> tuple[int, Any, Any]:
    """Return status, document and headers of the gateway's answer."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    if body is None:
        connection.request("GET", path, headers=headers)
    else:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, data, {"Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    document = json.loads(text) if "json" in (answer.headers["Content-Type"] or "") else text.decode()
    return answer.status, document, answer.headers


def send(data: bytes) -> bytes:
    """Return all that the gateway answers to ``data`` before it ends the connection."""
    with socket.create_connection(("127.0.0.1", PORT), timeout=60) as connection:
        connection.sendall(data)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def over_http2(method: str, path: str, body: bytes, **headers: str) -> tuple[dict[int, int], Any]:
    """Return the gateway's settings of HTTP/2, and the document of its answer to a request that tells no length."""

    def frame(kind: int, flags: int, stream: int, data: bytes) -> bytes:
        return len(data).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + data

    fields = {":method": method, ":scheme": "http", ":path": path, ":authority": "x", **headers}
    block = b"".join(bytes([0, len(n)]) + n.encode() + bytes([len(v)]) + v.encode() for n, v in fields.items())
    settings, text, ended = {}, b"", False
    with socket.create_connection(("127.0.0.1", PORT), timeout=60) as connection, connection.makefile("rb") as answer:
        head = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")
        connection.sendall(head + frame(1, 4, 1, block) + frame(0, 1, 1, body))
        while not ended:
            length, kind, flags = struct.unpack(">3sBB4x", answer.read(9))
            data = answer.read(int.from_bytes(length, "big"))
            if kind == 4:
                settings.update(struct.iter_unpack(">HI", data))
            text += data if kind == 0 else b""
            ended = kind in (0, 1) and bool(flags & 1)
    return settings, json.loads(text)


def announce(size: int) -> tuple[int, Any, Any]:
    """Return the answer to a request that says how long its body will be, and waits before it sends that."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("Content-Length", str(size))
    connection.endheaders()
    answer = connection.getresponse()
    document = json.loads(answer.read())
    connection.close()
    return answer.status, document, answer.headers


def chat(model: str, **more: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_tokens": 16,
        "temperature": 0,
        "model": model,
        **more,
    }


def error(answer: tuple[int, Any, Any]) -> tuple[int, str]:
    """Return status and code of an answer in the shape of OpenAI's errors."""
    status, document, _headers = answer
    assert document["error"].keys() == {"message", "type", "param", "code"}
    return status, document["error"]["code"]


def magi(deployment: Deployment, *arguments: str) -> Ran:
    return Ran(begin(deployment.folder / "state", *arguments, "-i", str(deployment.inventory())))


def test_one_address_for_all_models(behind: Deployment):
    behind.add_profile("development", "*", {"model": Q2, "instances": 2, "aliases": ["chat", "openai/gpt-4o-mini"]})

    checked = behind.play("site", "--check", "--diff")
    assert checked.code == 0, checked.output
    assert not (behind.folder / "gateway").exists()

    first = behind.play()
    assert first.code == 0, first.output
    assert f"Gateway: http://127.0.0.1:{PORT}/v1 routes 6 names: " in first.output
    assert f"curl -s http://127.0.0.1:{PORT}/v1/chat/completions" in first.output
    (entry,) = behind.report()["gateways"]
    assert entry["is_ready"]
    asked = first.task("[5/5] Health check: through the gateway")
    assert {item["name"]: item["status"] for item in entry["asked"]} == dict.fromkeys((Q2, Q3, Q4), 200)
    assert all(f"http://127.0.0.1:{PORT}/models/{name}/health, by host" in asked for name in (Q2, Q3, Q4))
    names = [Q2, f"{Q2}-2", Q3, Q4, "chat", "openai/gpt-4o-mini"]
    assert entry["names"] == sorted(names)
    status, listed, _headers = ask("/v1/models")
    assert (status, {item["id"] for item in listed["data"]}) == (200, {*names})

    # each name leads to its own model, and says so
    for name in names:
        status, answer, _headers = ask(body=chat(name))
        assert status == 200, answer
        assert answer["choices"][0]["message"]["content"]
    status, text, headers = ask(body=chat(Q3, stream=True))
    assert (status, headers["Content-Type"]) == (200, "text/event-stream")
    assert text.count("data: ") > 3
    assert text.rstrip().endswith("data: [DONE]")
    status, answer, _headers = ask(f"/models/{Q4}/v1/chat/completions", chat("this is not looked at"))
    assert status == 200, answer

    # what has no model, or an unknown one, never reaches another's
    unknown = ask(body=chat(Q2.replace("q2", "q1")))
    assert error(unknown) == (404, "model_not_found")
    assert f"did you mean {Q2}" in unknown[1]["error"]["message"]
    assert error(ask(body={"messages": []})) == (400, "model_missing")
    assert error(ask(body=b"no JSON")) == (400, "model_missing")
    assert error(ask(body=chat(True))) == (404, "model_not_found")
    assert error(ask("/v1/files")) == (400, "model_missing")
    assert error(announce(33 << 20)) == (413, "body_too_long")
    assert error(ask(body=chat("😀"))) == (400, "model_missing")  # HAProxy reads no escaped pairs of surrogates
    for name in ('"\n%[env(HOME)]', "\1" * 300, "x" * 100_000, "é", "{{ 1 }}", "a b"):
        assert error(ask(body=chat(name))) == (404, "model_not_found")
    status, answer, _headers = ask(body=chat(Q2, user="x" * (10 << 20)))
    assert status == 200, answer
    assert error(ask("/v1/models/nobody")) == (404, "model_not_found")
    assert ask("/v1/models/openai/gpt-4o-mini")[:2] == (200, next(x for x in listed["data"] if "/" in x["id"]))
    assert error(ask(f"/v1/models?{'x' * 20_000}")) == (431, "headers_too_long")
    for path in ("lora-adapters", "props", "slots/0?action=erase", "%73lots/0", "tools", "v1/streams/lookup"):
        assert error(ask(f"/models/{Q2}/{path}", [])) == (404, "not_for_clients")
    assert error(ask(f"/models/{Q2}/slots")) == (404, "not_for_clients")
    assert error(ask(f"/models/{Q2}/%73lots/0%zz")) == (400, "bad_request")
    assert ask(f"/models/{Q2}/props")[0] == 200
    _status, _answer, headers = ask(body=chat(Q2), Origin="http://elsewhere.example")
    assert not [name for name in headers if name.lower().startswith("access-control")]
    settings, answer = over_http2("POST", "/v1/chat/completions", json.dumps(chat(Q2)).encode())
    assert settings.get(5, 0) < 1 << 24  # the longest frame, where RFC 9113 has its end
    assert answer["choices"], answer
    for wrong in (
        b"GET / HTTP/1.1\r\nno header\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"\x16\x03\r\n\r\n",
    ):
        assert send(wrong).startswith(b"HTTP/1.1 400 ")

    # each token as it comes, and each upload before it takes a slot
    body = json.dumps(chat(Q2, stream=True, max_tokens=60, ignore_eos=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", PORT), timeout=60) as connection:
        connection.sendall(head.encode() + body)
        pieces = sum(1 for _ in iter(lambda: connection.recv(65536), b""))
    assert pieces > 20
    slow = [socket.create_connection(("127.0.0.1", PORT)) for _number in range(8)]
    for connection in slow:
        connection.sendall(head.replace("/v1", f"/models/{Q3}/v1").encode() + b"{")
    assert ask(body=chat(Q3))[0] == 200
    for connection in slow:
        connection.close()
    lines = (behind.folder / "gateway" / "logs" / "gateway.log").read_text().splitlines()
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    assert not [line for line in lines if "Lua" in line]
    assert {item["status"] for item in logged} == {200, 400, 404, 413, 431}
    served = {item["model"]: item["server"].partition("::")[2] for item in logged if item["server"] != "-"}
    assert {name: served[name] for name in (f"{Q2}-2", Q3, Q4)} == {name: name for name in (f"{Q2}-2", Q3, Q4)}
    assert {served[name].removesuffix("-2") for name in (Q2, "chat", "openai/gpt-4o-mini")} == {Q2}
    assert '"\n%[env(HOME)]' in {item["model"] for item in logged}

    # nothing changes without a reason, and costs one call
    before = (behind.folder / "gateway" / "current").readlink()
    again = behind.play("site", "-vv")
    assert (again.code, again.changed) == (0, 0), again.output
    assert "/health, by host" not in again.output
    told = re.findall(r"TASK \[.*(?:gateways learn what comes|Health check: gateway)\]", again.output)
    assert len(told) == 1, again.output
    assert (behind.folder / "gateway" / "current").readlink() == before
    status = behind.play("status")
    assert status.code == 0, status.output
    assert re.search(rf"chat.*localhost.*{re.escape(Q2)}.*up", status.output), status.output
    shown = magi(behind, "routes")
    assert (shown.code, f"Gateway localhost: http://127.0.0.1:{PORT}/v1\n" in shown.err) == (0, True), shown.err
    assert re.search(rf"{re.escape(Q4)} +localhost +{re.escape(Q4)} +up +0 +4 +0\n", shown.err), shown.err
    (routed,) = magi(behind, "routes", "--json").document["gateways"]
    assert (routed["names"], routed["is_ready"]) == (sorted(names), True)
    assert {server["state"] for route in routed["routes"] for server in route["servers"]} == {"up"}
    assert magi(behind, "status", "--json").document["gateways"] == [routed]

    well = magi(behind, "health", "--deep", "--json")
    assert well.code == 0, well.err
    (gateway,) = well.document["gateways"]
    assert (gateway["is_ready"], {item["status"] for item in gateway["asked"]}) == (True, {200})
    assert {item["name"] for item in gateway["asked"]} == {
        "",
        Q2,
        f"{Q2}-2",
        Q3,
        Q4,
    }  # the aliases lead to Q2's servers

    # magi asks through it for any of its names, and one server if told so
    for name in ("openai/gpt-4o-mini", f"{Q2}-2"):
        answer = magi(behind, "ask", name, "Hello", "--max-tokens", "4", "--json")
        assert answer.code == 0, answer.err
        assert (answer.document["gateway"], answer.document["instance"]) == ("localhost", None)
        assert 1 <= answer.document["tokens"] <= 4
    one = magi(behind, "ask", "--instance", Q3, "Hello", "--max-tokens", "4")
    assert (one.code, bool(re.match(r"localhost: \d tokens?", one.err))) == (0, True), one.err
    nobody = magi(behind, "ask", Q2.replace("q2", "q1"), "Hello")
    assert (nobody.code, f"did you mean {Q2}" in nobody.sentence) == (2, True), nobody.err
    assert nobody.sentence.startswith("Gateway localhost: it answers 404: There is no model")
    assert "did you mean" in magi(behind, "ask", "--instance", Q2[:-1], "Hello").sentence

    gone = behind.play("teardown")
    assert gone.code == 0, gone.output
    assert not (behind.folder / "gateway").exists()
    with pytest.raises(ConnectionRefusedError):
        ask("/v1/models")
    assert behind.play("teardown").changed == 0
    nothing = magi(behind, "routes")
    assert (nothing.code, "Note: there is no gateway on localhost: nothing runs there" in nothing.err) == (3, True)
    behind.groups.clear()
    without = magi(behind, "routes")
    assert (without.code, without.sentence.endswith("put one into it and run magi up.")) == (2, True)


def test_real_clients_talk_to_all_models_at_one_address(behind: Deployment):
    """The packages openai and anthropic: four chat models and an embedder. A server that is killed before it answered
    them is none of their concern while its model has another, nor is one that is stopped."""
    behind.add_model("Q4_1")
    shutil.copyfile(embedding_model(), behind.models / minilm.NAME)
    behind.add_profile("all", "*", {"model": Q2, "instances": 2})
    run = behind.play(profile="all")
    assert run.code == 0, run.output
    tasks = {server["model_id"]: server["task"] for server in behind.servers().values()}
    (embedder,) = (model for model, task in tasks.items() if task == "embedding")
    chats = [model for model, task in tasks.items() if task == "chat"]
    assert len(chats) == 4
    program, address = str(Path(__file__).with_name("talk.py")), f"http://127.0.0.1:{PORT}"
    talk(program, address, embedder, *chats)
    log = behind.folder / "gateway" / "logs" / "gateway.log"
    assert 502 not in {item["status"] for item in logged(log)}
    killed = behind.servers()[f"{Q2}-2"]
    talk(program, address, "while-killed", Q2, str(killed["pid"]), str(killed["port"]))
    lost = [item for item in logged(log) if item["status"] == 502]
    assert {item["model"] for item in lost} == {Q2}  # they were in flight, and their clients asked again

    # what is stopped has no clients any more; they come back when somebody starts it again
    second = f"{Q2}-2"
    with Clients("127.0.0.1", PORT, [Q2], count=8, pause=0.5) as clients:
        stopped = magi(behind, "stop", second)
        assert stopped.code == 0, stopped.err
        began = len(logged(log))
        until(lambda: len(logged(log)) > began + 8, 30, "the other answers")
        Supervisor(behind.home, "supervisord").start([second])
        until(lambda: any(second in item["server"] for item in logged(log)[began:]), 30, "an answer of it")
    assert [item for item in clients.wrong if item[1:] != ("another model", {second})] == []  # it says its own name


def test_what_its_clients_do_not_get_is_seen_by_magi_health(behind: Deployment):
    assert behind.play(profile="fast-only").code == 0
    port = behind.servers()[Q2]["port"]
    service = Program(behind.folder / "gateway", "supervisord")
    place = f"{Q2}/{proxy_name('localhost', Q2)}"

    # its server is well, and the gateway does not reach it
    tell(service.sockets.stats, f"set server {place} addr 127.0.0.1 port 1")
    until(lambda: ask(f"/models/{Q2}/health")[0] == 503, 20, "the gateway's check fails")
    for deep in ([], ["--deep"]):
        sick = magi(behind, "health", "--json", *deep)
        assert (sick.code, sick.document["ready_servers"]) == (3, 1), sick.err
        (failed,) = sick.document["summary"]["failed"]
        assert (failed["cause"], failed["instance"]) == ("not_reached", None)
        assert failed["detail"].startswith(f"Gateway localhost: it reaches no server of {Q2}; open"), failed
    routed = magi(behind, "routes")
    assert (routed.code, "down, held" in routed.err) == (3, True), routed.err
    tell(service.sockets.stats, f"set server {place} addr 127.0.0.1 port {port}")
    until(lambda: ask(f"/models/{Q2}/health")[0] == 200, 20, "the gateway's check succeeds")
    assert magi(behind, "health").code == 0

    # the gateway itself is gone
    service.supervisor.stop("gateway")
    for verb in ("health", "status"):
        gone = magi(behind, verb)
        assert (gone.code, "HAProxy does not answer; magi up starts it again" in gone.err) == (3, True), gone.err
    assert behind.play(profile="fast-only").code == 0
    assert ask(body=chat(Q2))[0] == 200


def test_a_switch_and_a_restart_under_load_lose_no_request(behind: Deployment):
    """Thirty clients of a model that stays notice nothing of others that come and go, nor of its own restart."""
    log = behind.folder / "gateway" / "logs" / "gateway.log"
    behind.variables["model_server_stop_timeout"] = 60
    behind.groups["model_gateways"]["vars"]["model_gateway_hold"] = 60
    assert behind.play(profile="development").code == 0
    with Clients("127.0.0.1", PORT, [Q2], pause=4) as clients:
        # what streams from one that goes ends in its own time, and then nobody gets it any more
        last = threading.Thread(target=lambda: ended.append(stream_of(Q3)))
        ended: list[Any] = []
        last.start()
        run = behind.play(profile="fast-only")
        assert run.code == 0, run.output
        last.join()
        assert ended == [None]
        assert f"clients of {Q3}: drained, then forgotten: nothing else serves its model" in run.output
        assert "stop_timeout ran out" not in run.output
        assert error(ask(body=chat(Q3))) == (404, "model_not_found")

        back = behind.play(profile="development")
        assert back.code == 0, back.output
        assert ask(body=chat(Q3))[0] == 200

        # one server, which restarts: another stands in for it, and is gone afterwards
        behind.add_profile("development", "*", {"model": Q2, "options": {"ctx_size": 1024}})
        changed = behind.play(profile="development")
        assert changed.code == 0, changed.output
        assert re.search(rf"clients of {Q2}: beside: {Q2}-stand-in-1 on port \d+ serves its model", changed.output)
        assert "stop_timeout ran out" not in changed.output
        assert behind.servers().keys() == {Q2, Q3, Q4}
        assert [path for path in behind.home.rglob("*stand-in*") if path.is_file()] == []
        assert [item["id"] for item in ask("/v1/models")[1]["data"]] == [Q2, Q3, Q4]
        assert {item["model"] for item in logged(log) if f"{Q2}-stand-in-1" in item["server"]} == {Q2}
        assert not any(item["held"] for item in logged(log))

        # where nobody looks whether there is room for another, whoever asks waits
        behind.variables["model_server_memory"] = "off"
        behind.add_profile("development", "*", {"model": Q2, "options": {"ctx_size": 2048}})
        changed = behind.play(profile="development")
        assert changed.code == 0, changed.output
        assert f"clients of {Q2}: held: nothing else serves its model; no stand-in: how much memory" in changed.output
        assert "stop_timeout ran out" not in changed.output
    assert clients.wrong == []
    assert clients.answered[Q2] > 100
    held = [item for item in logged(log) if item["held"]]
    assert {(item["model"], item["status"], item["server"].partition("::")[2]) for item in held} == {(Q2, 200, Q2)}
    again = behind.play(profile="development")
    assert (again.code, again.changed) == (0, 0), again.output


def test_what_the_gateway_does_not_reach_takes_nobody_s_place(behind: Deployment, tmp_path: Path):
    """A stand-in that is ready on its host, and that the gateway asks at another port, as if a firewall were between."""
    assert behind.play(profile="fast-only").code == 0
    before = {name: server["pid"] for name, server in behind.servers().items()}
    folder = tmp_path / "own"
    shutil.copytree(ROOT / "collections/ansible_collections/magi/models/roles/gateway/templates", folder)
    template = folder / "haproxy.cfg.j2"
    text = template.read_text()
    wrong = text.replace("server.port)", "9 if server.part == 'comes' else server.port)")
    assert wrong != text
    template.write_text(wrong)
    behind.add_profile("fast-only", {"model": Q2, "options": {"ctx_size": 1024}})
    variables = behind.groups["model_gateways"]["vars"]
    variables["model_gateway_templates_dir"] = str(folder)
    with Clients("127.0.0.1", PORT, [Q2], count=4, pause=0.5) as clients:
        run = behind.play(profile="fast-only")
        assert run.code == 2, run.output
        said = f"gateway localhost gets no answer from {Q2}-stand-in-1 of localhost at 127.0.0.1:"
        assert f"host_failed: Host localhost: {said}" in run.text
        assert "which is to serve while others go, so nothing was ended" in run.text
        assert {name: os.path.exists(f"/proc/{pid}") for name, pid in before.items()} == {Q2: True}
        del variables["model_gateway_templates_dir"]
        again = behind.play(profile="fast-only")
        assert again.code == 0, again.output
    assert clients.wrong == []
    assert {name: environment_of(server["pid"])["LLAMA_ARG_CTX_SIZE"] for name, server in behind.servers().items()} == {
        Q2: "1024"
    }


def logged(log: Path) -> list[dict[str, Any]]:
    """Return what a gateway has logged of requests."""
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def stream_of(model: str, tokens: int = 400) -> Any:
    """Return what was wrong with a long stream of a model; None if it came whole."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=120)
    return ask_once(connection, model, stream=True, tokens=tokens)


def test_what_a_killed_deployment_took_from_servers_the_next_one_gives_back(behind: Deployment):
    stats = Program(behind.folder / "gateway", "supervisord").sockets.stats
    behind.variables["model_server_stop_timeout"] = 60
    assert behind.play(profile="development").code == 0
    ended: list[Any] = []
    last = threading.Thread(target=lambda: ended.append(stream_of(Q3)))
    last.start()
    behind.add_profile("next", {"model": Q2, "options": {"ctx_size": 1024}})
    killed = behind.start("site", profile="next")
    until(lambda: "drained" in {item.state for item in servers(stats)}, 60, "servers are drained")
    killed.send(signal.SIGKILL)
    killed.process.wait()
    assert (behind.home / "instances" / f"{Q2}-stand-in-1.env").exists()
    run = behind.play(profile="development")
    assert run.code == 0, run.output
    # what stood in goes as any other
    assert f"stop {Q2}-stand-in-1: stood in for {Q2} in a deployment that did not end" in run.output
    assert f"clients of {Q2}-stand-in-1: drained, while localhost serves its model" in run.output
    assert [path for path in behind.home.rglob("*stand-in*") if path.is_file()] == []
    last.join()
    assert ended == [None]
    assert {item.state for item in servers(stats)} == {"up"}
    assert [ask(body=chat(name))[0] for name in (Q2, Q3, Q4)] == [200, 200, 200]


def test_a_rollback_brings_back_what_ran_before_exactly(behind: Deployment):
    def made() -> dict[str, bytes]:
        folders = (behind.home / "instances", behind.folder / "gateway" / "current")
        return {str(path): path.read_bytes() for folder in folders for path in folder.iterdir()}

    settings = behind.groups["model_gateways"]["vars"]
    settings["model_gateway_hold"] = 60
    assert behind.play(profile="development").code == 0
    before, pids = made(), {name: server["pid"] for name, server in behind.servers().items()}
    behind.add_profile("fast-only", "*q2_k", options={"ctx_size": 1024})
    settings.update(model_gateway_hold=61, model_gateway_queue=11)
    assert behind.play(profile="fast-only").code == 0
    later = made()
    assert before != later
    (behind.folder / "profiles" / "development.yml").unlink()  # it needs no profile

    # one that changed the gateway alone
    kept = {name: server["pid"] for name, server in behind.servers().items()}
    assert magi(behind, "plan", "fast-only", "--json").document["changes"] == 0
    settings["model_gateway_hold"] = 900
    wrong = magi(behind, "plan", "fast-only")
    assert wrong.code == 1, wrong.out
    assert "model_gateway_hold (900) must be less than model_gateway_stream_timeout (600)" in wrong.err
    settings["model_gateway_hold"] = 62
    for look in (["plan", "fast-only"], ["up", "fast-only", "--check"]):
        looked = magi(behind, *look, "--json").document
        assert (looked["changes"], looked["gateways"]) == (1, [{"host": "localhost", "actions": ["write", "reload"]}])
    assert behind.play(profile="fast-only").code == 0
    assert made() != later
    back = magi(behind, "rollback", "--json")
    assert back.code == 0, back.err
    assert made() == later
    assert {name: server["pid"] for name, server in behind.servers().items()} == kept

    looked = magi(behind, "rollback", "--check", "--json")
    assert (looked.code, made()) == (0, later), looked.err
    plan = looked.document["hosts"]["localhost"]
    assert {item["instance"]: item["action"] for item in plan["actions"]} == {Q2: "restart", Q3: "start", Q4: "start"}
    assert plan["notes"] == ["brings back generation 1 (profile development)."]

    with Clients("127.0.0.1", PORT, [Q2], count=8, pause=0.5) as clients:
        back = magi(behind, "rollback", "--json")
    assert back.code == 0, back.err
    assert (clients.wrong, bool(clients.answered)) == ([], True)
    assert (back.document["summary"]["profile"], back.document["ready_servers"]) == ("development", 3)
    assert made() == before
    assert [ask(body=chat(name))[0] for name in (Q2, Q3, Q4)] == [200, 200, 200]
    assert behind.servers().keys() == pids.keys()

    kept = {name: server["pid"] for name, server in behind.servers().items()}
    again = magi(behind, "rollback")
    assert again.code == 1, again.err
    assert "Host localhost: there is no generation before this one (profile development, " in again.err
    assert {name: environment_of(pid)["MAGI_INSTANCE"] for name, pid in kept.items()} == {name: name for name in kept}
    assert made() == before


def test_a_canary_that_does_worse_is_taken_back_and_the_others_stay(behind: Deployment):
    behind.hosts = {
        name: {
            "model_server_home": str(behind.home / name),
            "model_server_port_range": [first, first + 4],
            "model_server_registry_path": str(behind.folder / f"{name}.json"),
        }
        for name, first in (("one", PORTS[0]), ("two", PORTS[0] + 5))
    }

    def deploy(bake: int = 1, **options: Any) -> Playing:
        behind.add_profile("p", Q2, options=options, rollout={"canary": 1, "bake": bake})
        return behind.start(profile="p")

    def running() -> dict[str, tuple[int, str]]:
        pids = {server["host"]: server["pid"] for server in behind.report()["servers"]}
        return {host: (pid, environment_of(pid).get("LLAMA_ARG_CTX_SIZE", "")) for host, pid in pids.items()}

    first = deploy().finish()  # there is nothing to go back to
    assert (first.code, "canary: verdict" in first.output) == (0, False), first.output
    good = deploy(ctx_size=1024).finish()
    assert good.code == 0, good.output
    assert "canary: verdict" in good.output
    before = running()
    assert {size for _pid, size in before.values()} == {"1024"}

    bad = deploy(ctx_size=2048, rope_freq_scale=50).finish()
    assert bad.code == 2, bad.output
    said = f"instance {Q2}: it was asked for some words and repeated itself"
    assert re.search(rf"taken_back: Host one: {said} \(.*\); what it ran before is back", bad.output), bad.output
    assert f"held_back: Host two: not deployed, because in an earlier batch one failed: {said}" in bad.output
    after = running()
    assert after["two"] == before["two"]
    assert after["one"][1] == "1024"
    assert [server["is_ready"] for server in behind.report()["servers"]] == [True, True]
    assert ask(body=chat(Q2))[0] == 200

    # one that crashes while it is watched; the playbook's step is what tells that it is
    crashing = deploy(bake=10, ctx_size=4096)
    until(lambda: "canary: for a while" in crashing.output, 90, "the canary is watched")
    (pid,) = orphans(str(behind.home / "one"), set()).values()
    assert environment_of(pid)["LLAMA_ARG_CTX_SIZE"] == "4096"
    os.kill(pid, signal.SIGKILL)
    crashed = crashing.finish()
    assert crashed.code == 2, crashed.output
    assert f"taken_back: Host one: instance {Q2} crashed while it was watched; what it ran" in crashed.output
    assert {size for _pid, size in running().values()} == {"1024"}
    assert running()["two"] == before["two"]

    # where there is one host, its first instance is the canary
    gone = behind.play("teardown", "--limit", "two")
    assert gone.code == 0, gone.output
    del behind.hosts["two"]

    def each(**options: Any) -> tuple[Run, dict[str, tuple[int, str]]]:
        behind.add_profile("p", {"model": Q2, "instances": 2}, options=options, rollout={"canary": 1, "bake": 1})
        run = behind.start(profile="p").finish()
        pids = {server["instance"]: server["pid"] for server in behind.report()["servers"]}
        return run, {name: (pid, environment_of(pid)["LLAMA_ARG_CTX_SIZE"]) for name, pid in pids.items()}

    other = f"{Q2}-2"
    more, was = each(ctx_size=1024)
    assert (more.code, was.keys()) == (0, {Q2, other}), more.output
    bad, after = each(ctx_size=2048, rope_freq_scale=50)
    assert bad.code == 2, bad.output
    assert f"one: {Q2} first, watched for 1 s; then what else changes" in bad.output
    assert f"taken_back: Host one: {said} " in bad.output
    assert after[other] == was[other]
    assert after[Q2][1] == "1024"
    assert {ask(body=chat(name))[0] for name in (Q2, other)} == {200}
    good, now = each(ctx_size=2048)
    assert good.code == 0, good.output
    assert {size for _pid, size in now.values()} == {"2048"}
    assert f"clients of {Q2}: drained, while one serves its model" in good.output
    assert f"clients of {other}: drained, while one serves its model" in good.output

    # both are one deployment, which a rollback takes back
    *_others, before_it, last = history(str(behind.home / "one"))
    for made, size in ((before_it, "1024"), (last, "2048")):
        instances = {item["name"]: item["options"]["ctx_size"] for item in made["plan"]["instances"]}
        assert instances == {Q2: size, other: size}


def test_what_goes_wrong_is_named_and_the_old_one_goes_on(behind: Deployment):
    variables = behind.groups["model_gateways"]["vars"]
    assert behind.play(profile="fast-only").code == 0
    templates = behind.folder / "templates"
    shutil.copytree(ROOT / "collections/ansible_collections/magi/models/roles/gateway/templates", templates)
    with (templates / "haproxy.cfg.j2").open("a") as file:
        file.write("\nbackend broken\n    nonsense here\n")
    variables["model_gateway_templates_dir"] = str(templates)
    refused = behind.play(profile="fast-only")
    assert refused.code != 0
    assert (
        f"Gateway localhost: HAProxy ({HAPROXY}) refuses the configuration, so the one before stays: " in refused.text
    )
    assert "haproxy.cfg:" in refused.text
    assert "unknown keyword 'nonsense'" in refused.text
    assert ask(body=chat(Q2))[0] == 200

    # the hosts are deployed all the same, also where servers with clients restart
    behind.add_profile("fast-only", Q2, options={"ctx_size": 1024})
    changed = behind.play(profile="fast-only")
    assert changed.code != 0
    assert "refuses the configuration" in changed.text
    assert (behind.servers()[Q2]["is_ready"], ask(body=chat(Q2))[0]) == (True, 200)
    del variables["model_gateway_templates_dir"]

    # a killed gateway comes back by itself
    log = behind.folder / "gateway" / "supervisor" / "supervisord.log"
    master = int(re.findall(r"'gateway' with pid (\d+)", log.read_text())[-1])
    os.kill(master, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while alive(master) or not answers():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert ask(body=chat(Q2))[0] == 200

    # a server that is killed comes back: whoever asks meanwhile waits for it, unless it took the request and died
    os.kill(behind.servers()[Q2]["pid"], signal.SIGKILL)
    answer = ask(body=chat(Q2))
    if answer[0] != 200:
        assert error(answer) == (502, "bad_gateway")
        answer = ask(body=chat(Q2))
    assert answer[0] == 200, answer

    # one that does not come back: who asks is told when to ask again
    assert behind.play("stop").code == 0
    status, answer, headers = ask(body=chat(Q2))
    assert (status, answer["error"]["code"], headers["Retry-After"]) == (503, "no_server", "10")
    assert behind.play(profile="fast-only").code == 0

    # without HAProxy, the run fails unless it is optional, and what restarts has no clients to speak of
    behind.add_profile("fast-only", Q2)
    variables["model_gateway_haproxy_path"] = str(behind.folder)
    missing = behind.play(profile="fast-only")
    assert missing.code != 0
    assert f"HAProxy is not at {behind.folder}: install it" in missing.text
    assert "clients of" not in missing.text


def told(behind: Deployment, *arguments: str, code: int = 0) -> str:
    """Run magi on the deployment; return what it prints for programs, or what it says if there is nothing."""
    run = magi(behind, *arguments)
    assert run.code == code, run.out + run.err
    return run.out or run.err


def starts(behind: Deployment) -> int:
    """Return how often supervisord has started HAProxy."""
    return (behind.folder / "gateway/supervisor/supervisord.log").read_text().count("spawned: 'gateway'")


def test_keys_open_the_gateway_and_close_it_at_once(behind: Deployment):
    """The gateway knows its clients by their keys, and shows its own to the servers."""
    variables, home = behind.groups["model_gateways"]["vars"], behind.folder / "gateway"
    keys, server_key = behind.folder / "client-keys", behind.folder / "server-key"
    server_key.write_text("canary-server-key\n")
    server_key.chmod(0o600)
    behind.add_profile("closed", Q2, Q3, options={"api_key_file": str(server_key)})
    variables["model_gateway_keys_file"] = str(keys)
    assert told(behind, "key", "add", "early").startswith("magi-")  # before the first deployment
    first = behind.play(profile="closed")
    assert first.code == 0, first.output
    assert "set model_gateway_backend_key_file to a file on the gateway" in first.text
    # whoever has no key can't ask for a model's health: the deployment asks on a socket of its own
    (entry,) = behind.report()["gateways"]
    assert [(item["name"], bool(item["socket"]), item["status"]) for item in entry["asked"]] == [
        ("", False, 200),
        (Q2, True, 200),
        (Q3, True, 200),
    ]
    variables["model_gateway_backend_key_file"] = str(server_key)
    run = behind.play(profile="closed")
    assert (run.code, "set model_gateway_backend_key_file" in run.text) == (0, False), run.output
    assert 'Authorization: Bearer $KEY" -H' in run.output
    assert error(ask(body=chat(Q2))) == (401, "invalid_api_key")
    assert error(ask("/v1/models")) == (401, "invalid_api_key")
    assert error(ask(body=chat(Q2), Authorization="Bearer canary-server-key")) == (401, "invalid_api_key")
    talk(str(Path(__file__).with_name("talk.py")), f"http://127.0.0.1:{PORT}", "wrong-key", Q2)

    alice = told(behind, "key", "add", "alice").strip()
    some = ("--models", "*q2_k", "--concurrent", "1", "--per-minute", "2", "--expires", "9000-01-31")
    ci = json.loads(told(behind, "key", "add", "ci", *some, "--json"))
    assert (ci["name"], ci["hosts"], ci["gateways"]["localhost"]["in_use"]) == ("ci", ["localhost"], True)
    for one in ({"Authorization": f"Bearer {alice}"}, {"x-api-key": alice}):
        status, answer, _headers = ask(body=chat(Q3), **one)
        assert status == 200, answer
    limited = {"x-api-key": ci["key"]}
    assert [item["id"] for item in ask("/v1/models", **limited)[1]["data"]] == [Q2]
    assert error(ask(body=chat(Q3), **limited)) == (404, "model_not_found")
    assert [ask(body=chat(Q2), **limited)[0] for _ in range(3)] == [200, 200, 429]
    table = told(behind, "key", "list")
    assert re.search(r"localhost +ci +\*q2_k +1 +2 +9000-01-31", table), table
    listed = json.loads(told(behind, "key", "list", "--json"))["gateways"]["localhost"]["keys"]
    assert [item["name"] for item in listed] == ["early", "alice", "ci"]
    assert listed[2] == {
        "name": "ci",
        "models": ["*q2_k"],
        "concurrent": 1,
        "per_minute": 2,
        "expires": "9000-01-31",
    }
    # a client that has left counts no longer, and what is refused never did
    stats = Program(home, "supervisord").sockets.stats
    one = {"x-api-key": told(behind, "key", "add", "one", "--concurrent", "1").strip()}
    for stream in (True, False):
        left = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
        body = json.dumps(chat(Q2, stream=stream, max_tokens=4000, ignore_eos=True))
        left.request("POST", "/v1/chat/completions", body, one)
        until(lambda: any(item.busy for item in servers(stats)), 10, "it is worked on")
        assert error(ask(body=chat(Q2), **one)) == (429, "too_many_concurrent")
        left.close()
        until(lambda: ask(body=chat(Q2), **one)[0] == 200, 10, "it counts no longer")
    with ThreadPoolExecutor(6) as clients:
        statuses = [*clients.map(lambda _number: ask(body=chat(Q2, max_tokens=1), **one)[0], range(120))]
    assert statuses.count(200) > 20, statuses
    told(behind, "key", "revoke", "one")
    assert "has a key alice already; revoke it first" in told(behind, "key", "add", "alice", code=1)

    # a deployment after it has nothing to do
    again = behind.play("site", profile="closed")
    assert (again.code, again.changed) == (0, 0), again.output

    # a stream goes on while its key is taken away
    stream = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    body = json.dumps(chat(Q2, stream=True, max_tokens=1500, ignore_eos=True))
    stream.request("POST", "/v1/chat/completions", body, {"x-api-key": alice})
    answer = stream.getresponse()
    assert answer.status == 200
    told(behind, "key", "revoke", "alice")
    assert error(ask(body=chat(Q2), **{"x-api-key": alice})) == (401, "invalid_api_key")
    assert answer.read().rstrip().endswith(b"data: [DONE]")
    assert starts(behind) == 1
    assert "No gateway has a key 'alice': there are ci, early" in told(behind, "key", "revoke", "alice", code=2)

    # keys are nowhere but with their clients, and digests where HAProxy reads them
    digest = hashlib.sha256(alice.encode()).hexdigest()
    places = [path for path in behind.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in places if alice.encode() in path.read_bytes()]
    found = {path for path in places if hashlib.sha256(ci["key"].encode()).hexdigest().encode() in path.read_bytes()}
    assert found == {keys, home / "secrets" / "keys.map"}
    assert {path.stat().st_mode & 0o777 for path in found} == {0o600}
    assert digest not in "".join(path.read_text(errors="replace") for path in places if path.suffix == ".log")
    servers_key = [path for path in places if b"canary-server-key" in path.read_bytes()]
    assert {*servers_key} <= {server_key, home / "secrets" / "backend.map"}
    logged = [json.loads(line) for line in (home / "logs" / "gateway.log").read_text().splitlines() if line[:1] == "{"]
    assert {item["key"] for item in logged} == {"-", ":magi", "alice", "ci", "one"}

    # a file that somebody edits counts from the next deployment on, or is refused with its line
    keys.write_text(keys.read_text() + "not a digest\n")
    wrong = behind.play(profile="closed")
    assert wrong.code != 0
    assert re.search(rf"{keys}, line \d+: the first word must be the SHA-256 of a key", wrong.text), wrong.output
    assert ask(body=chat(Q2), **limited)[0] in (200, 429)


def test_https_with_a_certificate_of_the_host(behind: Deployment):
    variables = behind.groups["model_gateways"]["vars"]
    pem = behind.folder / "gateway.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-days", "2"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(pem), "-out", str(behind.folder / "c.pem")]
    subprocess.run([*command, *names], check=True, capture_output=True)
    pem.write_text((behind.folder / "c.pem").read_text() + pem.read_text())
    pem.chmod(0o600)
    variables["model_gateway_tls_certificate"] = str(pem)
    run = behind.play(profile="fast-only")
    assert run.code == 0, run.output
    assert behind.report()["gateways"][0]["url"] == f"https://127.0.0.1:{PORT}/v1"

    def status() -> int:
        trusted = ssl.create_default_context(cafile=behind.folder / "c.pem")
        connection = http.client.HTTPSConnection("127.0.0.1", PORT, timeout=60, context=trusted)
        connection.request("POST", "/v1/chat/completions", json.dumps(chat(Q2)))
        return connection.getresponse().status

    assert status() == 200
    assert "PRIVATE KEY" not in run.output
    pem.write_text("no certificate")
    bad = behind.play("site", "--diff", profile="fast-only")
    assert bad.code != 0
    assert f"model_gateway_tls_certificate {pem} is no certificate with its private key" in bad.text
    assert status() == 200


def answers() -> bool:
    try:
        return ask("/health")[0] == 200
    except OSError:
        return False
