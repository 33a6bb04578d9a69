#!/usr/bin/env python3
"""What it brings that a conversation goes on at the server that has its beginning in its cache: a gateway with
model_gateway_affinity and one without, before three real llama-servers. Prints a table; changes nothing else.

Needs HAProxy, and the llama-server and the model of ``make up``.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jinja2

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.magi.models.plugins.plugin_utils._gateway.haproxy import configuration
from ansible_collections.magi.models.plugins.plugin_utils._gateway.routes import Server, routes
from ansible_collections.magi.models.plugins.plugin_utils._gateway.settings import Gateway

SERVERS, SLOTS, CONVERSATIONS, TURNS, CLIENTS, REQUESTS = 3, 4, 8, 4, 16, 48
WORDS = ("the", "river", "stone", "moves", "under", "bright", "cold", "seven", "lamps", "nobody", "counts", "again")


def free_port() -> int:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        return int(free.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], cwd: Path) -> Iterator[None]:
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def healthy(port: int) -> None:
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError), contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as asked:
            asked.request("GET", "/health")
            if asked.getresponse().status == 200:
                return
        if time.monotonic() > deadline:
            sys.exit(f"nothing answers at port {port}")
        time.sleep(0.1)


def first_token(port: int, messages: list[dict[str, str]], tokens: int) -> tuple[float, float]:
    """Return the seconds to the first token, and to the end."""
    body = {"model": "m", "messages": messages, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    begun = time.monotonic()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=600)) as connection:
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        answer = connection.getresponse()
        first = next(time.monotonic() - begun for line in answer if b'"content":"' in line)
        answer.read()
    return first, time.monotonic() - begun


def text(chance: random.Random, words: int) -> str:
    return " ".join(chance.choice(WORDS) for _ in range(words))


def measured(port: int, seed: int) -> tuple[list[float], float]:
    """Return the seconds to the first token of each later turn, and tokens a second with many clients."""
    chance = random.Random(seed)  # noqa: S311 - the same words in both runs
    talks = [[{"role": "user", "content": text(chance, 500)}] for _ in range(CONVERSATIONS)]
    later = []
    for turn in range(TURNS):
        for talk in chance.sample(talks, len(talks)):
            seconds, _end = first_token(port, talk, 4)
            later += [seconds] if turn else []
            talk += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": text(chance, 20)}]
    begun = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        asked = [[{"role": "user", "content": text(chance, 30)}] for _ in range(REQUESTS)]
        list(pool.map(lambda messages: first_token(port, messages, 16), asked))
    return later, REQUESTS * 16 / (time.monotonic() - begun)


def main() -> None:
    cache = Path.home() / ".cache" / "magi" / "llama.cpp" / "current" / "llama-server"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama-server", default=cache)
    parser.add_argument("--model", default=ROOT / "data" / "models" / "SmolLM2-135M-Instruct.Q2_K.gguf")
    given = parser.parse_args()
    print("| affinity | first token of later turns, median | 90 of 100 below | tokens a second, 16 clients |")
    print("|---|--:|--:|--:|")
    for affinity in (False, True):
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            ports = [free_port() for _ in range(SERVERS)]
            for port in ports:  # a cache for each conversation that may come to it
                options = f"--port {port} --parallel {SLOTS} --ctx-size {SLOTS * 2048} --threads 1 --no-webui".split()
                stack.enter_context(running([str(given.llama_server), "-m", str(given.model), *options], folder))
            servers = [Server("h", f"m-{port}", "m", "127.0.0.1", port, SLOTS) for port in ports]
            gateway = Gateway(port=free_port(), affinity=affinity)
            loader = jinja2.FileSystemLoader(
                ROOT / "collections/ansible_collections/magi/models/roles/gateway/templates"
            )
            environment = jinja2.Environment(loader=loader, trim_blocks=True, lstrip_blocks=True)  # noqa: S701
            made = configuration(gateway, routes(servers), servers, environment, str(folder / "sock"), "secrets")
            for name, content in made.files.items():
                (folder / name).write_text(content)
            for port in ports:
                healthy(port)
            stack.enter_context(running(["/usr/sbin/haproxy", "-db", "-f", "haproxy.cfg"], folder))
            healthy(gateway.port)
            later, speed = measured(gateway.port, 1)
        nine = statistics.quantiles(later, n=10)[-1]
        print(
            f"| {'yes' if affinity else 'no'} | {statistics.median(later):.2f} s | {nine:.2f} s | {speed:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
