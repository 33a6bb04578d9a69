#!/usr/bin/env python3
"""What a plan says that a server needs of memory, against what a real one takes at most, under a prompt that fills its
context.

Each model of the folders is served with each of four sets of options, in turn. Prints a table, writes
results/capacity.json and the table in docs/capacity.md. Fails if a need is too low by more than 5 %.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.magi.models.plugins.module_utils._config.profile import examine_profile
from ansible_collections.magi.models.plugins.module_utils._host.inspect import inspect_host
from ansible_collections.magi.models.plugins.module_utils._host.needs import read_needs
from ansible_collections.magi.models.plugins.module_utils._llama.need import MIB
from ansible_collections.magi.models.plugins.module_utils._models.scan import discover
from ansible_collections.magi.models.plugins.module_utils._plan.build import build_plan
from ansible_collections.magi.models.plugins.module_utils._plan.need import questions
from ansible_collections.magi.models.plugins.module_utils._plan.values import Instance, Settings

SETS: tuple[dict[str, Any], ...] = (
    {"ctx_size": 512, "parallel": 1},
    {"ctx_size": 2048},
    {"ctx_size": 2048, "cache_type_k": "q8_0", "cache_type_v": "q8_0"},
    {"ctx_size": 1024, "parallel": 2, "ubatch_size": 1024},
)
PORTS = (18220, 18239)
UNDER = 0.05
EMBEDDERS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "magi" / "embedders"
"""Where tests/minilm.py leaves the one that it converts."""
EMBEDDED = 496
"""Tokens that a small embedding model takes at most."""


def planned(binary: Path, models: Sequence[Path], options: Mapping[str, Any], folder: str) -> tuple[Instance, ...]:
    """Return the instances of all models in these folders, with their needs."""
    host = inspect_host(
        llama_server_path=str(binary),
        home=folder,
        manager="supervisor",
        image="",
        supervisord_path="supervisord",
        port_range=PORTS,
        ports=(),
        environment={},
        option_sets=(),
    )
    inventory = discover([*map(str, models)], f"{folder}/registry.json").registry.inventory
    profile = examine_profile("bench", {"enabled_models": ["*"], "options": {**options, "cache_ram": 0}})[0]
    assert profile and host.binary, host.binary_error
    asked = questions(profile, inventory, host.binary, {}, {})
    plan = build_plan(
        host_name="localhost",
        profile=profile,
        inventory=inventory,
        host=host,
        settings=Settings(port_range=PORTS, memory="warn"),
        scan_paths=[*map(str, models)],
        needs=read_needs(host.binary, asked, Path(folder, "needs.json"), write=False),
    )
    return plan.instances


def peak(binary: Path, instance: Instance, slots: int, tokens: int) -> int:
    """Return the most bytes that a server of ``instance`` has had in memory after a prompt of so many tokens for each
    of its ``slots``."""
    base = f"http://127.0.0.1:{instance.port}"
    environment = {**os.environ, **instance.environment}
    with subprocess.Popen([binary], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while True:
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{base}/health", timeout=5) as answer:
                    if answer.status == 200:
                        break
                assert server.poll() is None, "llama-server has ended"
                time.sleep(0.05)
            path, body = "completion", {"prompt": [1000] * tokens, "n_predict": 4}
            if instance.task == "embedding":  # llama-server wants all of it in one batch
                path, body = "embedding", {"content": [1000] * min(tokens, EMBEDDED)}
            with ThreadPoolExecutor(slots) as pool:
                url, data = f"{base}/{path}", json.dumps(body).encode()
                asked = [pool.submit(urllib.request.urlopen, url, data, 600) for _ in range(slots)]
                for each in asked:
                    each.result().read()
            status = Path(f"/proc/{server.pid}/status").read_text()
        finally:
            server.kill()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, nargs="+", default=[ROOT / "data" / "models", EMBEDDERS])
    parser.add_argument("--llama-server", type=Path, default=Path.home() / ".cache/magi/llama.cpp/current/llama-server")
    options = parser.parse_args()
    rows = []
    for chosen in SETS:
        with tempfile.TemporaryDirectory() as folder:
            for instance in planned(options.llama_server, options.models, chosen, folder):
                assert instance.need and not instance.need.estimated, instance.need
                slots = chosen.get("parallel", 1)  # by default they share one context
                real = peak(options.llama_server, instance, slots, chosen["ctx_size"] // slots - 16)
                row = {"model": instance.display_name, "options": chosen, "need": instance.need.total(), "peak": real}
                rows.append(row)
                print(row, flush=True)
    result = ROOT / "benchmarks" / "results" / "capacity.json"
    result.write_text(json.dumps({"date": time.strftime("%Y-%m-%d"), "rows": rows}, indent=1) + "\n")
    table = ["| model | options | need | peak | need ÷ peak |", "|---|---|--:|--:|--:|"]
    for row in rows:
        shown = ", ".join(f"{key} {value}" for key, value in row["options"].items())
        sizes = f"{row['need'] // MIB} MiB | {row['peak'] // MIB} MiB"
        table.append(f"| {row['model']} | {shown} | {sizes} | {row['need'] / row['peak']:.2f} |")
    document = ROOT / "docs" / "capacity.md"
    start, end = "<!-- capacity: written by bench_capacity.py -->\n", "<!-- capacity: end -->"
    before, rest = document.read_text().split(start)
    document.write_text(before + start + "\n".join(table) + "\n" + end + rest.partition(end)[2])
    low = [row for row in rows if row["need"] < row["peak"] * (1 - UNDER)]
    sys.exit(f"Needs that are too low by more than 5 %: {low}" if low else 0)


if __name__ == "__main__":
    main()
