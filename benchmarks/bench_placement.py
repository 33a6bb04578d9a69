#!/usr/bin/env python3
"""How long it takes to place 200 replicas on 50 hosts with four devices each, and how full the devices can get.

Writes results/placement.json and the table in docs/capacity.md. Fails if a placement takes more than a second, or finds
no place for one.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.magi.models.plugins.module_utils._llama.need import HOST, Need
from ansible_collections.magi.models.plugins.plugin_utils._fleet.place import Opening, Placement, Room, Want, place

GIB = 1 << 30
HOSTS = [f"host{number}" for number in range(50)]
DEVICES = [f"CUDA{number}" for number in range(4)]
DEVICE = 80 * GIB
SECONDS = 1.0
ROUNDS = 5


def wants(sizes: Sequence[int], replicas: int) -> list[Want]:
    """Return models of these sizes, in GiB of a device, that every host has."""
    return [
        Want(
            f"entry {number}",
            f"model{number}",
            replicas,
            dict.fromkeys(HOSTS, Opening(0, tuple(Need({x: size * GIB, HOST: GIB}) for x in DEVICES))),
        )
        for number, size in enumerate(sizes)
    ]


def bound(sizes: Sequence[int], replicas: int) -> int:
    """Return how many devices are needed at least: all together need no fewer than their sum fills, and of those that
    take more than a (k+1)th of a device, k at most share one."""
    filled = -(-sum(sizes) * replicas * GIB // DEVICE)
    shared = (-(-sum(size * (k + 1) * GIB > DEVICE for size in sizes) * replicas // k) for k in range(1, 9))
    return max(filled, *shared)


def placed(asked: Sequence[Want], rooms: Mapping[str, Room]) -> tuple[Placement, float]:
    times = []
    for _round in range(ROUNDS):
        began = time.perf_counter()
        found = place(asked, rooms)
        times.append(time.perf_counter() - began)
    return found, statistics.median(times)


def fewest(sizes: Sequence[int], replicas: int) -> int:
    """Return on how few hosts all of them find a place."""
    for count in range(1, len(HOSTS) + 1):
        few = HOSTS[:count]
        asked = [
            Want(x.where, x.model, x.replicas, {name: x.offers[name] for name in few}) for x in wants(sizes, replicas)
        ]
        if not place(asked, {name: Room({HOST: 256 * GIB, **dict.fromkeys(DEVICES, DEVICE)}) for name in few}).short:
            return count
    return len(HOSTS) + 1


def main() -> None:
    chance = random.Random(1)  # noqa: S311 - the same models in all runs
    cases = {
        "50 models of 20 to 60 GiB, 4 replicas of each": ([20 + number % 5 * 10 for number in range(50)], 4),
        "200 models of 5 to 75 GiB": ([chance.randint(5, 75) for _each in range(200)], 1),
        "200 models of 30 GiB": ([30] * 200, 1),
    }
    rooms = {name: Room({HOST: 256 * GIB, **dict.fromkeys(DEVICES, DEVICE)}) for name in HOSTS}
    rows = []
    for name, (sizes, replicas) in cases.items():
        found, seconds = placed(wants(sizes, replicas), rooms)
        on_hosts: Counter[str] = Counter()
        for item in found.placed:
            on_hosts.update(item.counts)
        assert not found.short, name
        rows.append(
            {
                "case": name,
                "seconds": round(seconds, 3),
                "most": max(on_hosts.values()),
                "least": min(on_hosts[host] for host in HOSTS),
                "hosts_needed": fewest(sizes, replicas),
                "hosts_bound": -(-bound(sizes, replicas) // len(DEVICES)),
            }
        )
        print(rows[-1], flush=True)
    result = ROOT / "benchmarks" / "results" / "placement.json"
    result.write_text(json.dumps({"date": time.strftime("%Y-%m-%d"), "rows": rows}, indent=1) + "\n")
    table = [
        "| 200 instances | time | on each host | fewest hosts that will do | at least needed |",
        "|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        each = f"{row['least']} to {row['most']}"
        table.append(
            f"| {row['case']} | {row['seconds']:.2f} s | {each} | {row['hosts_needed']} | {row['hosts_bound']} |"
        )
    document = ROOT / "docs" / "capacity.md"
    start, end = "<!-- placement: written by bench_placement.py -->\n", "<!-- placement: end -->"
    before, rest = document.read_text().split(start)
    document.write_text(before + start + "\n".join(table) + "\n" + end + rest.partition(end)[2])
    slow = [row for row in rows if row["seconds"] > SECONDS]
    sys.exit(f"Placements that take more than {SECONDS} s: {slow}" if slow else 0)


if __name__ == "__main__":
    main()
