#!/usr/bin/env python3
"""How long magi serve takes to say what runs, to 100 clients that ask once a second, while it deploys; how large and
quick the console's first page is in a browser, and how soon an event reaches its page. Writes results/serve.json and
the table in README.md.

Needs the llama-server and the models of ``make up``, and Chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
README, RESULTS = ROOT / "benchmarks/README.md", ROOT / "benchmarks/results/serve.json"
CLIENTS = 100
PAGES, JOBS = 10, 6
PATHS = {"older endpoint": "/api/models/management/servers", "status": "/api/v1/status"}

TELLS_WHEN = """
import json, os, re, time

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    CALLBACK_VERSION, CALLBACK_TYPE, CALLBACK_NAME = 2.0, "notification", "tells_when"

    def v2_playbook_on_task_start(self, task, is_conditional):
        step = re.search(r"\\[(\\d)/5\\]", task.get_name())
        if step:
            with open(os.environ["TELLS_WHEN"], "a") as file:
                file.write(json.dumps([int(step[1]), time.time()]) + "\\n")
"""
"""A plugin of Ansible's that writes down when each step began."""
SIZE = """['navigation', 'resource'].flatMap(kind => performance.getEntriesByType(kind))
    .reduce((sum, entry) => sum + entry.decodedBodySize, 0)"""
LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"
WATCHED = """
window.seen = [];
addEventListener('DOMContentLoaded', () => {
    const place = document.querySelector('[data-progress]');
    const look = () => {
        const steps = [...place.querySelectorAll('.steps li')];
        const step = steps.findIndex(item => item.className === 'now') + 1;
        if (!window.seen.some(item => item[0] === step)) window.seen.push([step, Date.now() / 1000]);
    };
    if (place) new MutationObserver(look).observe(place, {childList: true});
});
"""
"""When each step was first shown."""


class Served:
    """magi serve on a deployment of its own."""

    def __init__(self, folder: Path, binary: Path, models: Path):
        self.state = folder / "state"
        shutil.copytree(ROOT / "profiles", folder / "profiles")
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "model_server_manager": "supervisor",
            "model_server_supervisord_path": str(Path(sys.executable).with_name("supervisord")),
            "model_server_home": str(folder / "home"),
            "model_server_profiles_dir": str(folder / "profiles"),
            "model_server_scan_paths": [str(models)],
            "model_server_registry_path": str(folder / "registry.json"),
            "model_server_report_path": str(folder / "report.json"),
            "model_server_llama_server_path": str(binary),
            "model_server_port_range": [18260, 18279],
        }
        inventory = folder / "inventory.json"
        inventory.write_text(json.dumps({"model_servers": {"hosts": {"localhost": {}}, "vars": variables}}))
        (folder / "callbacks").mkdir()
        (folder / "callbacks" / "tells_when.py").write_text(TELLS_WHEN)
        self.began = folder / "began"
        plugin = {"ANSIBLE_CALLBACK_PLUGINS": str(folder / "callbacks"), "TELLS_WHEN": str(self.began)}
        own = {"XDG_STATE_HOME": str(self.state), "MAGI_PROJECT": str(ROOT), "MAGI_DOTENV": os.devnull}
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "magi", "serve", "--port", str(self.port), "-i", inventory],
            cwd=folder,
            env={**os.environ, **own, **plugin},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        while (said := self.process.stderr.readline()) and "tokens" not in said:
            pass
        tokens = (self.state / "magi/serve/tokens").read_text()
        self.token = re.search(r"^deploy (\S+)$", tokens, re.MULTILINE)[1]

    def ask(self, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=300) as response:
            return json.load(response)

    def carry_out(self, verb: str, **given: Any) -> str:
        """Start a job, wait for its end, and return its state."""
        job = self.ask(f"/api/v1/{verb}", given)
        while job["state"] == "running":
            time.sleep(0.5)
            job = self.ask(f"/api/v1/jobs/{job['id']}")
        return job["state"]


@contextlib.contextmanager
def served(binary: Path, models: Path) -> Iterator[Served]:
    with tempfile.TemporaryDirectory(prefix="magi-bench-") as folder:
        it = Served(Path(folder), binary, models)
        try:
            yield it
        finally:
            with contextlib.suppress(OSError):
                it.carry_out("down")
            it.process.terminate()
            it.process.wait()


async def client(port: int, token: str, path: str, number: int, end: float, seconds: list[float]) -> None:
    """Ask once a second over one connection, the clients one after the other."""
    await asyncio.sleep(number / CLIENTS)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    while time.monotonic() < end:
        began = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
        took = time.perf_counter() - began
        seconds.append(took)
        await asyncio.sleep(max(0, 1 - took))
    writer.close()


async def clients(it: Served, path: str, duration: float) -> list[float]:
    seconds: list[float] = []
    end = time.monotonic() + duration
    await asyncio.gather(*(client(it.port, it.token, path, number, end, seconds) for number in range(CLIENTS)))
    return seconds


def figures(seconds: list[float]) -> dict[str, float]:
    cut = statistics.quantiles(seconds, n=100)
    return {"requests": len(seconds), "p50_ms": cut[49] * 1000, "p99_ms": cut[98] * 1000, "max_ms": max(seconds) * 1000}


def measure(it: Served, path: str, duration: float, deploying: bool) -> dict[str, float]:
    """Return the figures of all clients; ``deploying``: while one profile after the other is deployed."""
    script = [sys.executable, __file__, "--as-clients", str(it.port), path, str(duration)]
    asking = subprocess.Popen(script, stdout=subprocess.PIPE, env={**os.environ, "TOKEN": it.token}, text=True)
    jobs = 0
    while deploying and asking.poll() is None:
        assert it.carry_out("up", profile=("fast-only", "development")[jobs % 2]) == "done"
        jobs += 1
    out, _err = asking.communicate()
    assert asking.returncode == 0
    return {**figures(json.loads(out)), "jobs": jobs}


@contextlib.contextmanager
def signed_in(it: Served) -> Iterator[Any]:
    """A page of a new browser, at the console's first page."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            page = browser.new_page()
            page.set_default_timeout(60_000)
            page.goto(f"http://127.0.0.1:{it.port}/")
            page.get_by_label("A token of magi serve").fill(it.token)
            page.get_by_role("button", name="Sign in").click()
            page.get_by_role("heading", name="Fleet").wait_for()
            yield page
        finally:
            browser.close()


def first_page(it: Served) -> dict[str, float]:
    """Return what the first page takes without a cache: bytes, and seconds until all is loaded."""
    with signed_in(it) as page:
        session = page.context.new_cdp_session(page)
        session.send("Network.setCacheDisabled", {"cacheDisabled": True})
        seconds, size = [], 0
        for _i in range(PAGES):
            page.goto(f"http://127.0.0.1:{it.port}/console/", wait_until="load")
            page.wait_for_function(f"{LOADED} > 0")
            seconds.append(page.evaluate(LOADED) / 1000)
            size = page.evaluate(SIZE)
    return {"bytes": size, "seconds": statistics.median(seconds), "most_seconds": max(seconds)}


def events(it: Served) -> dict[str, float]:
    """Return after how many seconds a step that Ansible has begun is on the page of its job."""
    found = []
    with signed_in(it) as page:
        page.add_init_script(WATCHED)
        for number in range(JOBS):
            it.began.write_text("")
            job = it.ask("/api/v1/up", {"profile": ("fast-only", "development")[number % 2]})
            page.goto(f"http://127.0.0.1:{it.port}/console/job?job_id={job['id']}")
            seen = []
            while page.locator("[data-progress]").count():
                with contextlib.suppress(PlaywrightError):  # it loads once more at the end
                    seen = page.evaluate("window.seen") or seen
                time.sleep(0.05)
            began: dict[int, float] = {}
            for line in it.began.read_text().splitlines():
                step, when = json.loads(line)
                began.setdefault(step, when)
            # The page may have come when a step was at work already.
            found += [when - began[step] for step, when in seen[1:] if step in began]
    return {"events": len(found), "seconds": statistics.median(found), "most_seconds": max(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--binary", type=Path, default=Path.home() / ".cache/magi/llama.cpp/current/llama-server")
    parser.add_argument("--models", type=Path, default=ROOT / "data" / "models")
    parser.add_argument("--as-clients", nargs=3, metavar=("PORT", "PATH", "SECONDS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_clients:
        port, path, duration = arguments.as_clients
        it = argparse.Namespace(port=int(port), token=os.environ["TOKEN"])
        print(json.dumps(asyncio.run(clients(it, path, float(duration)))))
        return
    load = os.getloadavg()[0]
    with served(arguments.binary, arguments.models) as it:
        assert it.carry_out("up", profile="development") == "done"
        it.ask("/api/v1/status?max_age=0")
        page, event = first_page(it), events(it)
        found = {
            f"{name}, {what}": measure(it, path, arguments.seconds, deploying)
            for name, path in PATHS.items()
            for what, deploying in (("while it looks", False), ("while it deploys", True))
        }
    result = {"clients": CLIENTS, "cores": len(os.sched_getaffinity(0)), "load_before": load, "figures": found}
    result |= {"first_page": page, "event": event}
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    lines = [
        f"Measured {time.strftime('%Y-%m-%d')} on {result['cores']} cores, which clients, magi serve, Ansible and the "
        f"model servers share, load {load:.1f} before. Each line is of {arguments.seconds:g} s.",
        "",
        f"| {CLIENTS} clients, each once a second | p50 | p99 | longest |",
        "|---|--:|--:|--:|",
        *(
            f"| {name} | {item['p50_ms']:.1f} ms | {item['p99_ms']:.1f} ms | {item['max_ms']:.0f} ms |"
            for name, item in found.items()
        ),
        "",
        "| the console in Chromium | half within | longest |",
        "|---|--:|--:|",
        f"| first page, {page['bytes'] / 1000:.0f} KB, without a cache, until all is loaded | {page['seconds']:.2f} s "
        f"| {page['most_seconds']:.2f} s |",
        f"| from when Ansible begins a step to when the page shows it ({event['events']} times) "
        f"| {event['seconds']:.2f} s | {event['most_seconds']:.2f} s |",
    ]
    text = re.sub(
        r"(<!-- serve: written by bench_serve.py -->\n).*?(<!-- serve end -->)",
        lambda match: match[1] + "\n".join(lines) + "\n" + match[2],
        README.read_text(),
        flags=re.DOTALL,
    )
    README.write_text(text)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
