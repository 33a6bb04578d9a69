"""How fast GGUF headers are read and folders of models scanned, compared with llama.cpp and gguf-py.

`make bench-gguf`: all readers on the same files in one run, interleaved, medians; written to
benchmarks/results/gguf.json and as tables into benchmarks/README.md. All files come from the page cache.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import random
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
COLLECTIONS = HERE.parent / "collections"
sys.path.insert(0, str(COLLECTIONS))

from ansible_collections.magi.models.plugins.module_utils._gguf.reader import read_header
from ansible_collections.magi.models.plugins.module_utils._models.registry import save
from ansible_collections.magi.models.plugins.module_utils._models.scan import discover
from ansible_collections.magi.models.tests.unit.plugins.module_utils.gguf_files import (
    Tensor,
    build,
)

START, END = "<!-- gguf: written by bench_gguf.py -->", "<!-- gguf end -->"
ROUNDS = 15
ROUTER_PATIENCE = 60  # seconds


def load_oracle():
    """tests/gguf/oracle.py, loaded by path: test folders are not packages."""
    spec = importlib.util.spec_from_file_location("oracle", HERE.parent / "tests/gguf/oracle.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Oracle()


# ---- files ----------------------------------------------------------------------------------------


def strings(count: int, mean: float, spread: float, rng: random.Random) -> list[bytes]:
    """Tokens with log-normal lengths, now and then a long one, as in real vocabularies."""
    lengths = (min(256, max(1, round(rng.lognormvariate(mean, spread)))) for _ in range(count))
    return [rng.randbytes(length) for length in lengths]


def synthetic(tokens: int, merges: int, layers: int, name: str = "Synthetic", seed: int = 1) -> bytes:
    """A header with a tokenizer of this size and nine tensors for each layer, without data."""
    rng = random.Random(seed)  # noqa: S311  the same files each time
    pairs = [
        ("general.architecture", "str", "qwen3"),
        ("general.name", "str", name),
        ("general.file_type", "u32", 15),
        ("qwen3.block_count", "u32", layers),
        ("qwen3.context_length", "u32", 40960),
        ("qwen3.embedding_length", "u32", 64),
        ("tokenizer.ggml.tokens", "[str]", strings(tokens, 1.8, 0.5, rng)),
        ("tokenizer.ggml.token_type", "[i32]", [1] * tokens),
        ("tokenizer.ggml.merges", "[str]", strings(merges, 1.95, 0.4, rng)),
    ]
    if not merges:
        pairs[-1] = ("tokenizer.ggml.scores", "[f32]", [0.0] * tokens)
    table = [Tensor(f"blk.{layer}.part{part}.weight", (64, 64)) for layer in range(layers) for part in range(9)]
    return build(pairs, table, data=False)


def write_sparse(path: Path, header: bytes, layers: int) -> Path:
    """The header, and a hole in place of the data."""
    path.write_bytes(header)
    os.truncate(path, len(header) + layers * 9 * 64 * 64 * 4)
    return path


# ---- readers --------------------------------------------------------------------------------------


def plain_walk(path: Path) -> int:
    """The obvious reader: each string in a loop, no check, no tensor table. It shows what Python costs."""
    data = path.read_bytes()
    unpack, pos = struct.Struct("<Q").unpack_from, 24
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    for _key in range(unpack(data, 16)[0]):
        pos += 8 + unpack(data, pos)[0]
        kind, pos = int.from_bytes(data[pos : pos + 4], "little"), pos + 4
        count = 1
        if kind == 9:
            kind, count = struct.unpack_from("<IQ", data, pos)
            pos += 12
        if kind == 8:
            for _string in range(count):
                pos += 8 + unpack(data, pos)[0]
        else:
            pos += count * sizes[kind]
    return pos


# VmHWM: ru_maxrss would start with the memory of the process that this one was forked from.
PEAK = "import sys; {}; print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
OURS = (
    "sys.path.insert(0, sys.argv[2]); "
    "from ansible_collections.magi.models.plugins.module_utils._gguf.reader import read_header; "
    "read_header(sys.argv[1])"
)
THEIRS = "from gguf import GGUFReader; GGUFReader(sys.argv[1])"


def peak_mib(statement: str, path: Path) -> float:
    """Peak memory, in MiB, of a fresh Python that runs ``statement``."""
    argv = [sys.executable, "-c", PEAK.format(statement), str(path), str(COLLECTIONS)]
    return int(subprocess.run(argv, capture_output=True, check=True).stdout) / 1024


def seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def compare_readers(files: dict[str, Path]) -> list[dict]:
    """Each reader on each file, taking turns, so that a busy moment of the machine hits all of them."""
    from gguf import GGUFReader

    rows = []
    with load_oracle() as oracle:
        for name, path in files.items():
            times: dict[str, list[float]] = {"magi": [], "llama.cpp": [], "plain walk": [], "gguf-py": []}
            for number in range(ROUNDS):
                times["llama.cpp"] += oracle.times(path, 1)
                times["magi"].append(seconds(lambda path=path: read_header(path)))
                times["plain walk"].append(seconds(lambda path=path: plain_walk(path)))
                if number == 0:  # it takes up to half a minute
                    times["gguf-py"].append(seconds(lambda path=path: GGUFReader(path)))
            median = {reader: statistics.median(each) for reader, each in times.items()}
            rows.append(
                {
                    "file": name,
                    "header_bytes": read_header(path).data_offset,
                    "seconds": {
                        reader: {"median": median[reader], "min": min(each), "max": max(each), "n": len(each)}
                        for reader, each in times.items()
                    },
                    "magi_to_llama_cpp": median["magi"] / median["llama.cpp"],
                    "gguf_py_to_magi": median["gguf-py"] / median["magi"],
                    "peak_mib": {
                        "magi": peak_mib(OURS, path),
                        "gguf-py": peak_mib(THEIRS, path),
                        "python alone": peak_mib("pass", path),
                    },
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


# ---- folders --------------------------------------------------------------------------------------


def compare_scans(folder: Path, counts: list[int], server: str | None) -> list[dict]:
    """Cold and warm scans of folders of models, and llama-server's router on the same folders."""
    header = synthetic(49_152, 48_900, 30, name="Model 00000")
    rows, made = [], 0
    models = folder / "models"
    models.mkdir()
    for count in counts:
        for number in range(made, count):
            named = header.replace(b"Model 00000", b"Model %05d" % number, 1)
            write_sparse(models / f"model-{number:05}-Q4_K_M.gguf", named, 30)
        made = count
        os.sync()  # else the registry's fsync would pay for writing the models
        registry = folder / f"registry-{count}.json"
        cold = seconds(lambda registry=registry: save(str(registry), discover([str(models)], str(registry)).registry))
        warm = [seconds(lambda registry=registry: discover([str(models)], str(registry))) for _ in range(ROUNDS)]
        outcome = discover([str(models)], str(registry))
        assert (len(outcome.registry.inventory.models), outcome.source) == (count, "cache")
        rows.append(
            {
                "models": count,
                "cold_seconds": cold,
                "warm_seconds": {
                    "median": statistics.median(warm),
                    "min": min(warm),
                    "max": max(warm),
                    "n": len(warm),
                },
                "router_seconds": router(server, models) if server else None,
                "router_patience_seconds": ROUTER_PATIENCE,
                "header_bytes": len(header),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def router(server: str, models: Path) -> float | None:
    """Seconds until `llama-server --models-dir` answers 200 on /health; None if it does not in time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [
        server,
        "--models-dir",
        str(models),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--no-models-autoload",
    ]
    began = time.perf_counter()
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            while time.perf_counter() - began < ROUTER_PATIENCE:
                if process.poll() is not None:
                    raise RuntimeError(f"{' '.join(argv)} ended with {process.returncode}")
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
                        if answer.status == 200:
                            return time.perf_counter() - began
                except OSError:
                    time.sleep(0.01)
            return None
        finally:
            process.kill()


# ---- report ---------------------------------------------------------------------------------------


def tables(result: dict) -> str:
    """The results as Markdown."""
    machine = result["machine"]
    lines = [
        f"Measured {result['date']} on {machine['cores']} cores ({machine['cpu']}), "
        f"Python {machine['python']}, load {machine['load_before']:.1f} before "
        f"and {machine['load_after']:.1f} after.",
        "",
        "| header | size | magi | llama.cpp (C++) | plain Python walk | gguf-py | magi ÷ llama.cpp "
        "| gguf-py ÷ magi | memory magi | memory gguf-py |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in result["readers"]:
        took, peak = row["seconds"], row["peak_mib"]
        cells = [f"{took[reader]['median'] * 1000:.1f} ms" for reader in ("magi", "llama.cpp", "plain walk")]
        lines.append(
            f"| {row['file']} | {row['header_bytes'] / 1e6:.1f} MB | {' | '.join(cells)} "
            f"| {took['gguf-py']['median']:.2f} s | {row['magi_to_llama_cpp']:.2f} "
            f"| {row['gguf_py_to_magi']:.0f} | {peak['magi']:.0f} MiB | {peak['gguf-py']:.0f} MiB |"
        )
    lines += [
        "",
        "| models in the folder | cold scan | warm scan | `llama-server --models-dir` up after |",
        "|--:|--:|--:|--:|",
    ]
    for row in result["scans"]:
        up = row["router_seconds"]
        shown = "not measured" if "router" in result["left_out"] else f"not within {row['router_patience_seconds']} s"
        lines.append(
            f"| {row['models']:,} | {row['cold_seconds']:.2f} s "
            f"| {row['warm_seconds']['median'] * 1000:.0f} ms "
            f"| {shown if up is None else f'{up:.2f} s'} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=Path, help="a real GGUF file to read too")
    parser.add_argument("--llama-server", default=shutil.which("llama-server"), help="to measure its router")
    parser.add_argument("--models", type=int, nargs="*", default=[100, 1000], help="models in a folder")
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = {
            "151,936 tokens and 151,387 merges": write_sparse(
                folder / "qwen.gguf", synthetic(151_936, 151_387, 36), 36
            ),
            "262,144 tokens": write_sparse(folder / "gemma.gguf", synthetic(262_144, 0, 34), 34),
        }
        if options.real:
            files[options.real.name] = options.real
        readers = compare_readers(files)
        scans = compare_scans(folder, options.models, options.llama_server)
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "cpu": cpu[0].partition(": ")[2] if cpu else platform.processor(),
            "python": platform.python_version(),
            "load_before": load_before,
            "load_after": os.getloadavg()[0],
        },
        "left_out": [] if options.llama_server else ["router"],
        "readers": readers,
        "scans": scans,
    }
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results/gguf.json").write_text(json.dumps(result, indent=2) + "\n")
    readme = HERE / "README.md"
    text = readme.read_text()
    head, rest = text.split(START)
    readme.write_text(f"{head}{START}\n{tables(result)}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
