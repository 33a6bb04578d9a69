# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Quantizations and tiers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._models.quantization import (
    FILE_TYPES,
    quantization_of,
    tier_of,
)
from ansible_collections.magi.models.tests.unit.plugins.module_utils._models.builders import FACTS

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
    ("facts", "name", "expected"),
    [
        ({}, "x", "Q4_K_M"),
        ({"file_type": 7}, "x-Q2_K", "Q8_0"),
        ({"file_type": 57}, "x-Q2_K", "unknown(57)"),
        ({"file_type": 15 | 1024}, "x", "Q4_K_M"),
        ({"file_type": None}, "x-Q2_K", "Q4_K_M"),
        ({"file_type": None, "tensor_type": "Q6_K"}, "x", "Q6_K"),
        ({"file_type": None, "tensor_type": None}, "x-iq3_xxs", "IQ3_XXS"),
        ({"file_type": None, "tensor_type": None}, "x-fp16", "F16"),
        ({"file_type": None, "tensor_type": None}, "x", "unknown"),
    ],
)
def test_quantizations(facts, name, expected):
    assert quantization_of(replace(FACTS, **facts), name) == expected
