"""What real HAProxy does with the configuration: who gets in, and to which server. The servers are fakes, which are
quick and say what they were asked; tests/e2e has real ones."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ansible_collections.magi.models.plugins.module_utils._haproxy.keys import Key, maps
from ansible_collections.magi.models.plugins.module_utils._haproxy.runtime import ask as tell
from ansible_collections.magi.models.plugins.module_utils._haproxy.runtime import (
    await_answers,
    await_up,
    counts,
    drain,
    leave_to_checks,
    up,
)
from ansible_collections.magi.models.plugins.module_utils._haproxy.runtime import servers as states
from ansible_collections.magi.models.plugins.module_utils._haproxy.sockets import Sockets
from ansible_collections.magi.models.plugins.module_utils._haproxy.stats import parse_workers
from ansible_collections.magi.models.plugins.plugin_utils._ansible.templates import plain_environment
from ansible_collections.magi.models.plugins.plugin_utils._gateway.canary import FEW, compared, since, waited
from ansible_collections.magi.models.plugins.plugin_utils._gateway.handover import ending, stopped
from ansible_collections.magi.models.plugins.plugin_utils._gateway.haproxy import configuration
from ansible_collections.magi.models.plugins.plugin_utils._gateway.routes import Part, Server, routes
from ansible_collections.magi.models.plugins.plugin_utils._gateway.settings import Gateway
from ansible_collections.magi.models.plugins.plugin_utils._observe.prometheus import FROM_GATEWAY
from ansible_collections.magi.models.plugins.plugin_utils._observe.rules import RECORDS, Limits, alerts

TEMPLATES = Path(__file__).parents[5] / "roles" / "gateway" / "templates"
HAPROXY = os.environ.get("MAGI_HAPROXY") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin")
pytestmark = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed (Debian: apt-get install haproxy)")


class FakeServer(ThreadingHTTPServer):
    """Answers with the headers that it got, once ``go`` is set; counts the requests that it works on."""

    daemon_threads = True

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), FakeHandler)
        self.go = threading.Event()
        self.go.set()
        self.lock = threading.Lock()
        self.busy = self.most = self.served = self.got = 0
        self.asked: list[dict[str, str]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_given):
        """A check of HAProxy ends its connection without a word."""


class FakeHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: else the second waits until the first is acknowledged
    server: FakeServer

    def do_GET(self):
        if self.path != "/health":
            self.server.got += 1
        self.answer({"path": self.path})

    def do_POST(self):
        self.read_body()
        with self.server.lock:
            self.server.busy += 1
            self.server.served += 1
            self.server.most = max(self.server.most, self.server.busy)
            self.server.asked.append(dict(self.headers))
        self.server.go.wait(20)
        with self.server.lock:
            self.server.busy -= 1
        self.answer({"port": self.server.server_port})

    def read_body(self):
        if "Content-Length" in self.headers:
            self.rfile.read(int(self.headers["Content-Length"]))
            return
        while size := int(self.rfile.readline(), 16):
            self.rfile.read(size + 2)
        self.rfile.readline()

    def answer(self, document):
        data = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_given):
        """Say nothing."""


class FakeOnceHandler(FakeHandler):
    """Answers one request of a connection, and closes it when the next one comes."""

    def handle(self):
        self.handle_one_request()
        self.connection.recv(1)


class Proxy:
    """HAProxy, with the configuration for some servers."""

    def __init__(self, folder, servers, secrets=None, *, master=False, **settings):
        self.port = free_port()
        self.gateway = Gateway(port=self.port, **{"max_body": 1, "metrics_port": 0, **settings})
        self.folder = folder
        self.sockets = Sockets.at(lambda name: f"{folder}/{name}")
        (folder / "secrets").mkdir()
        self.configure(servers, secrets)
        self.log = folder / "log"
        self.context = None
        with self.log.open("w") as log:
            command = [HAPROXY, "-db", "-C", folder, "-f", folder / "haproxy.cfg"]
            command += ["-W", "-S", self.sockets.master] if master else []
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def configure(self, servers, secrets):
        environment = plain_environment([str(TEMPLATES)])
        made = configuration(self.gateway, routes(servers), servers, environment, self.sockets, "secrets")
        for name, content in made.items():
            (self.folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))
        found = secrets(made) if secrets else {}
        for name in self.gateway.secrets:
            (self.folder / "secrets" / name).write_text(found[name])

    def worker(self):
        """Return the process that takes what comes; only with a master."""
        return next(iter(parse_workers(tell(self.sockets.master, "show proc") or "")), None)

    def reload(self):
        """Take the configuration as it is now."""
        before = self.worker()
        self.process.send_signal(signal.SIGUSR2)
        awaited(lambda: self.worker() not in (before, None) and self.ask("/health")[0] == 200)

    def ask(self, path="/v1/chat/completions", body=None, headers=None, method=None):
        """Return status, document and headers of an answer. A body is a document, or bytes, or pieces of them."""
        if self.context:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=self.context)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            data = json.dumps(body) if isinstance(body, dict) else body
            with contextlib.suppress(
                BrokenPipeError, ConnectionResetError
            ):  # refused before its end, as httpx takes it
                connection.request(method or ("GET" if body is None else "POST"), path, data, headers or {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read()), answer.headers

    def up(self, route):
        """Wait until all servers of a route are up."""
        awaited(lambda: self.ask(body={"model": route}, headers=KEY)[0] in (200, 429))

    def logged(self):
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


def free_port():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        return free.getsockname()[1]


def awaited(condition, patience=10):
    deadline = time.monotonic() + patience
    while True:
        with contextlib.suppress(OSError):
            if found := condition():
                return found
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def fakes():
    made = [FakeServer() for _time in range(3)]
    yield made
    for item in made:
        item.go.set()
        item.shutdown()
        item.server_close()


@pytest.fixture
def start(tmp_path):
    started = []

    def proxy(servers, secrets=None, **more):
        one = Proxy(tmp_path, servers, secrets, **more)
        started.append(one)
        awaited(lambda: one.ask("/health") if not more.get("tls_certificate") else one.log.exists())
        return one

    yield proxy
    for item in started:
        item.process.terminate()
        item.process.wait()


def server(fake, name, slots=4, wants_key=False, model=None, aliases=()):
    return Server("h1", name, model or name, "127.0.0.1", fake.server_port, slots, tuple(aliases), wants_key=wants_key)


def digest(key):
    return hashlib.sha256(key.encode()).hexdigest()


def secrets_of(*keys, **more):
    return lambda files: {**maps(keys, files["names.txt"], files["models.json"]), **more}


def error(answer):
    status, document, _headers = answer
    assert document["error"].keys() == {"message", "type", "param", "code"}
    return status, document["error"]["code"]


KEY = {"Authorization": "Bearer magi-all"}
ALL = Key(digest("magi-all"), "all")


def test_only_who_has_a_key_gets_in(fakes, start):
    some = Key(digest("magi-some"), "some", ("ch?t*",))
    none = Key(digest("magi-none"), "none", ("other",))
    over = Key(digest("magi-over"), "over", expires="2020-01-31")
    last = Key(digest("magi-last"), "last", expires="9999-12-30")
    hostile = 'x"\n%[env(HOME)]'
    proxy = start(
        [server(fakes[0], "chat-a", aliases=["a/b c", hostile]), server(fakes[1], "code-b")],
        secrets_of(ALL, some, none, over, last),
        keys_file="/k",
    )
    proxy.up("chat-a")
    proxy.up("code-b")
    assert proxy.ask("/health")[0] == 200
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "magi-all"},
        {"Authorization": "Basic magi-all"},
        {"Authorization": f"Bearer {digest('magi-all')}"},
        {"Authorization": "Bearer all"},
        {"Authorization": "Bearer "},
        {"x-api-key": ""},
        {"x-api-key": "magi-al"},
        {"x-api-key": "wrong", "Authorization": "Bearer magi-al"},
        {"x-api-key": "x" * 50_000},
        {"Authorization": 'Bearer "%[env(HOME)]\t\\"}'},
        {"Authorization": "Bearer ключ".encode()},
        {"x-api-key": b"\xff\xfe\x01"},
    ):
        for path, body in (("/v1/chat/completions", {"model": "chat-a"}), ("/v1/models", None), ("/metrics", None)):
            answer = proxy.ask(path, body, headers)
            assert error(answer) == (401, "invalid_api_key"), headers
            assert answer[2]["WWW-Authenticate"] == "Bearer"
    assert error(proxy.ask(body={"model": "chat-a"}, headers={"x-api-key": "x" * 100_000})) == (431, "headers_too_long")
    assert error(proxy.ask(body={"model": "chat-a"}, headers={"x-api-key": "magi-over"})) == (401, "expired_api_key")
    for name in ("all", "some", "last"):
        for headers in ({"x-api-key": f"magi-{name}"}, {"authorization": f"bearer  magi-{name}"}):
            assert proxy.ask(body={"model": "chat-a"}, headers=headers)[0] == 200
    assert not any({"authorization", "x-api-key"} & {*map(str.lower, item)} for fake in fakes for item in fake.asked)

    def names(key):
        status, document, _headers = proxy.ask("/v1/models", headers={"x-api-key": key})
        assert (status, document["object"]) == (200, "list")
        return [item["id"] for item in document["data"]]

    assert names("magi-all") == sorted(["chat-a", "a/b c", hostile, "code-b"])
    assert (names("magi-some"), names("magi-none")) == (["chat-a"], [])

    # what a key may not use is not there
    hidden = proxy.ask(body={"model": "code-b"}, headers={"x-api-key": "magi-some"})
    missing = proxy.ask(body={"model": "code-c"}, headers={"x-api-key": "magi-some"})
    assert error(hidden) == error(missing) == (404, "model_not_found")
    assert hidden[1]["error"]["message"].replace("code-b", "code-c") == missing[1]["error"]["message"]
    near = proxy.ask(body={"model": "chat-b"}, headers={"x-api-key": "magi-some"})
    assert "did you mean chat-a?" in near[1]["error"]["message"]
    assert (
        "did you mean"
        not in proxy.ask(body={"model": "chat-b"}, headers={"x-api-key": "magi-none"})[1]["error"]["message"]
    )
    assert error(proxy.ask("/models/code-b/v1/x", {}, {"x-api-key": "magi-some"})) == (404, "model_not_found")
    assert proxy.ask(body={"model": hostile}, headers=KEY)[0] == 200

    lines = proxy.logged()
    assert {item["key"] for item in lines} == {"-", "all", "some", "none", "over", "last"}
    text = proxy.log.read_text()
    assert "magi-" not in text
    assert digest("magi-all") not in text


def test_a_key_asks_no_more_than_it_may(fakes, start):
    proxy = start(
        [server(fakes[0], "a")],
        secrets_of(
            ALL,
            Key(digest("one"), "one", concurrent=1),
            Key(digest("two"), "two", concurrent=2),
            Key(digest("few"), "few", per_minute=3),
        ),
        keys_file="/k",
    )
    proxy.up("a")
    few = {"x-api-key": "few"}
    assert error(proxy.ask(body={"model": "none"}, headers=few)) == (404, "model_not_found")  # does not count
    assert [proxy.ask(body={"model": "a"}, headers=few)[0] for _time in range(3)] == [200] * 3
    refused = proxy.ask(body={"model": "a"}, headers=few)
    assert error(refused) == (429, "too_many_per_minute")
    assert refused[2]["Retry-After"] == "30"

    # one after the other, as fast as they come
    assert {proxy.ask(body={"model": "a"}, headers={"x-api-key": "one"})[0] for _time in range(200)} == {200}

    fakes[0].go.clear()
    with ThreadPoolExecutor(2) as pool:
        two = [pool.submit(proxy.ask, body={"model": "a"}, headers={"x-api-key": "two"}) for _time in range(2)]
        awaited(lambda: fakes[0].busy == 2)
        refused = proxy.ask(body={"model": "a"}, headers={"x-api-key": "two"})
        assert error(refused) == (429, "too_many_concurrent")
        assert refused[2]["Retry-After"] == "2"
        fakes[0].go.set()
        assert [item.result()[0] for item in two] == [200, 200]
    assert proxy.ask(body={"model": "a"}, headers={"x-api-key": "two"})[0] == 200


def test_a_pool_serves_those_of_its_models_that_a_request_may_have(fakes, start):
    one, two = (
        Server("h1", "small", name, "127.0.0.1", fakes[0].server_port, 4, aliases, pooled=True)
        for name, aliases in (("a", ("org/a:1",)), ("b", ()))
    )
    keys = (ALL, Key(digest("magi-a"), "a", ("a",)))
    proxy = start([one, two, server(fakes[1], "c")], secrets_of(*keys), keys_file="/k")
    for name in "abc":
        proxy.up(name)
    for name in ("a", "b", "org/a:1"):
        assert proxy.ask(body={"model": name}, headers=KEY)[1] == {"port": fakes[0].server_port}
    served = fakes[0].served
    # a path and a body that disagree, and a body that is none
    assert error(proxy.ask("/models/a/v1/x", {"model": "b"}, KEY)) == (400, "model_missing")
    assert error(proxy.ask("/models/a/v1/x", b"--x", KEY)) == (400, "model_missing")
    # what is about all of its models
    for path in ("/models", "/v1/models", "/models/load", "/%6dodels/unload", "//models", "/models/sse"):
        for body in (None, {"model": "a"}):
            assert error(proxy.ask(f"/models/a{path}", body, KEY)) == (404, "not_for_pools"), (path, body)
    assert error(proxy.ask("/models", {"model": "a"}, KEY)) == (404, "not_for_pools")
    # a key that may have a, and asks for b as llama-server reads it
    limited = {"x-api-key": "magi-a"}
    for body in (b'{"model":"a","model":"b"}', b'{"model":"a", "x": 1,\n"m\\u006fde\\u006C" : "b"}'):
        assert error(proxy.ask(body=body, headers=limited)) == (400, "model_ambiguous"), body
        assert proxy.ask(body=body, headers=KEY)[0] == 200
    assert fakes[0].served == served + 2
    told = b'{"model":"a","messages":[{"content":"say \\"model\\": twice"}]}'
    assert proxy.ask(body=told, headers=limited)[0] == 200
    assert error(proxy.ask(body={"model": "b"}, headers=limited)) == (404, "model_not_found")
    # a GET names its model as a pool wants it, whatever else it says: llama-server takes the last of each name
    for query in ("", "?x=1", "?model=b&autoload=true", "?x&mod%65l=b&%61utoload=1", "?&model=b", "?x;model=b&model=b"):
        path = proxy.ask(f"/models/org%2Fa:1/props{query}", None, KEY)[1]["path"]
        assert path == "/props?model=org%2Fa%3A1&autoload=false", query
    assert proxy.ask("/models/c/props?x=1", None, KEY)[1]["path"].endswith("&x=1")  # no pool
    got = fakes[0].got
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for path, body, headers in (
        ("/props?model=b", b'{"model":"a"}', {}),
        ("/props?model=b", [b'{"model":"a"}'], {}),
        ("/models/a/props", b"model=b&autoload=true", form),
    ):
        refused = proxy.ask(path, body, {**limited, **headers}, "GET")
        assert error(refused) == (400, "model_missing"), (path, body)
    # what tells of the streams of all of its models, or is its operator's, as with any server
    posted = ("/v1/streams/lookup", "/slots/0?action=erase", "/%73lots/0", "/props", "/lora-adapters", "/tools")
    for name in "ac":
        for path in ("/v1/stream?conv_id=1", "/v1/%73tream", "/slots", "/cors-proxy?url=x"):
            assert error(proxy.ask(f"/models/{name}{path}", None, KEY)) == (404, "not_for_clients"), path
        for path in posted:
            assert error(proxy.ask(f"/models/{name}{path}", {"model": name}, KEY)) == (404, "not_for_clients"), path
        assert error(proxy.ask(f"/models/{name}/%73lots/0%zz", {"model": name}, KEY)) == (400, "bad_request")
    # a body that is too long says so
    long = json.dumps({"model": "a", "messages": ["x" * 1024 * 1024]}).encode()
    for body in (long, pieces(long)):
        assert error(proxy.ask("/models/a/v1/chat/completions", body, KEY)) == (413, "body_too_long")
    assert fakes[0].got == got
    # a form, which llama-server would read as such, and HAProxy as JSON
    form = {"Content-Type": "Multipart/form-data; boundary=b", "Content-Encoding": "br"}
    said = b'{"model":"a"}\r\n--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nb\r\n--b--\r\n'
    assert proxy.ask("/v1/completions", said, {**limited, **form})[0] == 200
    assert fakes[0].asked[-1]["content-type"] == "application/json"
    assert "content-encoding" not in fakes[0].asked[-1]


def test_names_like_another_cost_little(fakes, start):
    proxy = start([server(fakes[0], f"{'abcdefgh' * 12}{number:03d}") for number in range(400)])
    assert "did you mean abc" in proxy.ask(body={"model": "abcdefgh" * 12 + "0x"})[1]["error"]["message"]
    for name in ("q" * 99, "abcdefgh" * 12 + "\x01" * 100):
        assert error(proxy.ask(body={"model": name})) == (404, "model_not_found")
        lines = awaited(lambda name=name: [item for item in proxy.logged() if item["model"] == name])
        assert lines[0]["total_ms"] < 1000  # where each name is compared, it is more


@pytest.mark.parametrize("keys_file", ["", "/k"])
def test_servers_get_their_own_key(fakes, start, keys_file):
    proxy = start(
        [server(fakes[0], "a", wants_key=True), server(fakes[1], "b")],
        secrets_of(ALL, **{"backend.map": "key se$cret'\"%[x]\n"}),
        keys_file=keys_file,
        backend_key_file="/b",
    )
    proxy.up("a")
    proxy.up("b")
    given = {**KEY, "x-api-key": "y"}
    assert proxy.ask(body={"model": "a"}, headers=given)[0] == 200
    assert fakes[0].asked[-1]["authorization"] == "Bearer se$cret'\"%[x]"
    assert "x-api-key" not in fakes[0].asked[-1]
    assert proxy.ask(body={"model": "b"}, headers=given)[0] == 200
    assert fakes[1].asked[-1].get("authorization") == (None if keys_file else KEY["Authorization"])


def pieces(data):
    """Yield ``data`` as the chunks of a body without a length."""
    for at in range(0, len(data), 100_000):
        yield data[at : at + 100_000]


def form(**fields):
    """Return a body of multipart/form-data."""
    parts = [
        f'--magi\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()
    ]
    return "".join([*parts, "--magi--\r\n"]).encode()


FORM = {"Content-Type": "multipart/form-data; boundary=magi"}


def test_bodies_of_all_kinds_reach_their_model_or_none(fakes, start):
    one, other, _third = fakes
    proxy = start([server(one, "a"), server(other, "b")], max_body=10)
    proxy.up("a")
    proxy.up("b")
    decoy = json.dumps({"model": "a"})
    last = {"messages": [{"role": "user", "content": decoy + "x" * 10_000_000}], "model": "b"}
    whole = json.dumps(last).encode()
    long = json.dumps({"model": "a", "messages": ["x" * 10 * 1024 * 1024]}).encode()
    one.asked.clear()
    other.asked.clear()
    for headers, path, body, asked in (
        ({}, "/v1/chat/completions", last, other.server_port),
        ({}, "/v1/chat/completions", pieces(whole), other.server_port),
        (FORM, "/models/b/v1/audio/transcriptions", form(model="a", file="x"), other.server_port),
        (FORM, "/models/b/v1/audio/transcriptions", pieces(form(model="a", file="x" * 200_000)), other.server_port),
        (FORM, "/v1/audio/transcriptions", form(model="a", file="x"), (400, "model_missing")),
        (FORM, "/v1/audio/transcriptions", form(file=decoy), (400, "model_missing")),
        ({}, "/v1/chat/completions", pieces(b"not JSON " + decoy.encode()), (400, "model_missing")),
        ({}, "/v1/chat/completions", long, (413, "body_too_long")),
        ({}, "/v1/chat/completions", pieces(long), (413, "body_too_long")),
    ):
        answer = proxy.ask(path, body, headers)
        assert (answer[1]["port"] if answer[0] == 200 else error(answer)) == asked
    assert (len(one.asked), len(other.asked)) == (0, 4)


@pytest.mark.parametrize(("model", "said"), [("b", 200), ("c", 404)])
def test_who_asks_whether_to_send_a_body_is_told(fakes, start, model, said):
    proxy = start([server(fakes[0], "a"), server(fakes[1], "b")])
    proxy.up("b")
    fakes[1].asked.clear()
    body = json.dumps({"messages": ["x" * 100_000], "model": model}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    )
    with contextlib.closing(socket.create_connection(("127.0.0.1", proxy.port), 10)) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert (answer.status, len(fakes[1].asked)) == (said, int(said == 200))
    assert fakes[0].asked == []


def talk(text, *more, model="m"):
    """Return a conversation that begins with the system's message and ``text``."""
    messages = [{"role": "system", "content": "You help."}, {"role": "user", "content": text}]
    return {"messages": [*messages, *({"role": "user", "content": item} for item in more)], "model": model}


def test_a_conversation_stays_and_conversations_spread(fakes, start):
    proxy = start([server(fake, f"m-{number}", model="m") for number, fake in enumerate(fakes)])
    awaited(lambda: {proxy.ask(body={"model": f"m-{number}"})[0] for number in range(3)} == {200})

    def where(*texts):
        status, document, _headers = proxy.ask(body=talk(*texts))
        assert status == 200
        return document["port"]

    homes = {f"question {number}": where(f"question {number}") for number in range(30)}
    assert {*homes.values()} == {fake.server_port for fake in fakes}
    for question, home in homes.items():
        assert {where(question, *["more"] * length) for length in range(3)} == {home}


def test_no_request_waits_while_a_slot_is_free(fakes, start):
    """Sixteen clients with the same conversation: its server takes what it has slots for, the others the rest."""
    two = fakes[:2]
    proxy = start([server(fake, f"m-{number}", slots=2, model="m") for number, fake in enumerate(two)])
    awaited(lambda: {proxy.ask(body={"model": f"m-{number}"})[0] for number in range(2)} == {200})
    for number in range(5):
        for fake in two:
            fake.go.clear()
        with ThreadPoolExecutor(16) as pool:
            asked = [pool.submit(proxy.ask, body=talk(f"conversation {number}")) for _time in range(16)]
            awaited(lambda: [fake.busy for fake in two] == [2, 2])
            for fake in two:
                fake.go.set()
            assert {item.result()[0] for item in asked} == {200}
    assert [fake.most for fake in two] == [2, 2]


def test_who_waits_too_long_is_told_so(fakes, start):
    proxy = start([server(fakes[0], "a", slots=1)], queue=2, queue_timeout=1, hold=1)
    awaited(lambda: proxy.ask(body={"model": "a"})[0] == 200)
    fakes[0].go.clear()
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(proxy.ask, body={"model": "a"})
        awaited(lambda: fakes[0].busy)
        waiting = pool.submit(proxy.ask, body={"model": "a"})
        assert error(waiting.result()) == (429, "queue_timeout")
        assert waiting.result()[2]["Retry-After"] == "5"
        assert "No slot of this model was free within 1 s" in waiting.result()[1]["error"]["message"]
        fakes[0].go.set()
        assert first.result()[0] == 200


def test_who_finds_no_place_in_the_queue_is_told_at_once(fakes, start):
    proxy = start([server(fakes[0], "a", slots=1)], queue=2, hold=1)
    awaited(lambda: proxy.ask(body={"model": "a"})[0] == 200)
    fakes[0].go.clear()
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(proxy.ask, body={"model": "a"})
        awaited(lambda: fakes[0].busy)
        more = [pool.submit(proxy.ask, body={"model": "a"}) for _time in range(3)]
        assert error(next(as_completed(more)).result()) == (429, "queue_full")
        fakes[0].go.set()
        assert sorted(item.result()[0] for item in (first, *more)) == [200, 200, 200, 429]


def test_a_server_that_is_gone_is_something_else(fakes, start):
    proxy = start([server(fakes[0], "a")], hold=1)
    awaited(lambda: proxy.ask(body={"model": "a"})[0] == 200)
    fakes[0].shutdown()
    fakes[0].server_close()
    gone = [proxy.ask(body={"model": "a"}) for _time in range(2)]
    assert {error(answer) for answer in gone} == {(503, "no_server")}
    assert [answer[2]["Retry-After"] for answer in gone] == ["10", "10"]


def test_what_was_stopped_gets_requests_again_once_it_is_back(fakes, start):
    """As when its host reboots: no deployment tells the gateway."""
    servers = [server(fakes[0], "a", model="m"), server(fakes[1], "a-2", model="m")]
    proxy = start(servers)
    for name in ("a", "a-2"):
        proxy.up(name)
    path, stops = proxy.sockets.stats, {servers[1].whose}

    def known():
        return {item.state for item in states(path) if item.server == "h1::a-2"}

    drain(path, ending(servers, stops).drain)
    assert known() == {"drained"}
    fakes[1].shutdown()
    fakes[1].server_close()
    leave_to_checks(path, stopped(servers, stops).down)
    assert known() == {"down"}
    assert {proxy.ask(body={"model": "m"})[1]["port"] for _time in range(8)} == {fakes[0].server_port}
    fakes.append(FakeServer(fakes[1].server_port))
    awaited(lambda: known() == {"up"})
    assert proxy.ask(body={"model": "a-2"})[0] == 200


def test_what_comes_gets_requests_once_it_answers_the_gateway(fakes, start):
    """What is ready on its own host may be out of reach for a gateway."""
    old, new, _other = fakes
    closed = replace(server(new, "a-2", model="m"), port=free_port(), part=Part.COMES)
    comes = replace(server(new, "a-3", model="m"), part=Part.COMES)
    proxy = start([server(old, "a", model="m"), closed, comes])
    path = proxy.sockets.stats
    where = {item.server: f"{item.backend}/{item.server}" for item in states(path) if item.backend == "m"}
    proxy.up("m")
    with ThreadPoolExecutor(8) as pool:  # some wait for a slot, and none goes where nobody answers
        asked = [pool.submit(proxy.ask, body={"model": "m"}) for _number in range(8)]
        await_up(path, [where["h1::a-2"]], 1.5)
        await_up(path, [where["h1::a-3"]], 15)
        assert {item.result()[0] for item in asked} == {200}
    assert {where["h1::a-2"], where["h1::a-3"]} & up(path) == {where["h1::a-3"]}
    assert {item.server: item.state for item in states(path) if item.backend == "m"} == {
        "h1::a": "up",
        "h1::a-2": "down",
        "h1::a-3": "up",
    }
    assert [proxy.ask(body={"model": "m"})[0] for _number in range(6)] == [200] * 6


def test_a_long_conversation_stays_by_its_beginning(fakes, start):
    proxy = start([server(fake, f"m-{number}", model="m") for number, fake in enumerate(fakes)])
    awaited(lambda: {proxy.ask(body={"model": f"m-{number}"})[0] for number in range(3)} == {200})
    long = "long " * 20_000

    def where(*messages):
        talk = [{"role": role, "content": content} for role, content in messages]
        return proxy.ask(body={"messages": talk, "model": "m"})[1]["port"]

    for first in ([("user", long)], [("system", long), ("user", "one")], [("system", "You help."), ("user", long)]):
        assert len({where(*first, *[("user", "more")] * number) for number in range(6)}) == 1
    short = {where(("system", "You help."), ("user", str(number)), ("user", long)) for number in range(30)}
    assert short == {fake.server_port for fake in fakes}


@pytest.mark.parametrize("content", ["text", [{"type": "text", "text": "parts"}]])
def test_messages_in_parts_are_conversations_too(fakes, start, content):
    proxy = start([server(fake, f"m-{number}", model="m") for number, fake in enumerate(fakes)])
    awaited(lambda: {proxy.ask(body={"model": f"m-{number}"})[0] for number in range(3)} == {200})
    one = {"role": "user", "content": content}
    asked = [
        {"messages": [one, *[{"role": "assistant", "content": "x"}] * number], "model": "m"} for number in range(6)
    ]
    assert len({proxy.ask(body=body)[1]["port"] for body in asked}) == 1


def test_https(fakes, start, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-days", "2"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "k", "-out", tmp_path / "c"]
    subprocess.run([*command, *names], check=True, capture_output=True)
    pem = (tmp_path / "c").read_text() + (tmp_path / "k").read_text()
    proxy = start([server(fakes[0], "a")], lambda _files: {"tls.pem": pem}, tls_certificate="/t")
    proxy.context = ssl.create_default_context(cafile=tmp_path / "c")
    awaited(lambda: proxy.ask(body={"model": "a"})[0] == 200)
    proxy.context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert proxy.ask("/health")[0] == 200
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)) as plain:
        plain.request("GET", "/health")
        with pytest.raises((http.client.HTTPException, OSError)):
            plain.getresponse()
    offered = ssl.create_default_context(cafile=tmp_path / "c")
    offered.set_alpn_protocols(["h2", "http/1.1"])
    with offered.wrap_socket(
        socket.create_connection(("127.0.0.1", proxy.port)), server_hostname="127.0.0.1"
    ) as wrapped:
        assert wrapped.selected_alpn_protocol() == "h2"


def test_a_server_that_is_slow_is_seen_in_what_a_gateway_counts(fakes, start):
    """The measure by which a canary is taken back."""
    quick, slow, _other = fakes
    servers = [server(quick, "a", model="m"), server(slow, "a-2", model="m")]
    proxy = start(servers)
    quick.go.set()
    slow.go.set()
    for name in ("a", "a-2"):
        proxy.up(name)
    path = proxy.sockets.stats
    before = {item.server: item for item in counts(path) if item.requests}
    slow.go.clear()
    threading.Timer(1.2, slow.go.set).start()
    with ThreadPoolExecutor(4) as pool:  # all wait for the slow one until it opens
        late = [pool.submit(proxy.ask, body={"model": "a-2"}) for _number in range(4)]
        assert [proxy.ask(body={"model": "a"})[0] for _number in range(12)] == [200] * 12
        assert [item.result()[0] for item in late] == [200] * 4
    # What waited tells more than what it does once it is open again.
    assert [proxy.ask(body={"model": "a-2"})[0] for _number in range(2)] == [200] * 2
    after = {item.server: item for item in counts(path) if item.requests}
    told = {name: since([before[name]], [after[name]]) for name in after}
    assert (told["h1::a"].requests, told["h1::a-2"].requests) == (12, 6)
    assert compared(told["h1::a-2"], told["h1::a"], "the other").startswith("its answers began after 0.")
    assert compared(told["h1::a"], told["h1::a-2"], "the other") == ""


def test_one_that_is_too_slow_to_answer_is_seen_by_what_waits_for_it(fakes, start):
    quick, slow, _other = fakes
    proxy = start([server(quick, "a", model="m"), server(slow, "a-2", model="m")])
    for name in ("a", "a-2"):
        proxy.up(name)
    path = proxy.sockets.stats

    def found():
        return {item.server: item for item in counts(path) if item.requests or item.waiting}

    before = found()
    slow.go.clear()
    with ThreadPoolExecutor(2) as pool:
        late = [pool.submit(proxy.ask, body={"model": "a-2"}) for _number in range(2)]
        assert [proxy.ask(body={"model": "a"})[0] for _number in range(12)] == [200] * 12
        awaited(lambda: found()["h1::a-2"].waiting == 2)
        after, begun = found(), time.monotonic()
        await_answers(path, {"h1::a-2": after["h1::a-2"].requests + 5}, 0.7)
        later, seconds = found(), time.monotonic() - begun
        told = waited(*([each["h1::a-2"]] for each in (before, after, later)), seconds)
        others = since([before["h1::a"]], [later["h1::a"]])
        assert compared(told, others, "the other", least=FEW).startswith("its answers began after 0.")
        assert (told.requests, told.waiting) == (2, 2)
        # it ends when none waits any more, though there are not enough
        threading.Timer(0.3, slow.go.set).start()
        await_answers(path, {"h1::a-2": 99}, 30)
        assert (found()["h1::a-2"].waiting, found()["h1::a-2"].begun) == (0, after["h1::a-2"].begun + 2)
        assert [item.result()[0] for item in late] == [200] * 2


def test_the_metrics_are_those_that_the_rules_ask_for(fakes, start):
    port = free_port()
    start([server(fakes[0], "a")], keys_file="/k", secrets=secrets_of(ALL), metrics_port=port)

    def get(path):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    text = awaited(lambda: (found := get("/metrics")[1]) and "haproxy_server_check_code" in found and found)
    expressions = " ".join(item.expr for item in (*RECORDS, *alerts(Limits())))
    asked = {*re.findall(r"\bhaproxy_\w+", expressions)}
    assert len(asked) > 5
    assert asked <= {*re.findall(r"^haproxy_\w+", text, re.MULTILINE)}
    assert 'server="h1::a"' in text
    backends = {*re.findall(r'^haproxy_backend_\w+\{proxy="([^"]+)"', text, re.MULTILINE)}
    (own,) = (rule["regex"] for rule in FROM_GATEWAY if rule["source_labels"] == ["proxy"])
    assert {name for name in backends if not re.fullmatch(own, name)} == {"a"}  # a model, with the label model_id
    assert get("/")[0] == get("/v1/models")[0] == 404


UPSTREAM = r"""
import asyncio, contextlib, re, sys
port, ended = int(sys.argv[1]), asyncio.Event()

async def answer(reader, writer):
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length[1]) if length else 0)
            if b"GET /end " in head:
                ended.set()
            if b"silent" in body:
                await asyncio.Event().wait()
            if b"stream" not in body:
                data = b'{"port": %d}' % port
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
                continue
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not ended.is_set():
                writer.write(b"7\r\n%05d\r\n\r\n" % port)
                await writer.drain()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(ended.wait(), 0.2)
            writer.write(b"0\r\n\r\n")

async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", port, backlog=1000)
    await server.serve_forever()

asyncio.run(main())
"""


class FakeProcess:
    """A server that can be killed: it streams its port until it is told to ``end``, or says it once, or nothing."""

    def __init__(self):
        self.server_port = free_port()
        self.process = subprocess.Popen([sys.executable, "-c", UPSTREAM, str(self.server_port)])
        awaited(lambda: self.get("/health"))

    def get(self, path):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.server_port, timeout=30)) as connection:
            connection.request("GET", path)
            return connection.getresponse().read()

    def end(self):
        self.get("/end")

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def processes():
    made = []

    def process():
        made.append(FakeProcess())
        return made[-1]

    yield process
    for item in made:
        item.kill()


class Stream:
    """A stream from model "m" at the gateway."""

    def __init__(self, reader, writer):
        self.reader, self.writer, self.text = reader, writer, b""

    @classmethod
    async def begun(cls, port):
        """Return a stream of which the first piece is there."""
        stream = cls(*await asyncio.open_connection("127.0.0.1", port))
        body = b'{"model":"m","stream":true}'
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        stream.writer.write(head + body)
        stream.text = await stream.reader.readuntil(b"\r\n\r\n")
        assert stream.text.startswith(b"HTTP/1.1 200")
        stream.text = await stream.reader.readuntil(b"\r\n\r\n")
        return stream

    @property
    def server_port(self):
        return int(self.text.split(b"\r\n")[1])

    async def whole(self):
        """Read all; return whether it came to its end."""
        with contextlib.suppress(ConnectionError):
            while not self.text.endswith(b"\r\n0\r\n\r\n") and (piece := await self.reader.read(1 << 16)):
                self.text += piece
        self.writer.close()
        return self.text.endswith(b"\r\n0\r\n\r\n")


def test_only_the_streams_of_a_killed_server_end(processes, start):
    """Who has no byte yet is answered by the other; who was accepted is told to repeat it, as usual clients do."""
    both = [processes(), processes()]
    proxy = start([server(fake, f"m-{number}", slots=3, model="m") for number, fake in enumerate(both)], hold=5)
    awaited(lambda: {proxy.ask(body={"model": f"m-{number}"})[0] for number in range(2)} == {200})
    place = str(proxy.sockets.stats)

    async def run(pool):
        accepted = pool.submit(proxy.ask, body={"model": "m", "mode": "silent"})
        await asyncio.to_thread(awaited, lambda: sum(item.busy for item in states(place)) == 1)
        streams = [await Stream.begun(proxy.port) for _number in range(5)]
        count = {fake: sum(item.server_port == fake.server_port for item in streams) for fake in both}
        (killed, few), (other, most) = sorted(count.items(), key=lambda item: item[1])
        assert (few, most) == (2, 3)
        waiting = [pool.submit(proxy.ask, body={"model": "m"}) for _number in range(6)]
        await asyncio.to_thread(awaited, lambda: max(item.queued for item in states(place)) == 6)
        killed.kill()
        cut = [await item.whole() for item in streams if item.server_port == killed.server_port]
        assert not any(cut)
        lost = await asyncio.wrap_future(accepted)
        assert error(lost) == (502, "bad_gateway")
        assert (lost[2]["x-should-retry"], lost[2]["retry-after-ms"], lost[2]["retry-after"]) == ("true", "100", "1")
        other.end()
        whole = [await item.whole() for item in streams if item.server_port == other.server_port]
        assert all(whole)
        answers = [await asyncio.wrap_future(item) for item in waiting]
        answered = [document["port"] for status, document, _headers in answers if status == 200]
        # The kernel still takes connections for a process that is ending: those that got its slots may be lost.
        assert {error(answer) for answer in answers if answer[0] != 200} <= {(502, "bad_gateway")}
        assert len(answered) >= len(waiting) - 3
        answered += [proxy.ask(body={"model": "m"})[1]["port"] for _number in range(10)]
        assert {*answered} == {other.server_port}

    with ThreadPoolExecutor(7) as pool:
        asyncio.run(run(pool))


def test_reloads_cut_no_stream(processes, start):
    one = processes()
    proxy = start([server(one, "m", slots=1000)], master=True)
    proxy.up("m")

    async def run():
        streams = await asyncio.gather(*(Stream.begun(proxy.port) for _number in range(500)))
        for _reload in range(5):
            await asyncio.to_thread(proxy.reload)
        whole = [asyncio.ensure_future(item.whole()) for item in streams]
        await asyncio.to_thread(one.end)
        assert all(await asyncio.gather(*whole))

    asyncio.run(run())


def test_a_reload_closes_no_connection_that_is_kept(fakes, start):
    """A request may be on its way in it. The answer says that it is the last."""
    proxy = start([server(fakes[0], "m")], master=True)
    proxy.up("m")
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)) as connection:

        def ask():
            connection.request("POST", "/v1/chat/completions", json.dumps({"model": "m"}))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read()), answer.getheader("Connection")

        assert ask() == (200, {"port": fakes[0].server_port}, None)
        same = connection.sock
        proxy.reload()
        proxy.up("m")
        assert connection.sock is same
        assert ask() == (200, {"port": fakes[0].server_port}, "close")
    awaited(lambda: len(parse_workers(tell(proxy.sockets.master, "show proc") or "")) == 1)


def test_each_request_has_its_own_connection_to_a_server(start):
    """A server may close one that is kept just as a request comes: HAProxy would close the client's, without a word."""
    once = FakeServer()
    once.RequestHandlerClass = FakeOnceHandler
    proxy = start([server(once, "m")])
    proxy.up("m")
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)) as connection:
        for _number in range(3):
            connection.request("POST", "/v1/chat/completions", json.dumps({"model": "m"}))
            answer = connection.getresponse()
            same = connection.sock
            assert (answer.status, json.loads(answer.read())) == (200, {"port": once.server_port})
            assert connection.sock is same  # the client keeps its own
    once.shutdown()
    once.server_close()


def test_who_had_a_stream_during_a_reload_goes_on_with_the_new_routes(processes, fakes, start):
    """The connection is the old process's until it is closed: what it brings next must not find the old routes."""
    one = processes()
    known = [server(one, "m")]
    proxy = start(known, secrets_of(ALL), master=True, keys_file="/k")
    proxy.up("m")
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)) as connection:

        def ask(model, **more):
            connection.request("POST", "/v1/chat/completions", json.dumps({"model": model, **more}), KEY)
            return connection.getresponse()

        stream = ask("m", stream=True)
        assert stream.readline()
        proxy.configure([*known, server(fakes[0], "new", aliases=("newer",))], secrets_of(ALL))
        proxy.reload()
        proxy.up("new")
        one.end()
        stream.read()
        answer = ask("newer")
        assert (answer.status, json.loads(answer.read())) == (200, {"port": fakes[0].server_port})
    (last,) = awaited(lambda: [item for item in proxy.logged() if item["model"] == "newer"])
    assert (last["key"], last["status"]) == ("all", 200)
    assert "authorization" not in {*map(str.lower, fakes[0].asked[-1])}
