"""Our reader compared with llama.cpp's own: whatever llama.cpp refuses, we refuse.

Where we refuse more, STRICTER says so.
"""

from __future__ import annotations

import random
import resource
import struct
import subprocess
import time
from pathlib import Path

import pytest
from ansible_collections.magi.models.plugins.module_utils._gguf.format import TENSOR_TYPES
from ansible_collections.magi.models.plugins.module_utils._gguf.reader import GGUFError, read_header
from ansible_collections.magi.models.tests.unit.plugins.module_utils._gguf.test_reader import BAD, GOOD
from ansible_collections.magi.models.tests.unit.plugins.module_utils.gguf_files import (
    Q4_0,
    Tensor,
    build,
    model,
    shard,
    string,
)

pytestmark = pytest.mark.e2e

# What llama.cpp accepts and we refuse: code → why. "abort" and "loader" of the oracle are refusals.
STRICTER = {
    "key": "names with a control character, not UTF-8, or longer than the specification allows: llama.cpp "
    "asks for none of them, and they would break logs and reports",
    "tensor_name": "names with a NUL byte, which llama.cpp cuts short",
    "key_type": "split.no and split.tensors.count of the wrong type where llama.cpp does not look: in a "
    "shard this makes llama-server abort",
    "count": "more than 65,536 keys or 262,144 tensors, so that memory is bounded",
    "tensor_size": "sizes beyond 2^64 bytes, which llama.cpp computes modulo 2^64",
    "truncated": "sizes beyond the file's end that llama.cpp computes modulo 2^64",
}

# Elements of a Q4_0 row whose number times the 18 bytes of a block is just beyond 2^64.
WRAPS = ((1 << 64) // 18 // 32 + 1) * 32
STRICTER_FILES = {
    "key": [
        build([("a\nb", "u8", 1)]),
        build([("a\0b", "u8", 1)]),
        build([(b"a\xff", "u8", 1)]),
        build([("k" * 65536, "u8", 1)]),
    ],
    "tensor_name": [build([], [Tensor("a\0b", (8,))])],
    "key_type": [build([("split.no", "u32", 0)]), build([("split.tensors.count", "u32", 2)])],
    "count": [
        build([(f"k{number}", "u8", 1) for number in range(65537)]),
        build([], [Tensor(str(number), (0,)) for number in range(262145)]),
    ],
    "truncated": [build([], [Tensor("a", (WRAPS,), Q4_0, 0)]) + b"\0" * 64],
}


def ours(path: Path) -> str:
    """Our verdict: accept, or the code of the refusal."""
    try:
        read_header(path)
    except GGUFError as error:
        return error.code
    return "accept"


def compare(oracle, path: Path) -> tuple[str, str]:
    """Our verdict and llama.cpp's, which must agree except for STRICTER."""
    mine, theirs = ours(path), oracle.check(path)
    if theirs == "accept":
        assert mine == "accept" or mine in STRICTER
    else:
        assert mine != "accept", f"llama.cpp refuses it: {theirs}"
    return mine, theirs


def test_the_types_of_tensors_are_llama_cpps(oracle):
    theirs = [kind.split(":") for kind in oracle.ask("types").split()]
    assert {int(number): (name.upper(), int(block), int(size)) for number, name, block, size in theirs} == {
        number: (name.upper(), block, size) for number, (name, block, size) in TENSOR_TYPES.items()
    }


def test_the_files_of_llama_cpps_own_test(oracle, tmp_path):
    """All 34 kinds of file that it builds, eight of each."""
    kinds = oracle.kinds()
    assert len(kinds) == 34
    for number, name, good in kinds:
        for seed in range(8):
            path = oracle.emit(number, seed, tmp_path / "x.gguf")
            mine, theirs = compare(oracle, path)
            has_data = name.startswith("DATA") or not good
            if name == "DATA_NOT_ENOUGH_DATA":
                continue  # a byte of padding or of data is missing: compared above
            if has_data:
                assert (mine == "accept") == good, name
            # A good header without any data: gguf.cpp accepts it, llama-server does not.
            elif name.startswith("TENSORS") and name != "TENSORS_ZERO_DIM":
                assert (mine, theirs) == ("truncated", "loader"), name
            else:
                assert mine == "accept", name


@pytest.mark.parametrize("kind", [*BAD, *GOOD])
def test_the_files_of_our_own_tests(oracle, tmp_path, kind):
    path = tmp_path / "x.gguf"
    path.write_bytes(BAD[kind][1] if kind in BAD else GOOD[kind])
    compare(oracle, path)


@pytest.mark.parametrize("code", STRICTER_FILES)
def test_where_we_are_stricter(oracle, tmp_path, code):
    path = tmp_path / "x.gguf"
    for data in STRICTER_FILES[code]:
        path.write_bytes(data)
        assert (ours(path), oracle.check(path)) == (code, "accept")


def test_a_shard_number_of_the_wrong_type_makes_llama_cpp_abort(oracle, tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(shard(2, 2, kind="u32"))
    assert compare(oracle, path) == ("key_type", "abort")


def headers() -> list[bytes]:
    """Whole small files to mutate: all parts of real ones, without the bulk of a tokenizer."""
    tensors = [Tensor("token_embd.weight", (32, 4), Q4_0, 72)]
    tensors += [Tensor(f"blk.{number}.attn_norm.weight", (8,)) for number in range(4)]
    every = [(f"k.{kind}", kind, 1) for kind in ("u8", "i16", "u32", "f32", "bool", "u64", "f64")]
    arrays = [("a.strings", "[str]", ["a", "bc", ""] * 30), ("a.numbers", "[i32]", [1, 2, 3])]
    return [
        model(tensors=tensors, tokens=80),
        model(tensors=tensors, extra=[*every, *arrays], tokens=3),
        build([("general.alignment", "u32", 64), *arrays], [Tensor("a", (3,)), Tensor("b", (2, 2))], align=64),
        shard(2, 3),
        build([("general.type", "str", "imatrix"), ("imatrix.datasets", "[str]", ["x"])], [Tensor("i", (4,))]),
    ]


def test_every_truncation(oracle, tmp_path):
    path = tmp_path / "x.gguf"
    for data in headers():
        for size in range(len(data) + 1):
            path.write_bytes(data[:size])
            mine, theirs = compare(oracle, path)
            assert mine in ("truncated", "accept")
            assert (mine == "accept") == (theirs == "accept")


REAL = Path(__file__).parents[2] / "data" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def real(tmp_path) -> tuple[bytes, Path]:
    """The header of a real model, and a file of it whose weights are a hole of the right size."""
    assert REAL.exists(), f"there is no {REAL}: run make up first"
    with REAL.open("rb") as file:
        header = file.read(read_header(REAL).data_offset)
    path = tmp_path / "real.gguf"
    path.write_bytes(header)
    with path.open("r+b") as file:
        file.truncate(REAL.stat().st_size)
    return header, path


def test_truncations_of_a_real_file(oracle, real):
    """Cut at every byte of the first keys and of the last tensors, at steps through the tokenizer, and at ten places of
    the data."""
    header, path = real
    size = path.stat().st_size
    assert compare(oracle, path) == ("accept", "accept")
    end = len(header)
    cuts = {*range(3000), *range(0, end, 4999), *range(end - 100, end + 1)}
    cuts |= {end + (size - end) * part // 10 for part in range(10)} | {size - 1}
    with path.open("r+b") as file:
        for cut in sorted(cuts, reverse=True):
            file.truncate(cut)
            mine, _theirs = compare(oracle, path)
            assert mine == "truncated", cut


def test_a_real_file_cut_at_every_byte_of_its_header(oracle, tmp_path):
    """A shard that llama.cpp splits off the real model. Its header has no tokenizer: it is small enough for every byte."""
    split = Path.home() / ".cache" / "magi" / "llama.cpp" / "11434" / "bin" / "llama-gguf-split"
    options = ["--split", "--split-max-tensors", "64", str(REAL), str(tmp_path / "part")]
    subprocess.run([str(split), *options], check=True, capture_output=True)
    path = sorted(tmp_path.glob("part-*.gguf"))[1]
    assert compare(oracle, path) == ("accept", "accept")
    size, end = path.stat().st_size, read_header(path).data_offset
    cuts = {*range(end + 1), *(end + (size - end) * part // 10 for part in range(10)), size - 1}
    with path.open("r+b") as file:
        for cut in sorted(cuts, reverse=True):
            file.truncate(cut)
            assert compare(oracle, path)[0] == "truncated", cut


def test_mutations_of_a_real_header(oracle, real, mutations):
    """Seeded changes of single bytes, half of them outside the tokenizer's arrays: both verdicts agree on each."""
    header, path = real
    rng = random.Random(135)
    verdicts: dict[str, int] = {}
    with path.open("r+b", buffering=0) as file:
        for number in range(mutations // 10):
            end = len(header)
            at = rng.randrange(end) if number % 2 else rng.choice((rng.randrange(3000), end - 1 - rng.randrange(16000)))
            file.seek(at)
            file.write(bytes([rng.randrange(256)]))
            mine, _theirs = compare(oracle, path)
            verdicts[mine] = verdicts.get(mine, 0) + 1
            file.seek(at)
            file.write(header[at : at + 1])
    assert len(verdicts) > 3, verdicts


INTERESTING = [0, 1, 2, 3, 4, 8, 9, 13, 31, 32, 63, 64, 127, 128, 255]
LARGE = [
    0,
    1,
    1 << 16,
    1 << 30,
    (1 << 30) + 1,
    (1 << 31) - 1,
    1 << 32,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to four changes: a byte, a bit, a number of eight bytes, a stretch removed or doubled."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(changed))
        kind = rng.randrange(6)
        if kind == 0:
            changed[at] = rng.randrange(256)
        elif kind == 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            changed[at] = rng.choice(INTERESTING)
        elif kind == 3:
            changed[at : at + 8] = struct.pack("<Q", rng.choice(LARGE))
        elif kind == 4:
            del changed[at : at + rng.randrange(1, 9)]
        else:
            changed[at:at] = changed[at : at + rng.randrange(1, 33)]
    return bytes(changed)


def test_mutations(oracle, tmp_path, mutations, record_property):
    """Seeded mutations of whole small files: both verdicts agree on each."""
    rng, files, path = random.Random(4711), headers(), tmp_path / "x.gguf"
    verdicts: dict[tuple[str, str], int] = {}
    slowest = 0.0
    for number in range(mutations):
        path.write_bytes(mutated(files[number % len(files)], rng))
        began = time.process_time()
        ours(path)
        slowest = max(slowest, time.process_time() - began)
        try:
            verdict = compare(oracle, path)
        except AssertionError as error:
            kept = Path.cwd() / ".mutation.gguf"
            kept.write_bytes(path.read_bytes())
            raise AssertionError(f"mutation {number}, kept as {kept}: {error}") from error
        verdicts[verdict] = verdicts.get(verdict, 0) + 1
    record_property("verdicts", {"/".join(key): count for key, count in sorted(verdicts.items())})
    record_property("slowest_seconds", slowest)
    print(f"\n{mutations} mutations, slowest {slowest * 1000:.1f} ms of processor time:")
    for (mine, theirs), count in sorted(verdicts.items()):
        print(f"  {count:7} ours {mine}, llama.cpp {theirs}")
    assert {"accept", "truncated", "tensor_offset", "tensor_type"} <= {mine for mine, _ in verdicts}


def test_no_mutation_takes_much_memory(tmp_path):
    """Peak memory for mutations that claim large lengths, in a sparse file that is large enough."""
    rng, path = random.Random(42), tmp_path / "x.gguf"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(300):
        data = bytearray(headers()[number % 2])
        at = rng.randrange(len(data))
        data[at : at + 8] = struct.pack("<Q", rng.choice([1 << 20, 1 << 24, 1 << 28, 1 << 30]))
        path.write_bytes(data)
        with path.open("r+b") as file:
            file.truncate(4 << 30)
        ours(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_a_key_that_says_it_has_a_gigabyte(oracle, tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(build([string("general.name") + struct.pack("<IQ", 8, 1 << 30)]))
    assert compare(oracle, path) == ("truncated", "reader")
