"""The gateway: one address for everything that is deployed, through real HAProxy and llama-server on loopback."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ..command import begin
from .conftest import PORTS, ROOT, Deployment, alive

pytestmark = pytest.mark.e2e

Q2, Q3, Q4 = (f"smollm2-135m-instruct.{q}" for q in ("q2_k", "q3_k_m", "q4_k_m"))
PORT = PORTS[1]
HAPROXY = Path("/usr/sbin/haproxy")


@pytest.fixture
def behind(deployment: Deployment) -> Deployment:
    """A deployment with three models and a gateway, all on this machine."""
    for quantization in ("Q2_K", "Q3_K_M", "Q4_K_M"):
        deployment.add_model(quantization)
    deployment.variables["model_server_port_range"] = [PORTS[0], PORT - 1]
    deployment.groups["model_gateways"] = {
        "hosts": {"localhost": {}},
        "vars": {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "model_gateway_manager": "supervisor",
            "model_gateway_supervisord_path": str(Path(sys.executable).with_name("supervisord")),
            "model_gateway_home": str(deployment.folder / "gateway"),
            "model_gateway_port": PORT,
            "model_gateway_hold": 5,
        },
    }
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
    assert error(ask("/v1/files")) == (400, "model_missing")
    assert error(announce(33 << 20)) == (413, "body_too_long")
    assert error(ask(body=chat("😀"))) == (400, "model_missing")  # HAProxy reads no escaped pairs of surrogates
    for name in ('"\n%[env(HOME)]', "x" * 100_000, "é", "{{ 1 }}", "a b"):
        assert error(ask(body=chat(name))) == (404, "model_not_found")
    status, answer, _headers = ask(body=chat(Q2, user="x" * (10 << 20)))
    assert status == 200, answer
    lines = (behind.folder / "gateway" / "logs" / "gateway.log").read_text().splitlines()
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    assert {item["status"] for item in logged} == {200, 400, 404, 413}
    served = {item["model"]: item["server"].partition("::")[2] for item in logged if item["status"] == 200}
    assert {name: served[name] for name in (f"{Q2}-2", Q3, Q4)} == {name: name for name in (f"{Q2}-2", Q3, Q4)}
    assert {served[name].removesuffix("-2") for name in (Q2, "chat", "openai/gpt-4o-mini")} == {Q2}
    assert '"\n%[env(HOME)]' in {item["model"] for item in logged}

    # nothing changes without a reason, and costs one call
    before = (behind.folder / "gateway" / "current").readlink()
    again = behind.play("site", "-vv")
    assert (again.code, again.changed) == (0, 0), again.output
    assert (behind.folder / "gateway" / "current").readlink() == before
    status = behind.play("status")
    assert status.code == 0, status.output
    assert re.search(rf"chat.*localhost.*{re.escape(Q2)}.*up", status.output), status.output

    gone = behind.play("teardown")
    assert gone.code == 0, gone.output
    assert not (behind.folder / "gateway").exists()
    with pytest.raises(ConnectionRefusedError):
        ask("/v1/models")
    assert behind.play("teardown").changed == 0


def test_a_switch_of_profiles_cuts_nothing_that_stays(behind: Deployment):
    """Clients of a model that both profiles have notice nothing, and what is new and gone is routed at once."""
    assert behind.play(profile="fast-only").code == 0
    assert error(ask(body=chat(Q3))) == (404, "model_not_found")
    failed: list[Any] = []
    asked = 0
    over = threading.Event()

    def client(number: int) -> None:
        """Ask again and again: half of the clients for streams, one of these for long ones."""
        nonlocal asked
        stream = number % 2 == 1
        more = {"max_tokens": 1000, "ignore_eos": True} if number == 1 else {}
        while not over.is_set():
            try:
                status, document, _headers = ask(body=chat(Q2, stream=stream, **more))
                if status != 200 or (stream and "[DONE]" not in document):
                    failed.append((status, document))
            except (OSError, http.client.HTTPException) as lost:
                failed.append(lost)
            asked += 1

    clients = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for item in clients:
        item.start()
    try:
        run = behind.play(profile="development")
        assert run.code == 0, run.output
        assert ask(body=chat(Q3))[0] == 200
        back = behind.play(profile="fast-only")
        assert back.code == 0, back.output
        assert error(ask(body=chat(Q3))) == (404, "model_not_found")
    finally:
        over.set()
        for item in clients:
            item.join()
    assert (failed, asked > 20) == ([], True)


def test_what_goes_wrong_is_named_and_the_old_one_goes_on(behind: Deployment):
    variables = behind.groups["model_gateways"]["vars"]
    assert behind.play(profile="fast-only").code == 0
    templates = behind.folder / "templates"
    shutil.copytree(
        Path(__file__).parents[2] / "collections/ansible_collections/magi/models/roles/gateway/templates", templates
    )
    with (templates / "haproxy.cfg.j2").open("a") as file:
        file.write("\nbackend broken\n    nonsense here\n")
    variables["model_gateway_templates_dir"] = str(templates)
    refused = behind.play(profile="fast-only")
    assert refused.code != 0
    assert (
        "Gateway localhost: HAProxy (/usr/sbin/haproxy) refuses the configuration, so the one before stays: "
        in refused.text
    )
    assert "haproxy.cfg:" in refused.text
    assert "unknown keyword 'nonsense'" in refused.text
    assert ask(body=chat(Q2))[0] == 200
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

    # a server that is killed comes back: whoever asks meanwhile waits for it, or is told to ask again
    os.kill(behind.servers()[Q2]["pid"], signal.SIGKILL)
    status, answer, headers = ask(body=chat(Q2))
    if status != 200:
        assert (status, headers["Retry-After"]) == (503, "5"), answer
        status, answer, headers = ask(body=chat(Q2))
    assert status == 200, answer

    # without HAProxy, the run fails unless it is optional
    variables["model_gateway_haproxy_path"] = str(behind.folder)
    missing = behind.play(profile="fast-only")
    assert missing.code != 0
    assert f"HAProxy is not at {behind.folder}: install it" in missing.text


def magi(behind: Deployment, *arguments: str, code: int = 0) -> str:
    """Run magi on the deployment; return what it prints for programs, or what it says if there is nothing."""
    process = begin(
        behind.folder / "state", *arguments, "-i", str(behind.inventory()), cwd=behind.folder, MAGI_PROJECT=str(ROOT)
    )
    out, said = process.communicate(timeout=120)
    assert process.returncode == code, out + said
    return out or said


def starts(behind: Deployment) -> int:
    """Return how often supervisord has started HAProxy."""
    return (behind.folder / "gateway/supervisor/supervisord.log").read_text().count("spawned: 'gateway'")


def test_keys_open_the_gateway_and_close_it_at_once(behind: Deployment):
    """The gateway knows its clients by their keys, and shows its own to the servers."""
    variables, home = behind.groups["model_gateways"]["vars"], behind.folder / "gateway"
    keys, servers = behind.folder / "client-keys", behind.folder / "server-key"
    servers.write_text("canary-server-key\n")
    servers.chmod(0o600)
    behind.add_profile("closed", Q2, Q3, options={"api_key_file": str(servers)})
    variables["model_gateway_keys_file"] = str(keys)
    assert magi(behind, "key", "add", "early").startswith("magi-")  # before the first deployment
    first = behind.play(profile="closed")
    assert first.code == 0, first.output
    assert "set model_gateway_backend_key_file to a file on the gateway" in first.text
    variables["model_gateway_backend_key_file"] = str(servers)
    run = behind.play(profile="closed")
    assert (run.code, "set model_gateway_backend_key_file" in run.text) == (0, False), run.output
    assert 'Authorization: Bearer $KEY" -H' in run.output
    assert error(ask(body=chat(Q2))) == (401, "invalid_api_key")
    assert error(ask("/v1/models")) == (401, "invalid_api_key")
    assert error(ask(body=chat(Q2), Authorization="Bearer canary-server-key")) == (401, "invalid_api_key")

    alice = magi(behind, "key", "add", "alice").strip()
    some = ("--models", "*q2_k", "--concurrent", "1", "--per-minute", "2", "--expires", "9000-01-31")
    ci = json.loads(magi(behind, "key", "add", "ci", *some, "--json"))
    assert (ci["name"], ci["hosts"], ci["gateways"]["localhost"]["in_use"]) == ("ci", ["localhost"], True)
    for one in ({"Authorization": f"Bearer {alice}"}, {"x-api-key": alice}):
        status, answer, _headers = ask(body=chat(Q3), **one)
        assert status == 200, answer
    limited = {"x-api-key": ci["key"]}
    assert [item["id"] for item in ask("/v1/models", **limited)[1]["data"]] == [Q2]
    assert error(ask(body=chat(Q3), **limited)) == (404, "model_not_found")
    assert [ask(body=chat(Q2), **limited)[0] for _ in range(3)] == [200, 200, 429]
    table = magi(behind, "key", "list")
    assert re.search(r"localhost +ci +\*q2_k +1 +2 +9000-01-31", table), table
    listed = json.loads(magi(behind, "key", "list", "--json"))["gateways"]["localhost"]["keys"]
    assert [item["name"] for item in listed] == ["early", "alice", "ci"]
    assert listed[2] == {
        "name": "ci",
        "models": ["*q2_k"],
        "concurrent": 1,
        "per_minute": 2,
        "expires": "9000-01-31",
    }
    assert "has a key alice already; revoke it first" in magi(behind, "key", "add", "alice", code=1)

    # a deployment after it has nothing to do
    again = behind.play("site", profile="closed")
    assert (again.code, again.changed) == (0, 0), again.output

    # a stream goes on while its key is taken away
    stream = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    body = json.dumps(chat(Q2, stream=True, max_tokens=1500, ignore_eos=True))
    stream.request("POST", "/v1/chat/completions", body, {"x-api-key": alice})
    answer = stream.getresponse()
    assert answer.status == 200
    magi(behind, "key", "revoke", "alice")
    assert error(ask(body=chat(Q2), **{"x-api-key": alice})) == (401, "invalid_api_key")
    assert answer.read().rstrip().endswith(b"data: [DONE]")
    assert starts(behind) == 1
    assert "No gateway has a key 'alice': there are ci, early" in magi(behind, "key", "revoke", "alice", code=2)

    # keys are nowhere but with their clients, and digests where HAProxy reads them
    digest = hashlib.sha256(alice.encode()).hexdigest()
    places = [path for path in behind.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in places if alice.encode() in path.read_bytes()]
    found = {path for path in places if hashlib.sha256(ci["key"].encode()).hexdigest().encode() in path.read_bytes()}
    assert found == {keys, home / "secrets" / "keys.map"}
    assert {path.stat().st_mode & 0o777 for path in found} == {0o600}
    assert digest not in "".join(path.read_text(errors="replace") for path in places if path.suffix == ".log")
    servers_key = [path for path in places if b"canary-server-key" in path.read_bytes()]
    assert {*servers_key} <= {servers, home / "secrets" / "backend.map"}
    logged = [json.loads(line) for line in (home / "logs" / "gateway.log").read_text().splitlines() if line[:1] == "{"]
    assert {item["key"] for item in logged} == {"-", "alice", "ci"}

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
