#!/usr/bin/env python3
"""How often magi top hears from 16 hosts, which are all this machine, and what one look at all of them costs. Prints a
table, and writes results/top.json and the table in README.md.

Needs the llama-server and the models of ``make up``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
README, RESULTS = ROOT / "benchmarks/README.md", ROOT / "benchmarks/results/top.json"
HOSTS = 16
LOOKED = 30
"""Seconds, from when all hosts were heard."""


def inventory(folder: Path, binary: Path, models: Path) -> Path:
    """Return an inventory of hosts that share one deployment."""
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "model_server_manager": "supervisor",
        "model_server_supervisord_path": str(Path(sys.executable).with_name("supervisord")),
        "model_server_home": str(folder / "home"),
        "model_server_scan_paths": [str(models)],
        "model_server_registry_path": str(folder / "registry.json"),
        "model_server_report_path": str(folder / "report.json"),
        "model_server_llama_server_path": str(binary),
        "model_server_port_range": [18240, 18259],
    }
    hosts: dict[str, Any] = {f"host{number}": {} for number in range(1, HOSTS + 1)}
    path = folder / "inventory.json"
    path.write_text(json.dumps({"model_servers": {"hosts": hosts, "vars": variables}}))
    return path


def command(folder: Path, playbook: str, *arguments: str) -> list[str]:
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    return [program, "-i", str(folder / "inventory.json"), str(ROOT / "playbooks" / f"{playbook}.yml"), *arguments]


def followed(folder: Path) -> dict[str, list[float]]:
    """Return when each host was heard."""
    given = json.dumps({"follow": True, "interval": 1})
    environment = {**os.environ, "ANSIBLE_FORKS": str(HOSTS), "MAGI_DOTENV": os.devnull}
    heard: dict[str, list[float]] = defaultdict(list)
    with subprocess.Popen(
        command(folder, "top", "-e", given),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        end = time.monotonic() + 300
        for line in process.stdout or ():
            if line.startswith('{"host"'):
                if len(heard) < HOSTS:
                    end = time.monotonic() + LOOKED
                heard[json.loads(line)["host"]].append(time.monotonic())
            if time.monotonic() > end:
                break
        os.killpg(process.pid, signal.SIGTERM)
    assert len(heard) == HOSTS, f"only {len(heard)} hosts were heard"
    return {host: [moment for moment in moments if moment > end - LOOKED] for host, moments in heard.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=ROOT / "data" / "models")
    parser.add_argument("--llama-server", type=Path, default=Path.home() / ".cache/magi/llama.cpp/current/llama-server")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inventory(folder, options.llama_server, options.models.resolve())
        environment = {**os.environ, "MAGI_DOTENV": os.devnull}
        one = ("--limit", "host1")
        quiet = {"cwd": ROOT, "env": environment, "check": True, "stdout": subprocess.DEVNULL}
        subprocess.run(command(folder, "site", *one, "-e", "profile=fast-only"), **quiet)
        try:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            begun = time.monotonic()
            heard = followed(folder)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds = time.monotonic() - begun
        finally:
            subprocess.run(command(folder, "teardown", *one), **quiet)
    pauses = sorted(later - earlier for moments in heard.values() for earlier, later in pairwise(moments))
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "hosts": HOSTS,
        "pause_seconds": {
            "median": statistics.median(pauses),
            "p95": pauses[len(pauses) * 95 // 100],
            "most": pauses[-1],
        },
        "cores_in_use": used / seconds,
        "load": os.getloadavg()[0],
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    table = [
        "| | |",
        "|---|--:|",
        f"| from one word of a host to the next: half within | {result['pause_seconds']['median']:.2f} s |",
        f"| 95 % within | {result['pause_seconds']['p95']:.2f} s |",
        f"| the longest | {result['pause_seconds']['most']:.2f} s |",
        f"| processor time of ansible-playbook with its start, by second | {used / seconds:.2f} s |",
    ]
    print("\n".join(table))
    start, end = "<!-- top: written by bench_top.py -->\n", "<!-- top end -->"
    first, rest = README.read_text().split(start)
    README.write_text(first + start + "\n".join(table) + "\n" + end + rest.partition(end)[2])


if __name__ == "__main__":
    main()
