# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Slugs and display names."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._models.naming import display_name_of, slug
from ansible_collections.magi.models.tests.unit.plugins.module_utils._models.builders import FACTS


@pytest.mark.parametrize("text", ["", "...", "模型", "🦙", "a" * 500, "-", "\x1b[31m", "x\0y", "..-/../x"])
def test_a_slug_is_always_a_slug(text):
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,119}", slug(text))


def test_different_names_without_latin_letters_have_different_slugs():
    assert slug("模型") != slug("模形")


PARTS = {"basename": "smollm2", "size_label": "135M"}
RUN = {**PARTS, "name": "Smollm2 135M 8k Lc100K Mix1 Ep2", "finetune": "8k-lc100k-mix1-ep2"}


@pytest.mark.parametrize(
    ("facts", "stem", "expected"),
    [
        ({"name": "DeepSeek R1 Qwen3 8B"}, "x-Q2_K", "DeepSeek R1 Qwen3 8B"),
        ({"name": None}, "Qwen3-8B-Q4_K_M", "Qwen3-8B"),
        ({"name": None}, "Q4_K_M", "unnamed"),
        # the parts beat the name that a converter made of them
        (
            {"name": "x", "basename": "SmolLM2", "size_label": "135M", "finetune": "Instruct"},
            "a-Q4_0",
            "SmolLM2 135M Instruct",
        ),
        ({"name": "x", "basename": "Mistral", "size_label": None, "finetune": None}, "model", "Mistral"),
        ({"name": "x", **PARTS, "finetune": "instruct"}, "SmolLM2-135M-Instruct.Q2_K", "smollm2 135M instruct"),
        ({"name": "A Name", "size_label": "7B"}, "model", "A Name"),
        # the name of a training run helps nobody
        (RUN, "SmolLM2-135M-Instruct.Q2_K", "SmolLM2-135M-Instruct"),
        (RUN, "ggml-model-Q2_K", "smollm2 135M 8k-lc100k-mix1-ep2"),
        # not names
        ({"name": "ggml-model"}, "Qwen3-8B-Q4_K_M", "Qwen3-8B"),
        ({"name": "Model"}, "Qwen3-8B-Q4_K_M", "Qwen3-8B"),
        ({"name": "/home/me/models/x"}, "Qwen3-8B-Q4_K_M", "Qwen3-8B"),
        ({"name": "."}, "Qwen3-8B-Q4_K_M", "Qwen3-8B"),
        ({"name": "8bacec5c8e829a25502cdfe3c3f5b6aabee3218c"}, "Qwen3-8B-Q4_K_M", "Qwen3-8B"),
        ({"name": "Llama 3.2/3B"}, "x", "Llama 3.2/3B"),
    ],
)
def test_display_names(facts, stem, expected):
    assert display_name_of(replace(FACTS, **facts), stem, "Q4_K_M") == f"{expected} (Q4_K_M)"
