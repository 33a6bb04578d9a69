# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Quantizations and tiers."""

from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._models.quantization import (
    FILE_TYPES,
    quantization_of,
    tier_of,
)

TIERS = {
    "Q2": ["Q2_K", "Q2_K_S", "IQ2_XS", "IQ2_M", "TQ2_0", "Q2_0"],
    "Q3": ["Q3_K_M", "Q3_K_L", "IQ3_XXS"],
    "Q4": ["Q4_0", "Q4_K_M", "IQ4_NL", "IQ4_XS", "MXFP4_MOE", "NVFP4"],
    "Q1": ["IQ1_S", "TQ1_0", "Q1_0"],
    "Q5": ["Q5_K_S"],
    "Q6": ["Q6_K"],
    "Q8": ["Q8_0"],
    "F16": ["F16"],
    "BF16": ["BF16"],
    "F32": ["F32"],
    "unknown": ["unknown(57)", "unknown"],
}


@pytest.mark.parametrize(("tier", "quantization"), [(tier, each) for tier in TIERS for each in TIERS[tier]])
def test_tiers(tier, quantization):
    assert tier_of(quantization) == tier


def test_every_file_type_of_llama_cpp_has_a_tier():
    assert {tier_of(name) for name in FILE_TYPES.values()} == set(TIERS) - {"unknown"}


@pytest.mark.parametrize(
    ("file_type", "weights", "name", "expected"),
    [
        (15, {"Q4_K": 90, "Q6_K": 10}, "x", "Q4_K_M"),
        (15 | 1024, {"Q4_K": 90}, "x", "Q4_K_M"),
        (None, {"Q4_K": 90}, "x-Q4_K_S", "Q4_K_S"),
        (None, {"Q4_K": 90}, "x-Q2_K", "Q4_K_M"),
        (None, {"Q6_K": 90}, "x", "Q6_K"),
        (None, {"MXFP4": 90}, "x", "MXFP4_MOE"),
        # the file's type is wrong and its name right, or neither is right
        (14, {"Q4_K": 10, "IQ2_S": 90}, "x-UD-IQ2_M", "IQ2_M"),
        (15, {"Q4_K": 10, "Q2_K": 90}, "x-UD-Q2_K_XL", "Q2_K_XL"),
        (7, {"Q4_K": 90}, "x-Q4_K_M", "Q4_K_M"),
        (15, {"Q8_0": 90}, "x-Q4_K_M", "Q8_0"),
        (15, {"IQ2_S": 90}, "x", "IQ2_S"),
        (57, {"Q2_K": 90}, "x-Q2_K", "Q2_K"),
        # no type has most, but a tier has
        (10, {"Q3_K": 30, "Q2_K": 25, "IQ2_XXS": 20}, "x-UD-Q2_K_XL", "Q2_K"),
        (None, {"Q3_K": 30, "Q2_K": 25, "IQ2_XXS": 20}, "x-UD-Q2_K_XL", "Q2_K_XL"),
        (12, {"Q3_K": 30, "Q2_K": 25, "IQ2_XXS": 20}, "x", "Q2_K"),
        # both say what the model was quantized to; rows that its blocks do not fit have another type
        (10, {"Q4_0": 80, "Q3_K": 20}, "x.Q2_K", "Q2_K"),
        (15, {"Q5_0": 80, "Q4_K": 20}, "x", "Q4_K_M"),
        (18, {"Q8_0": 80}, "x", "Q6_K"),
        (10, {"Q4_0": 80}, "x-Q4_0", "Q4_0"),
        # without weights to tell
        (7, {}, "x-Q2_K", "Q8_0"),
        (57, {}, "x", "unknown(57)"),
        (None, {}, "x-iq3_xxs", "IQ3_XXS"),
        (None, {}, "x-fp16", "F16"),
        (None, {}, "x", "unknown"),
    ],
)
def test_the_quantization_is_that_of_most_weights(file_type, weights, name, expected):
    assert quantization_of(file_type, weights, name) == expected
