# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The quantization of a model, and its tier. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

# llama.cpp include/llama.h enum llama_ftype; the missing ids were removed.
FILE_TYPES: Mapping[int, str] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
    41: "Q2_0",
}
_FILE_TYPE_GUESSED = 1024  # LLAMA_FTYPE_GUESSED, a flag
# llama.cpp src/llama-model-loader.cpp guesses these when general.file_type is missing.
_FILE_TYPE_OF_TENSORS = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "MXFP4": "MXFP4_MOE"}
# What llama.cpp makes of a tier's tensors whose rows are not a multiple of 256, like all in some small models
# (src/llama-quant.cpp tensor_type_fallback).
_FALLBACKS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("Q1", "Q2", "Q3"), frozenset({"Q4_0", "IQ4_NL"})),
    "Q4": frozenset({"Q5_0"}),
    "Q5": frozenset({"Q5_1"}),
    "Q6": frozenset({"Q8_0"}),
}

_QUANTIZATION = re.compile(
    r"(?:^|(?<=[-._ ]))"
    r"(?:I?Q[1-8]_(?:[01]|K|NL|XXS|XS|S|M)(?:_(?:XXS|XS|S|M|L|XL))?|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32)"
    r"(?=$|[-._ ])",
    re.IGNORECASE,
)


def quantization_of(file_type: int | None, weights: Mapping[str, int], name: str) -> str:
    """What most ``weights`` (elements by tensor type) are: in the tier that most have, the type that most have, as
    general.file_type or the file's ``name`` calls it if that agrees; a file without weights is what these say."""
    said = []
    if file_type is not None:
        number = file_type & ~_FILE_TYPE_GUESSED
        said.append(FILE_TYPES.get(number, f"unknown({number})"))
    said += filter(None, [quantization_in(name)])
    if not weights:
        return next(iter(said), "unknown")
    tiers: Counter[str] = Counter()
    for kind, elements in weights.items():
        tiers[tier_of(kind)] += elements
    tier = tiers.most_common(1)[0][0]
    most = max((kind for kind in weights if tier_of(kind) == tier), key=lambda kind: weights[kind])
    for quantization in said:
        if tier_of(quantization) == tier:
            return quantization
    for quantization in said:
        if most in _FALLBACKS.get(tier_of(quantization), ()):
            return quantization
    return _FILE_TYPE_OF_TENSORS.get(most, most)


def tier_of(quantization: str) -> str:
    """The bits of a quantization: Q4_K_M, IQ4_NL and MXFP4_MOE are ``Q4``, BF16 is ``BF16``."""
    bits = re.match(r"[IT]?Q(\d)|(?:MX|NV)FP(\d)", quantization)
    if bits:
        return f"Q{bits[1] or bits[2]}"
    return quantization if re.fullmatch(r"B?F\d\d", quantization) else "unknown"


def quantization_in(name: str) -> str | None:
    """The quantization that a file name mentions last, in capitals, if it mentions one."""
    found = _QUANTIZATION.findall(name)
    return re.sub(r"^FP", "F", found[-1].upper()) if found else None


def without_quantization(name: str) -> str:
    """``name`` without any quantization that it mentions."""
    return _QUANTIZATION.sub("", name)
