# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Building GGUF files for tests, good and bad: everything is written as given, nothing is checked."""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass

SCALARS = {
    "u8": (0, "<B"),
    "i8": (1, "<b"),
    "u16": (2, "<H"),
    "i16": (3, "<h"),
    "u32": (4, "<I"),
    "i32": (5, "<i"),
    "f32": (6, "<f"),
    "bool": (7, "<?"),
    "u64": (10, "<Q"),
    "i64": (11, "<q"),
    "f64": (12, "<d"),
}
F32, F16, Q4_0, Q4_K = 0, 1, 2, 12
BLOCKS = {F16: (1, 2), Q4_0: (32, 18), Q4_K: (256, 144), 8: (32, 34), 10: (256, 84), 22: (256, 82)}  # elements, bytes


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def value(kind: str, item) -> bytes:
    """A value without its type: kind is one of SCALARS, ``str``, or ``[kind]`` for an array."""
    if kind == "str":
        return string(item)
    if kind.startswith("["):
        inner = kind[1:-1]
        number = 8 if inner == "str" else SCALARS[inner][0]
        return struct.pack("<IQ", number, len(item)) + b"".join(value(inner, each) for each in item)
    return struct.pack(SCALARS[kind][1], item)


def pair(key: str | bytes, kind: str, item) -> bytes:
    number = 8 if kind == "str" else 9 if kind.startswith("[") else SCALARS[kind][0]
    return string(key) + struct.pack("<I", number) + value(kind, item)


@dataclass(frozen=True)
class Tensor:
    """A line of the tensor table."""

    name: str | bytes
    shape: tuple[int, ...]
    type: int = F32
    size: int = 0  # bytes of data; from the shape if 0 and the type is F32 or one of BLOCKS
    offset: int | None = None  # the running sum if None
    dims: int | None = None  # what the table claims, if that is not true

    @property
    def nbytes(self) -> int:
        if self.size or self.type not in (F32, *BLOCKS):
            return self.size
        block, block_bytes = BLOCKS.get(self.type, (1, 4))
        return math.prod(self.shape) // block * block_bytes


def build(
    pairs=(),
    tensors=(),
    *,
    magic=b"GGUF",
    version=3,
    n_tensors=None,
    n_pairs=None,
    align=32,
    data=True,
    fill=b"\0",
) -> bytes:
    """A GGUF file. ``pairs`` are tuples for ``pair``, or bytes written as they are."""
    parts = [magic, struct.pack("<I", version)]
    counts = (len(tensors) if n_tensors is None else n_tensors, len(pairs) if n_pairs is None else n_pairs)
    parts.append(struct.pack("<QQ", *(count % (1 << 64) for count in counts)))
    parts += [each if isinstance(each, bytes) else pair(*each) for each in pairs]
    offset = 0
    for tensor in tensors:
        parts.append(string(tensor.name))
        parts.append(struct.pack("<I", len(tensor.shape) if tensor.dims is None else tensor.dims))
        parts.append(struct.pack(f"<{len(tensor.shape)}q", *tensor.shape))
        at = offset if tensor.offset is None else tensor.offset
        parts.append(struct.pack("<iQ", tensor.type, at % (1 << 64)))
        offset += -(-tensor.nbytes // align) * align
    head = b"".join(parts)
    if tensors:
        head += b"\0" * (-len(head) % align)
    return head + (fill * offset if data and offset < 1 << 24 else b"")


def model(name="Test", arch="llama", file_type=15, extra=(), tensors=None, tokens=2000, **options) -> bytes:
    """A small but whole model."""
    pairs = [("general.architecture", "str", arch), ("general.type", "str", "model")]
    pairs += [("general.name", "str", name)] if name is not None else []
    pairs += [("general.file_type", "u32", file_type)] if file_type is not None else []
    pairs += [
        (f"{arch}.block_count", "u32", 2),
        (f"{arch}.context_length", "u32", 4096),
        (f"{arch}.embedding_length", "u32", 8),
        (f"{arch}.attention.head_count", "u32", 4),
        (f"{arch}.attention.head_count_kv", "[u32]", [2, 0]),
        ("tokenizer.ggml.tokens", "[str]", [f"token{number}" for number in range(tokens)]),
    ]
    return build([*pairs, *extra], tensors or [Tensor("a.weight", (256, 4), Q4_K), Tensor("b.weight", (8,))], **options)


def projector(kind="gemma3", width=8, side="vision", file_type=1, extra=()) -> bytes:
    """A projector for models whose embeddings have this width."""
    pairs = [
        ("general.architecture", "str", "clip"),
        ("general.type", "str", "mmproj"),
        ("general.file_type", "u32", file_type),
        ("clip.projector_type", "str", kind),
        (f"clip.has_{side}_encoder", "bool", True),
        (f"clip.{side}.projection_dim", "u32", width),
    ]
    weights = F16 if file_type == 1 else F32
    return build([*pairs, *extra], [Tensor("v.patch_embd.weight", (256, 4), weights)])


def shard(number: int, total: int, tensors: int = 2, first: bool | None = None, kind: str = "u16", **options) -> bytes:
    """Shard ``number`` (from 1) with one tensor, of a model of ``tensors`` tensors."""
    split = [
        ("split.no", kind, number - 1),
        ("split.count", "u16", total),
        ("split.tensors.count", "i32", tensors),
    ]
    table = options.pop("table", [Tensor(f"blk.{number}.weight", (256, number), Q4_K)])
    if number == 1 if first is None else first:
        return model(extra=split, tensors=table, **options)
    return build(split, table, **options)


def write(path, data: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return os.fspath(path)
