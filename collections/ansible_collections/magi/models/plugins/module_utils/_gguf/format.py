# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The GGUF format: its types, and what a header holds. Pure."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Union

# ggml/include/ggml.h enum ggml_type, ggml/src/ggml.c type_traits: id → name, elements and bytes per block.
# The ids that are missing (4, 5, 31-33, 36-38) were removed from the format and are refused.
TENSOR_TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
    42: ("Q2_0", 64, 18),
}
TENSOR_TYPE_COUNT = 43  # GGML_TYPE_COUNT

STRING, ARRAY = 8, 9
# ggml/include/gguf.h enum gguf_type: id → name, struct format.
SCALARS: Mapping[int, tuple[str, struct.Struct]] = {
    0: ("u8", struct.Struct("<B")),
    1: ("i8", struct.Struct("<b")),
    2: ("u16", struct.Struct("<H")),
    3: ("i16", struct.Struct("<h")),
    4: ("u32", struct.Struct("<I")),
    5: ("i32", struct.Struct("<i")),
    6: ("f32", struct.Struct("<f")),
    7: ("bool", struct.Struct("<?")),
    10: ("u64", struct.Struct("<Q")),
    11: ("i64", struct.Struct("<q")),
    12: ("f64", struct.Struct("<d")),
}
TYPE_NAMES = {**{key: scalar[0] for key, scalar in SCALARS.items()}, STRING: "str", ARRAY: "arr"}


@dataclass(frozen=True)
class Array:
    """An array in the metadata: element type, number of elements, and the elements if they are few."""

    type: str
    length: int
    values: tuple[Value, ...] | None


Value = Union[int, float, bool, str, Array]  # evaluated at run time, also by Python 3.9


@dataclass(frozen=True)
class Header:
    """What a GGUF header says about its file."""

    version: int
    metadata: Mapping[str, Value]  # long strings cut to their first 64 KiB
    tensor_count: int
    parameter_count: int  # elements of all tensors
    bytes_by_type: Mapping[str, int]  # tensor type → bytes
    weights_by_type: Mapping[str, int]  # tensor type → elements; without the embeddings, whose type often differs
    parts: tuple[str, ...]  # what the names of tensors begin with, up to the first dot; sorted, at most 64
    layers: int  # those that have tensors
    shapes: Mapping[str, tuple[int, ...]]  # of a projector's tensors; else empty
    tensor_names: tuple[str, ...]  # of a shard, to find shards that overlap; else empty
    alignment: int  # bytes
    data_offset: int  # bytes; where the tensors' data begins
    expected_size: int  # bytes that the file must have at least; padding after the last tensor may be missing
    fingerprint: str  # SHA-256 of metadata and tensor table, without the elements of large arrays
    size: int  # bytes
    mtime_ns: int
    inode: int
