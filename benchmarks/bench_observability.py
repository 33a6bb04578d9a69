#!/usr/bin/env python3
"""What it costs to watch 100 servers: to render targets, rules and dashboards, and to scrape them, for a real
llama-server and a real Prometheus. Prints a table, and writes results/observability.json and the table in README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import HostResult
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import Way
from ansible_collections.magi.models.plugins.plugin_utils._observe.dashboards import dashboards
from ansible_collections.magi.models.plugins.plugin_utils._observe.prometheus import prometheus
from ansible_collections.magi.models.plugins.plugin_utils._observe.rules import Limits, rules
from ansible_collections.magi.models.plugins.plugin_utils._observe.targets import Targets, targets
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import model, plan, settings

HOSTS, EACH = 10, 10
INTERVAL = 15
"""Seconds between two scrapes, by default."""
LOOKED = 20
"""Seconds of scrapes, one a second."""


def fleet() -> list[HostResult]:
    models = [model(f"m{number}-q4_k_m") for number in range(EACH)]
    given = settings(host="0.0.0.0")  # noqa: S104  # nothing listens
    names = [f"gpu{number}" for number in range(HOSTS)]
    return [HostResult(name, plan(models=models, with_settings=given), way=Way(name, "ssh")) for name in names]


def rendered(hosts: list[HostResult]) -> tuple[float, Targets]:
    """Return the seconds that all files for Prometheus take, and the targets."""
    begun = time.perf_counter()
    found = targets("mon", Way("mon", "ssh"), hosts)
    for text in (prometheus("/etc/magi-monitoring", INTERVAL), rules(Limits()), *dashboards("/x").values()):
        assert text
    return time.perf_counter() - begun, found


def used(process: int) -> float:
    """Return the seconds of processor time that a process has had (proc(5), stat)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def answers(url: str) -> None:
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.05)


def scraped(llama_server: Path, gguf: Path, found: Targets, folder: Path) -> tuple[float, float]:
    """Return the seconds of processor time of one scrape of one server, in the server and in Prometheus: all targets
    are the same server, with their own labels."""
    port, own = free_port(), free_port()
    (folder / "targets").mkdir()
    for name, text in found.files.items():
        asked = [{**item, "targets": [f"127.0.0.1:{port}"]} for item in json.loads(text)]
        (folder / "targets" / name).write_text(json.dumps(asked))
    (folder / "prometheus.yml").write_text(prometheus(str(folder), 1))
    (folder / "rules.yml").write_text(rules(Limits()))
    server = [llama_server, "--model", gguf, "--port", str(port), "--metrics", "--offline"]
    watcher = [
        *("prometheus", "--config.file", folder / "prometheus.yml", "--storage.tsdb.path", folder / "series"),
        f"--web.listen-address=127.0.0.1:{own}",
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(server, **quiet) as serves, subprocess.Popen(watcher, **quiet) as watches:
        try:
            answers(f"http://127.0.0.1:{port}/health")
            answers(f"http://127.0.0.1:{own}/-/ready")
            time.sleep(3)  # it reads the targets
            before = [used(item.pid) for item in (serves, watches)]
            time.sleep(LOOKED)
            after = [used(item.pid) for item in (serves, watches)]
            with urllib.request.urlopen(f"http://127.0.0.1:{own}/api/v1/query?query=sum(up)", timeout=5) as answer:
                assert json.load(answer)["data"]["result"][0]["value"][1] == str(HOSTS * EACH)
        finally:
            for item in (serves, watches):
                item.kill()
    one, other = ((late - early) / LOOKED / HOSTS / EACH for early, late in zip(before, after))
    return one, other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    gguf = ROOT / "data" / "models" / "SmolLM2-135M-Instruct.Q2_K.gguf"
    parser.add_argument("--model", type=Path, default=gguf)
    parser.add_argument("--llama-server", type=Path, default=Path.home() / ".cache/magi/llama.cpp/current/llama-server")
    options = parser.parse_args()
    assert shutil.which("prometheus"), "Prometheus is missing (Debian: apt-get install prometheus)"
    hosts = fleet()
    times, found = zip(*(rendered(hosts) for _round in range(15)))
    with tempfile.TemporaryDirectory() as folder:
        server, watcher = scraped(options.llama_server, options.model, found[0], Path(folder))
    share = [cost * HOSTS * EACH / INTERVAL for cost in (server, watcher)]
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "servers": HOSTS * EACH,
        "rendered_seconds": statistics.median(times),
        "scrape_seconds": {"server": server, "prometheus": watcher},
        "share_of_a_core": {"servers": share[0], "prometheus": share[1]},
    }
    (ROOT / "benchmarks" / "results" / "observability.json").write_text(json.dumps(result, indent=1) + "\n")
    table = [
        f"{HOSTS * EACH} servers on {HOSTS} hosts; rendering is the median of 15 times.",
        "",
        "| | |",
        "|---|--:|",
        f"| targets, rules, dashboards and configuration rendered | {statistics.median(times) * 1000:.0f} ms |",
        f"| processor time of a scrape, in llama-server | {server * 1000:.2f} ms |",
        f"| the same, in Prometheus, with the rules | {watcher * 1000:.2f} ms |",
        f"| all servers each {INTERVAL} s, of one core: llama-servers | {share[0]:.2%} |",
        f"| the same: Prometheus | {share[1]:.2%} |",
    ]
    print("\n".join(table))
    document = ROOT / "benchmarks" / "README.md"
    start, end = "<!-- observability: written by bench_observability.py -->\n", "<!-- observability end -->"
    before, rest = document.read_text().split(start)
    document.write_text(before + start + "\n".join(table) + "\n" + end + rest.partition(end)[2])


if __name__ == "__main__":
    main()
