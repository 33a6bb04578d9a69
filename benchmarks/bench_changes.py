#!/usr/bin/env python3
"""What clients of the gateway notice while servers change, on real systemd hosts. Writes results/changes.json and the
table in README.md; fails if a request failed, or waited longer than it may.

Thirty clients ask without end, each for one of two models that two hosts serve, every second one with a stream; a third
host, the gateway, sends their requests on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "collections"), str(ROOT / "src")]

from tests.fleet.conftest import HOSTS, Q2, Q3, Fleet, build
from tests.load import Clients
from tests.playbook import copy_profiles
from tests.waiting import until

README, RESULTS = ROOT / "benchmarks/README.md", ROOT / "benchmarks/results/changes.json"
PORT = 8099
CLIENTS, PAUSE = 30, 5.0
SERVERS = ("host1", "host2")
GATEWAY = "host3"
REQUESTS = 2000
"""So many at least, while something changes."""
EXTRA = 1000
"""Milliseconds that a change may make a request wait longer than it waits without one, with room for old and new."""
SWITCH = 15
"""Seconds that a switch may take under load."""


def prepared() -> Fleet:
    """Return the hosts, with nothing on them but a copy of llama-server to upgrade to."""
    subprocess.run([HOSTS, "up", "--install", "3"], check=True)
    path = subprocess.run([HOSTS, "inventory"], capture_output=True, text=True, check=True).stdout.strip()
    group = json.loads(Path(path).read_text())["model_servers"]
    folder = Path(tempfile.mkdtemp(prefix="magi-changes-"))
    copy_profiles(folder / "profiles")
    program = f"/opt/llama.cpp/{build()}/bin/llama-server"
    settings = {"model_gateway_port": PORT, "model_gateway_address": "0.0.0.0"}  # noqa: S104 - in a container
    fleet = Fleet(
        folder,
        {name: host for name, host in group["hosts"].items() if name in SERVERS},
        {
            **group["vars"],
            "model_server_profiles_dir": str(folder / "profiles"),
            "model_server_report_path": str(folder / "report.json"),
            "model_server_llama_server_path": program,
            "model_server_readiness_check_interval": 1,
            "model_server_stop_timeout": 30,
            "model_server_port_range": [8080, PORT - 1],
            "model_server_resources": {"nice": 10},
        },
        groups={"model_gateways": {"hosts": {GATEWAY: group["hosts"][GATEWAY]}, "vars": {**group["vars"], **settings}}},
    )
    for name, host in fleet.hosts.items():
        host["model_server_host"] = fleet.sh(name, "hostname -I").split()[0]
        fleet.sh(name, f"rm -rf /opt/upgraded; cp -a {program.rpartition('/')[0]} /opt/upgraded")
    fleet.profile("development", Q2, Q3)
    fleet.profile("fast-only", Q2)
    play(fleet, "teardown")
    return fleet


def play(fleet: Fleet, playbook: str, *arguments: str, **extra: Any) -> None:
    run = fleet.play(playbook, *arguments, **extra)
    if run.code:
        sys.exit(run.output)


def logged(fleet: Fleet, container: str) -> list[dict[str, Any]]:
    """Return what the gateway has logged of requests for models."""
    command = ["docker", "exec", container, "journalctl", "--quiet", "--output=cat", "--unit=magi-gateway.service"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [item for item in map(json.loads, (x for x in lines if x.startswith("{"))) if item["server"] != "-"]


def waited(item: dict[str, Any]) -> int:
    """Return the milliseconds for which a request waited, at most: of one that was held, it is not logged when a server
    took it, so its prompt's processing is in it."""
    return max(0, item["queue_ms"]) + (max(0, item["first_byte_ms"]) if item["held"] else 0)


def changes(fleet: Fleet) -> dict[str, Callable[[], None]]:
    """Return by name what changes, in turn."""
    sizes = iter(range(1024, 1 << 20, 256))

    def options() -> None:
        fleet.profile("development", Q2, Q3, options={"ctx_size": next(sizes)})
        play(fleet, "site", profile="development")

    def away() -> None:
        fleet.profile("fast-only", Q2, options={"ctx_size": next(sizes)})
        play(fleet, "site", profile="fast-only")

    def upgrade() -> None:
        now = fleet.variables.get("model_server_llama_server_path")
        fleet.variables = {} if now else {"model_server_llama_server_path": "/opt/upgraded/llama-server"}
        play(fleet, "site", profile="development")

    def reboot() -> None:
        play(fleet, "stop", "--limit", "host2")
        fleet.sh("host2", "systemctl reboot", check=False)
        units = [f"magi-llama@{name}.service" for name in (Q2, Q3)]
        asked = ["docker", "exec", fleet.hosts["host2"]["testbed_container"], "systemctl", "is-active", *units]

        def back() -> bool:
            return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split() == ["active"] * 2

        until(lambda: not back(), 60, "host2 is down")
        until(back, 120, "both servers of host2 run again")

    return {
        "nothing": lambda: time.sleep(15),
        "an option of all servers": options,
        "`development` → `fast-only`": away,
        "`fast-only` → `development`": lambda: play(fleet, "site", profile="development"),
        "another llama-server": upgrade,
        "a host that is stopped and reboots": reboot,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=REQUESTS)
    given = parser.parse_args()
    load = os.getloadavg()[0]
    fleet = prepared()
    play(fleet, "site", profile="development")
    address = fleet.groups["model_gateways"]["hosts"][GATEWAY]
    steps = changes(fleet)
    rows: dict[str, dict[str, list[float]]] = {
        name: {"seconds": [], "requests": [], "failed": [], "longest": []} for name in steps
    }
    try:
        while sum(sum(row["requests"]) for name, row in rows.items() if name != "nothing") < given.requests:
            for name, change in steps.items():
                # Who asks for a model that no profile enables is told so: nobody does while it is away.
                asked = [Q2] if "fast-only" in name else [Q2, Q3]
                earlier = len(logged(fleet, address["testbed_container"]))
                with Clients(address["ansible_host"], PORT, asked, count=CLIENTS, pause=PAUSE) as clients:
                    began = time.monotonic()
                    change()
                    rows[name]["seconds"].append(time.monotonic() - began)
                seen = logged(fleet, address["testbed_container"])[earlier:]
                rows[name]["requests"].append(sum(clients.answered.values()) + len(clients.wrong))
                rows[name]["failed"].append(len(clients.wrong))
                rows[name]["longest"].append(max(map(waited, seen)))
                print(name, {key: values[-1] for key, values in rows[name].items()}, clients.wrong[:3], file=sys.stderr)
    finally:
        play(fleet, "teardown")
    total = sum(int(sum(row["requests"])) for row in rows.values())
    failed = sum(int(sum(row["failed"])) for row in rows.values())
    usual = max(rows["nothing"]["longest"])
    day = time.strftime("%Y-%m-%d")
    lines = [
        f"Measured {day} on {os.cpu_count()} cores, which clients, gateway, hosts, servers and Ansible share; load "
        f"{load:.1f} before. {CLIENTS} clients, each {PAUSE:g} s after its last answer; of {total} requests, {failed} "
        "failed, were cut or answered by another model.",
        "",
        "| while this changes | times | seconds, at most | requests | failed | the longest wait |",
        "|---|--:|--:|--:|--:|--:|",
        *(
            f"| {name} | {len(row['seconds'])} | {max(row['seconds']):.1f} | {sum(row['requests']):.0f} "
            f"| {sum(row['failed']):.0f} | {max(row['longest']):.0f} ms |"
            for name, row in rows.items()
        ),
    ]
    print("\n".join(lines))
    RESULTS.write_text(json.dumps({"measured": day, "load_before": load, "steps": rows}, indent=1) + "\n")
    begin, end = "<!-- changes: written by bench_changes.py -->", "<!-- changes end -->"
    before, _begin, rest = README.read_text().partition(begin)
    README.write_text("\n".join([before + begin, *lines, end + rest.partition(end)[2]]))
    missed = [f"{failed} requests failed"] if failed else []
    missed += [
        f"{name}: a request waited {max(row['longest']) - usual:.0f} ms longer than without a change"
        for name, row in rows.items()
        if max(row["longest"]) - usual > EXTRA
    ]
    if max(rows["`development` → `fast-only`"]["seconds"]) > SWITCH:
        missed.append("a switch takes too long")
    if missed:
        sys.exit("; ".join(missed))


if __name__ == "__main__":
    main()
