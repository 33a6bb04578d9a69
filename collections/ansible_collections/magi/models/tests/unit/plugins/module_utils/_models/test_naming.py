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


@pytest.mark.parametrize(
    ("general_name", "stem", "expected"),
    [
        ("DeepSeek R1 Qwen3 8B", "x-Q2_K", "DeepSeek R1 Qwen3 8B (Q4_K_M)"),
        (None, "Qwen3-8B-Q4_K_M", "Qwen3-8B (Q4_K_M)"),
        (None, "Q4_K_M", "unnamed (Q4_K_M)"),
    ],
)
def test_display_names(general_name, stem, expected):
    assert display_name_of(replace(FACTS, name=general_name), stem, "Q4_K_M") == expected
