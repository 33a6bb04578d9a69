#!/usr/bin/env python3
"""What the gateway costs and what it brings, each beside what it is compared with, in turn. Writes results/gateway.json
and the tables in README.md.

Needs HAProxy, wrk (Debian: apt-get install wrk), and the llama-server and the model of ``make up``. The LiteLLM proxy
gets an environment of its own, which is kept.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.magi.models.plugins.module_utils._haproxy.sockets import Sockets
from ansible_collections.magi.models.plugins.plugin_utils._ansible.templates import plain_environment
from ansible_collections.magi.models.plugins.plugin_utils._gateway.haproxy import configuration
from ansible_collections.magi.models.plugins.plugin_utils._gateway.routes import Server, routes
from ansible_collections.magi.models.plugins.plugin_utils._gateway.settings import Gateway

HAPROXY = "/usr/sbin/haproxy"
TEMPLATES = ROOT / "collections/ansible_collections/magi/models/roles/gateway/templates"
README, RESULTS = ROOT / "benchmarks/README.md", ROOT / "benchmarks/results/gateway.json"
STREAMS, RELOADS, PIECES = 500, 5, 100
FIRST = 660  # words of a conversation's first message: some 700 tokens
WORDS = ("the", "river", "stone", "moves", "under", "bright", "cold", "seven", "lamps", "nobody", "counts", "again")

# An upstream that answers at once, so that what a request takes is the gateway's part.
AT_ONCE = """
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 5s
global
    tune.bufsize 1048576
frontend at_once
    bind 127.0.0.1:{port}
    http-request wait-for-body time 5s if METH_POST
    http-request return status 200 content-type application/json string '{answer}'
"""
ANSWER = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello"}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}

# What a proxy costs that reads no body.
BARE = """
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 5s
frontend bare
    bind 127.0.0.1:{port}
    default_backend servers
backend servers
    server one 127.0.0.1:{to}
"""

# The version of the LiteLLM proxy, a peer that many would pick.
PEER = "1.108.7"
PEER_SETTINGS = """
model_list:
  - model_name: m
    litellm_params: {{model: openai/m, api_base: "http://127.0.0.1:{to}/v1", api_key: none}}
"""


def free_port() -> int:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        return int(free.getsockname()[1])


@contextlib.contextmanager
def running(command: Sequence[str | Path], cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def healthy(port: int, path: str = "/health") -> None:
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError), contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as asked:
            asked.request("GET", path)
            if asked.getresponse().status == 200:
                return
        if time.monotonic() > deadline:
            sys.exit(f"nothing answers at port {port}")
        time.sleep(0.1)


@contextlib.contextmanager
def gateway(
    folder: Path, servers: Sequence[Server], balance: str = "leastconn", **settings: Any
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run a gateway before ``servers``, with the configuration that a deployment writes; yield its port and process."""
    value = Gateway(port=free_port(), **settings)
    environment = plain_environment([str(TEMPLATES)])
    sockets = Sockets.at(lambda name: f"{folder}/{name}")
    made = configuration(value, routes(servers), servers, environment, sockets, "secrets")
    for name, content in made.items():
        (folder / name).write_text(content.replace("balance leastconn", f"balance {balance}"))
    with running([HAPROXY, "-W", "-db", "-S", sockets.master, "-f", "haproxy.cfg"], folder) as process:
        healthy(value.port)
        for server in servers:
            healthy_through(value.port, server.model_id)
        yield value.port, process


def healthy_through(port: int, name: str) -> None:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as asked:
        asked.request("GET", f"/models/{name}/health")
        assert asked.getresponse().status == 200, name


# --- an upstream in a process of its own -----------------------------------------------------------------------------


class Upstream:
    """Streams PIECES pieces, ten a second; or works for ``seconds`` on each request, on as many at once as it has
    slots."""

    def __init__(self, slots: int, seconds: float):
        self.slots, self.seconds = asyncio.Semaphore(slots), seconds

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                await reader.readexactly(int(length[1]) if length else 0)
                if self.seconds and b"GET" not in head:
                    async with self.slots:
                        await asyncio.sleep(self.seconds)
                if self.seconds or b"GET" in head:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                    continue
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                for _piece in range(PIECES):
                    await asyncio.sleep(0.1)
                    writer.write(b"6\r\ndata\n\n\r\n")
                    await writer.drain()
                writer.write(b"0\r\n\r\n")
        writer.close()


async def serve(port: int, slots: int, seconds: float) -> None:
    upstream = Upstream(slots, seconds)
    server = await asyncio.start_server(upstream.answer, "127.0.0.1", port, backlog=1000)
    await server.serve_forever()


@contextlib.contextmanager
def upstreams(folder: Path, count: int, slots: int, seconds: float) -> Iterator[list[Server]]:
    with contextlib.ExitStack() as stack:
        ports = [free_port() for _server in range(count)]
        for port in ports:
            command = [sys.executable, __file__, "--serve", str(port), str(slots), str(seconds)]
            stack.enter_context(running(command, folder))
        for port in ports:
            healthy(port)
        yield [Server("h", f"m-{port}", "m", "127.0.0.1", port, slots) for port in ports]


# --- what it costs ---------------------------------------------------------------------------------------------------


def wrk(folder: Path, port: int, clients: int, size: int, seconds: int) -> tuple[float, float, float]:
    """Return the median and the 99th percentile of what a request takes, in ms, and requests a second."""
    body = json.dumps({"messages": [{"role": "user", "content": "x" * (size - 60)}], "model": "m"})
    (folder / "post.lua").write_text(f"wrk.method = 'POST'\nwrk.body = [[{body}]]\n")
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    how = ("-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "60s", "--latency")
    command = ["wrk", *how, "-s", folder / "post.lua", url]
    done = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in done, done
    unit = {"us": 0.001, "ms": 1, "s": 1000}
    half, most = (re.search(rf"{part}%\s+([\d.]+)(us|ms|s)", done) for part in (50, 99))
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done)
    assert half and most and rate, done
    return float(half[1]) * unit[half[2]], float(most[1]) * unit[most[2]], float(rate[1])


def peer(folder: Path, to: int) -> tuple[list[str | Path], int]:
    """Return the command of the LiteLLM proxy before the server at port ``to``, and its port; the first call installs
    it."""
    home = Path.home() / f".cache/magi/peers/litellm-{PEER}"
    if not (home / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        pip = [home / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, f"litellm[proxy]=={PEER}"], check=True)
        (home / "ready").touch()
    (folder / "peer.yaml").write_text(PEER_SETTINGS.format(to=to))
    port = free_port()
    command = [home / "bin/litellm", "--config", "peer.yaml", "--host", "127.0.0.1", "--port", str(port)]
    # Without a key, as the gateway; prices that it would fetch at its start are in its package, too.
    weak = ("LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY=true", "LITELLM_LOCAL_MODEL_COST_MAP=True")
    return ["env", *weak, "NO_PROXY=*", *command], port


def latency(folder: Path, rounds: int, seconds: int) -> Iterator[str]:
    """Yield rows: what a request takes directly, and what plain HAProxy, the gateway
    and LiteLLM add, in turn; medians of the rounds."""
    at_once, bare = free_port(), free_port()
    (folder / "at_once.cfg").write_text(AT_ONCE.format(port=at_once, answer=json.dumps(ANSWER)))
    (folder / "bare.cfg").write_text(BARE.format(port=bare, to=at_once))
    with contextlib.ExitStack() as stack:
        stack.enter_context(running([HAPROXY, "-db", "-f", "at_once.cfg"], folder))
        healthy(at_once)
        stack.enter_context(running([HAPROXY, "-db", "-f", "bare.cfg"], folder))
        through, _process = stack.enter_context(gateway(folder, [Server("h", "m", "m", "127.0.0.1", at_once, 64)]))
        command, other = peer(folder, at_once)
        stack.enter_context(running(command, folder))
        healthy(other, "/health/liveliness")
        ports = (at_once, bare, through, other)
        for size in (1_000, 200_000):
            for clients in (1, 10, 50):
                seen = [[wrk(folder, where, clients, size, seconds) for where in ports] for _round in range(rounds)]
                direct, plain, ours, theirs = (
                    [statistics.median(x[side][part] for x in seen) for part in range(3)] for side in range(len(ports))
                )
                yield " | ".join(
                    [
                        f"| {size // 1000} KB, {clients} clients | {direct[0]:.2f} / {direct[1]:.2f}",
                        *(f"{x[0] - direct[0]:+.2f} / {x[1] - direct[1]:+.2f}" for x in (plain, ours, theirs)),
                        f"{(theirs[0] - direct[0]) / (ours[0] - direct[0]):.0f}×",
                        f"{ours[2]:.0f}",
                        f"{theirs[2]:.0f}",
                        f"{ours[2] / theirs[2]:.0f}× |",
                    ]
                )


def resident(process: subprocess.Popen[bytes]) -> float:
    """Return the resident memory of HAProxy's processes, in MiB."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in (str(process.pid), *children)]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


async def stream(port: int) -> bool:
    """Return whether a stream comes whole."""
    body = b'{"model":"m","stream":true}'
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    text = b""
    with contextlib.suppress(ConnectionError):
        while not text.endswith(b"0\r\n\r\n") and (piece := await reader.read(1 << 16)):
            text += piece
    writer.close()
    return text.startswith(b"HTTP/1.1 200") and text.count(b"data") == PIECES


async def reloads(port: int, process: subprocess.Popen[bytes]) -> tuple[int, float]:
    """Return how many of STREAMS streams came whole beside RELOADS reloads, and the memory with all of them live."""
    streams = [asyncio.create_task(stream(port)) for _stream in range(STREAMS)]
    await asyncio.sleep(3)
    memory = resident(process)
    for _reload in range(RELOADS):
        process.send_signal(signal.SIGUSR2)
        await asyncio.sleep(1)
    return sum(await asyncio.gather(*streams)), memory


def large(port: int, process: subprocess.Popen[bytes]) -> float:
    """Return the memory after 20 bodies of 10 MB, in MiB."""
    body = json.dumps({"messages": [{"role": "user", "content": "x" * 10_000_000}], "model": "m"})
    for _body in range(20):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as asked:
            asked.request("POST", "/v1/chat/completions", body)
            assert asked.getresponse().status == 200
    return resident(process)


def throughput(port: int, clients: int, requests: int) -> float:
    """Return requests a second."""

    def ask(_number: int) -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as asked:
            asked.request("POST", "/v1/chat/completions", '{"model":"m"}')
            assert asked.getresponse().status == 200

    begun = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, range(requests)))
    return requests / (time.monotonic() - begun)


# --- what it brings --------------------------------------------------------------------------------------------------


def first_token(port: int, messages: list[dict[str, str]]) -> float:
    """Return the seconds to the first token."""
    body = {"model": "m", "messages": messages, "max_tokens": 4, "ignore_eos": True, "stream": True}
    begun = time.monotonic()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=600)) as connection:
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        answer = connection.getresponse()
        first = next(time.monotonic() - begun for line in answer if b'"content":"' in line)
        answer.read()
    return first


def later_turns(port: int, conversations: int = 8, turns: int = 2) -> float:
    """Return the median of the seconds to the first token of each turn after the first."""
    chance = random.Random(1)  # noqa: S311 - the same words in all runs

    def text(words: int) -> str:
        return " ".join(chance.choice(WORDS) for _word in range(words))

    talks = [[{"role": "user", "content": text(FIRST)}] for _talk in range(conversations)]
    later = []
    for turn in range(turns):
        for talk in chance.sample(talks, len(talks)):
            seconds = first_token(port, talk)
            later += [seconds] if turn else []
            talk += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": text(20)}]
    return statistics.median(later)


def affinity(folder: Path, program: str, model: str, count: int = 3, slots: int = 4) -> list[float]:
    """Return the median of later turns with round robin, the least loaded server, and affinity, before new servers
    each."""
    found = []
    for on, balance in ((False, "roundrobin"), (False, "leastconn"), (True, "leastconn")):
        with contextlib.ExitStack() as stack:
            ports = [free_port() for _server in range(count)]
            for port in ports:  # a cache for each conversation that may come to it
                options = f"--port {port} --parallel {slots} --ctx-size {slots * 2048} --threads 1 --no-webui".split()
                stack.enter_context(running([program, "-m", model, *options], folder))
            for port in ports:
                healthy(port)
            servers = [Server("h", f"m-{port}", "m", "127.0.0.1", port, slots) for port in ports]
            port, _process = stack.enter_context(gateway(folder, servers, balance, affinity=on))
            found.append(later_turns(port))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="for each run of wrk")
    parser.add_argument("--llama-server", default=Path.home() / ".cache/magi/llama.cpp/current/llama-server")
    parser.add_argument("--model", default=ROOT / "data/models/SmolLM2-135M-Instruct.Q2_K.gguf")
    parser.add_argument("--serve", nargs=3, metavar=("PORT", "SLOTS", "SECONDS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve(int(given.serve[0]), int(given.serve[1]), float(given.serve[2])))
        return
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [
            "| p50 / p99 in ms | directly | plain HAProxy adds | the gateway adds | LiteLLM adds | LiteLLM ÷ gateway "
            "| requests a second: gateway | LiteLLM | gateway ÷ LiteLLM |",
            "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
        ]
        lines += latency(folder, given.rounds, given.seconds)
        with upstreams(folder, 1, 1000, 0) as servers, gateway(folder, servers) as (port, process):
            whole, live = asyncio.run(reloads(port, process))
        with upstreams(folder, 1, 1000, 0.01) as servers, gateway(folder, servers) as (port, process):
            after = large(port, process)
        with upstreams(folder, 2, 2, 0.1) as servers, gateway(folder, servers) as (port, _process):
            pairs = [(throughput(port, 4, 200), throughput(port, 16, 200)) for _round in range(given.rounds)]
            used = statistics.median(many / few for few, many in pairs)
        robin, least, home = affinity(folder, str(given.llama_server), str(given.model))
    lines += [
        "",
        "| what | figure |",
        "|---|--:|",
        f"| streams that came whole, of {STREAMS} with {RELOADS} reloads | {whole} |",
        f"| memory with {STREAMS} live streams | {live:.0f} MiB |",
        f"| memory after 20 bodies of 10 MB | {after:.0f} MiB |",
        f"| 2 servers with 2 slots each: 16 clients ÷ one for each slot, in requests a second | {used:.2f} |",
        f"| first token of later turns, 8 conversations on 3 servers: round robin | {robin:.2f} s |",
        f"| the same, the least loaded server (`model_gateway_affinity: false`) | {least:.2f} s |",
        f"| the same with affinity | {home:.2f} s |",
        f"| round robin ÷ affinity | {robin / home:.1f}× |",
    ]
    print("\n".join(lines))
    day = time.strftime("%Y-%m-%d")
    RESULTS.write_text(json.dumps({"measured": day, "lines": lines}, indent=1) + "\n")
    begin, end = "<!-- gateway: written by bench_gateway.py -->", "<!-- gateway end -->"
    before, _begin, rest = README.read_text().partition(begin)
    said = (
        f"Measured {day} on {os.cpu_count()} cores, which clients, gateway and servers share; load {load:.1f} before. "
        "What is compared took turns."
    )
    README.write_text("\n".join([before + begin, said, "", *lines, end + rest.partition(end)[2]]))


if __name__ == "__main__":
    main()
