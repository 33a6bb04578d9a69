#!/usr/bin/env python3
"""A rollout compared with a plain role that does the same, with pings and with magi, and for several numbers of hosts.

All take turns on the same hosts: containers that boot systemd and are reached over SSH, with real llama-servers and
real models (molecule/hosts/hosts.py). Prints tables, writes results/rollout.json and the tables in README.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
HOSTS = ROOT / "molecule" / "hosts" / "hosts.py"
BUILDS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "magi" / "llama.cpp"
TARGETS = {
    "first rollout: plain ÷ ours": 2.0,
    "ten pings ÷ unchanged": 1.0,
    "three pings ÷ magi status": 1.0,
}
HELP_SECONDS = 0.3
"""Seconds that `magi --help` may take."""
OVERHEAD = (1.1, 0.5)
"""What `magi up` may take compared with `site.yml`: a ratio, or seconds more."""
PAIRS = 9
"""Pairs of runs, one right after the other: the machine's speed varies more than the two differ."""


def llama_server() -> str:
    """Return the newest build in the hosts' mount."""
    newest = sorted(BUILDS.glob("[0-9]*/bin/llama-server"))[-1]
    return f"/opt/llama.cpp/{newest.relative_to(BUILDS)}"


def pss(root: int) -> int:
    """Return the memory of a process and its descendants in bytes; shared pages count once (proc(5), smaps_rollup)."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
            except OSError:
                continue
    total, todo = 0, [root]
    while todo:
        pid = todo.pop()
        todo += children.get(pid, [])
        try:
            found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
            total += int(found.group(1)) * 1024 if found else 0
        except OSError:
            continue
    return total


def run(*command: str, memory: bool = False, unchanged: bool = False) -> tuple[float, int]:
    """Run a command to its end; return seconds, and the peak of its memory in bytes (0: not measured).

    Exits if the command fails, and with ``unchanged`` if the playbook changed a host.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MODEL_", "MAGI_", "LLAMA_"))}
    environment |= {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "PYTHONPATH": str(ROOT / "src")}
    begun = time.monotonic()
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        peak, done = 0, threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.2):
                peak = max(peak, pss(process.pid))

        watcher = threading.Thread(target=watch)
        if memory:
            watcher.start()
        output = process.communicate()[0].decode(errors="replace")
        seconds = time.monotonic() - begun
        done.set()
        if memory:
            watcher.join()
    if process.returncode or (unchanged and re.search(r"changed=[1-9]", output)):
        sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{output[-3000:]}")
    return seconds, peak


class Fleet:
    """The hosts, and the ways to deploy to them."""

    def __init__(self, count: int, network: str, profile: str):
        subprocess.run([str(HOSTS), "up", str(count), "--network", network], check=True)
        self.inventory = subprocess.run(
            [str(HOSTS), "inventory"], check=True, capture_output=True, text=True
        ).stdout.strip()
        values = {
            "model_server_llama_server_path": llama_server(),
            "plain_role_llama_server": llama_server(),
            "model_server_readiness_check_interval": 1,
            "profile": profile,
            # The host's cores, divided among four instances as in the plan.
            "plain_role_threads": max(1, len(os.sched_getaffinity(0)) // 4),
        }
        self.values = ["-e", json.dumps(values)]

    def play(self, playbook: str, *more: str, memory: bool = False, unchanged: bool = False) -> tuple[float, int]:
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        arguments = (program, "-i", self.inventory, playbook, *self.values, *more)
        return run(*arguments, memory=memory, unchanged=unchanged)

    def magi(self, *arguments: str) -> tuple[float, int]:
        return run(sys.executable, "-m", "magi", *arguments, "-i", self.inventory, *self.values)


def compare(fleet: Fleet, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each command by name; they take turns, each round in another order."""
    samples: dict[str, list[float]] = {}

    def take(name: str, measure: Callable[[], tuple[float, int]]) -> None:
        seconds = measure()[0]
        samples.setdefault(name, []).append(seconds)
        print(f"{name}: {seconds:.2f} s", file=sys.stderr)

    def plain() -> None:
        take("plain role, first rollout", lambda: fleet.play("benchmarks/plain.yml"))
        take("plain role, unchanged", lambda: fleet.play("benchmarks/plain.yml", unchanged=True))
        fleet.play("benchmarks/plain.yml", "-e", "plain_tasks=teardown")

    def ours() -> None:
        take("site.yml, first rollout", lambda: fleet.play("site.yml"))
        take("site.yml, unchanged", lambda: fleet.play("site.yml", unchanged=True))
        take("magi status", lambda: fleet.magi("status"))
        take("magi --help", lambda: run(sys.executable, "-m", "magi", "--help"))
        fleet.play("playbooks/teardown.yml")

    def pings() -> None:
        take("ten pings", lambda: fleet.play("benchmarks/pings.yml"))
        take("three pings", lambda: fleet.play("benchmarks/pings.yml", "--tags", "three"))

    # Warm up connections, caches and page caches first.
    fleet.play("benchmarks/plain.yml", "-e", "plain_tasks=teardown")
    fleet.play("playbooks/teardown.yml")
    ways = [plain, ours, pings]
    for number in range(rounds):
        for way in ways[number % 3 :] + ways[: number % 3]:
            way()
    return samples


def overhead(fleet: Fleet) -> list[tuple[float, float]]:
    """Return the seconds of `site.yml` and of `magi up` with nothing to change, in pairs, each in another order."""
    fleet.play("site.yml")
    pairs = []
    for number in range(PAIRS):
        site, magi = (lambda: fleet.play("site.yml", unchanged=True)[0]), (lambda: fleet.magi("up")[0])
        pairs.append((site(), magi()) if number % 2 else (magi(), site())[::-1])
        print("site.yml {:.2f} s, magi up {:.2f} s".format(*pairs[-1]), file=sys.stderr)
    fleet.play("playbooks/teardown.yml")
    return pairs


def by_hosts(counts: Sequence[int], network: str, rounds: int) -> list[dict[str, Any]]:
    """Return median seconds and the controller's memory of rollouts of one instance, for each number of hosts."""
    rows = []
    for count in counts:
        fleet = Fleet(count, network, "fast-only")
        fleet.play("playbooks/teardown.yml")
        samples = []
        for _round in range(rounds):
            first, memory = fleet.play("site.yml", memory=True)
            again, _memory = fleet.play("site.yml", unchanged=True)
            fleet.play("playbooks/teardown.yml")
            samples.append((first, again, memory))
        medians = map(statistics.median, zip(*samples, strict=True))
        rows.append({"hosts": count, **dict(zip(("first", "unchanged", "memory"), medians, strict=True))})
        print(rows[-1], file=sys.stderr)
    return rows


def machine() -> str:
    """Return processor, Python, ansible-core and the build of llama.cpp."""
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    processor = model.group(1).strip() if model else platform.machine()
    ansible = importlib.metadata.version("ansible-core")
    build = Path(llama_server()).parts[3]
    return f"{processor}, Python {platform.python_version()}, ansible-core {ansible}, llama.cpp b{build}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rounds-by-hosts", type=int, default=3)
    parser.add_argument("--network", default="127.0.1", help="of the hosts (%(default)s)")
    parser.add_argument("--by-hosts", type=int, nargs="*", default=[1, 4, 8, 16])
    arguments = parser.parse_args()

    load = os.getloadavg()[0]
    fleet = Fleet(4, arguments.network, "development")
    samples = compare(fleet, arguments.rounds)
    pairs = overhead(fleet)
    more, times = (statistics.median(f(*pair) for pair in pairs) for f in (lambda a, b: b - a, lambda a, b: b / a))
    medians = {name: statistics.median(values) for name, values in samples.items()}
    ratios = {
        "first rollout: plain ÷ ours": medians["plain role, first rollout"] / medians["site.yml, first rollout"],
        "unchanged: plain ÷ ours": medians["plain role, unchanged"] / medians["site.yml, unchanged"],
        "ten pings ÷ unchanged": medians["ten pings"] / medians["site.yml, unchanged"],
        "magi up ÷ site.yml, unchanged": times,
        "three pings ÷ magi status": medians["three pings"] / medians["magi status"],
    }
    rows = by_hosts(arguments.by_hosts, arguments.network, arguments.rounds_by_hosts)
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": load,
        "rounds": arguments.rounds,
        "medians": medians,
        "ratios": ratios,
        "samples": samples,
        "magi_up_beside_site": pairs,
        "by_hosts": rows,
    }
    (ROOT / "benchmarks" / "results" / "rollout.json").write_text(json.dumps(result, indent=2) + "\n")
    lines = [
        f"Measured {result['date']} on {result['cores']} cores, which controller, hosts and servers share "
        f"({result['machine']}), load {load:.1f} before. Medians of {arguments.rounds} runs of each in turn, "
        "4 instances on each of 4 hosts.",
        "",
        "| | seconds |",
        "|---|--:|",
        *(f"| {name} | {seconds:.2f} |" for name, seconds in medians.items()),
        "",
        "| ratio | |",
        "|---|--:|",
        *(f"| {name} | {ratio:.2f} |" for name, ratio in ratios.items()),
        "",
        f"Where nothing is to change, magi up takes {more:.2f} s more than site.yml, {times:.2f} times as long: "
        f"medians of {PAIRS} pairs, each run one right after the other.",
        "",
        f"One instance on each host, 5 forks, medians of {arguments.rounds_by_hosts} runs; memory is the peak of "
        "ansible-playbook and its workers together, shared pages counted once (Pss).",
        "",
        "| hosts | first rollout (s) | unchanged (s) | controller's memory (MiB) |",
        "|--:|--:|--:|--:|",
        *(f"| {r['hosts']} | {r['first']:.1f} | {r['unchanged']:.1f} | {r['memory'] / 2**20:.0f} |" for r in rows),
    ]
    print("\n".join(lines))
    readme = ROOT / "benchmarks" / "README.md"
    section = "<!-- rollout -->\n" + "\n".join(lines) + "\n<!-- /rollout -->"
    readme.write_text(
        re.sub(r"<!-- rollout -->.*<!-- /rollout -->", lambda _m: section, readme.read_text(), flags=re.DOTALL)
    )
    missed = [
        f"{name} is {ratios[name]:.2f}, not {target}" for name, target in TARGETS.items() if ratios[name] < target
    ]
    if times > OVERHEAD[0] and more > OVERHEAD[1]:
        missed.append(f"magi up takes {more:.2f} s more than site.yml")
    if medians["magi --help"] > HELP_SECONDS:
        missed.append(f"magi --help takes {medians['magi --help']:.2f} s, not {HELP_SECONDS}")
    least, most = rows[0], rows[-1]
    for what in ("first", "unchanged", "memory"):
        if most[what] / least[what] > most["hosts"] / least["hosts"]:
            missed.append(f"{what} grows faster than the number of hosts")
    if missed:
        sys.exit("; ".join(missed))


if __name__ == "__main__":
    main()
