#!/usr/bin/env python3
"""Tokens per second of all servers on a machine together: cores shared by the plan, and llama-server's defaults.

Both ways take turns with the same instances of the same plan on this machine; the defaults only lack what the plan adds
to share out the cores (LLAMA_ARG_THREADS, OMP_WAIT_POLICY). Prints a table, writes results/threads.json and the table
in README.md. Fails if sharing is not at least ten times as fast.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.magi.models.plugins.module_utils._config.profile import examine_profile
from ansible_collections.magi.models.plugins.module_utils._host.inspect import inspect_host
from ansible_collections.magi.models.plugins.module_utils._models.scan import discover
from ansible_collections.magi.models.plugins.module_utils._plan.build import build_plan
from ansible_collections.magi.models.plugins.module_utils._plan.values import Settings

TARGET = 10
PORTS = (18200, 18219)


def planned(binary: Path, models: Path, folder: str) -> list[dict[str, str]]:
    """Return the environments that the plan gives to the instances of all models in the folder."""
    host = inspect_host(
        llama_server_path=str(binary),
        home=folder,
        manager="supervisor",
        supervisord_path="supervisord",
        ports=range(*PORTS),
    )
    found = discover([str(models)], f"{folder}/registry.json").registry
    plan = build_plan(
        host_name="localhost",
        profile=examine_profile("bench", {"enabled_models": ["*"]})[0],
        inventory=found.inventory,
        host=host,
        settings=Settings(port_range=PORTS),
    )
    return [dict(instance.environment) for instance in plan.instances]


@contextmanager
def servers(binary: Path, environments: Sequence[Mapping[str, str]], deadline: float) -> Iterator[None]:
    """Run a server for each environment, ready within ``deadline`` seconds, and end them."""
    processes = [
        subprocess.Popen(
            [str(binary)], env={"PATH": os.defpath, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for environment in environments
    ]
    try:
        end = time.monotonic() + deadline
        for environment in environments:
            while not healthy(int(environment["LLAMA_ARG_PORT"])):
                if time.monotonic() > end:
                    raise TimeoutError(f"not ready after {deadline} s: {environment['MAGI_INSTANCE']}")
                time.sleep(0.05)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as response:
            return response.status == 200
    except (OSError, urllib.error.URLError):
        return False


def generate(port: int, tokens: int) -> int:
    """Let the server generate ``tokens`` tokens; return how many it generated."""
    body = {
        "prompt": "Once upon a time",
        "n_predict": tokens,
        "ignore_eos": True,
        "temperature": 0,
        "cache_prompt": False,
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as response:
        return int(json.load(response)["tokens_predicted"])


def measure(binary: Path, environments: Sequence[Mapping[str, str]], tokens: int) -> dict[str, float]:
    """Return seconds until all are ready, and tokens per second of all together."""
    ports = [int(environment["LLAMA_ARG_PORT"]) for environment in environments]
    started = time.monotonic()
    with servers(binary, environments, 180), ThreadPoolExecutor(len(ports)) as pool:
        ready = time.monotonic() - started
        begun = time.monotonic()
        count = sum(pool.map(generate, ports, [tokens] * len(ports)))
        return {"ready_seconds": ready, "tokens_per_second": count / (time.monotonic() - begun)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--binary", type=Path, default=Path.home() / ".cache/magi/llama.cpp/current/llama-server")
    parser.add_argument("--models", type=Path, default=ROOT / "data" / "models")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shared = planned(arguments.binary, arguments.models, folder)
    defaults = [
        {name: value for name, value in item.items() if name not in ("LLAMA_ARG_THREADS", "OMP_WAIT_POLICY")}
        for item in shared
    ]
    # The defaults are so slow that few tokens must be enough; the rate does not depend on their number.
    ways = {"shared by the plan": (shared, 64), "llama-server's defaults": (defaults, 8)}
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _round in range(arguments.rounds):
        for name, (environments, tokens) in ways.items():
            samples[name].append(measure(arguments.binary, environments, tokens))
            print(f"{name}: {samples[name][-1]}", file=sys.stderr)
    medians = {
        name: {key: statistics.median(item[key] for item in items) for key in items[0]}
        for name, items in samples.items()
    }
    ours, theirs = medians.values()
    result: dict[str, Any] = {
        "servers": len(shared),
        "cores": len(os.sched_getaffinity(0)),
        "rounds": arguments.rounds,
        "medians": medians,
        "ratio_tokens_per_second": ours["tokens_per_second"] / theirs["tokens_per_second"],
        "ratio_ready": theirs["ready_seconds"] / ours["ready_seconds"],
        "samples": samples,
    }
    (ROOT / "benchmarks" / "results").mkdir(exist_ok=True)
    (ROOT / "benchmarks" / "results" / "threads.json").write_text(json.dumps(result, indent=2) + "\n")
    lines = [
        f"{result['servers']} servers (SmolLM2 135M) on {result['cores']} cores, all generating at once; medians of "
        f"{arguments.rounds} runs of each way in turn.",
        "",
        "| | tokens/s of all together | all ready after (s) |",
        "|---|--:|--:|",
        *(f"| {name} | {m['tokens_per_second']:.1f} | {m['ready_seconds']:.2f} |" for name, m in medians.items()),
        f"| ratio | {result['ratio_tokens_per_second']:.0f}× | {result['ratio_ready']:.1f}× |",
    ]
    print("\n".join(lines))
    readme = ROOT / "benchmarks" / "README.md"
    section = "<!-- threads -->\n" + "\n".join(lines) + "\n<!-- /threads -->"
    readme.write_text(
        re.sub(r"<!-- threads -->.*<!-- /threads -->", lambda _m: section, readme.read_text(), flags=re.DOTALL)
    )
    if result["ratio_tokens_per_second"] < TARGET:
        sys.exit(f"Sharing the cores is only {result['ratio_tokens_per_second']:.1f} times as fast, not {TARGET}.")


if __name__ == "__main__":
    main()
