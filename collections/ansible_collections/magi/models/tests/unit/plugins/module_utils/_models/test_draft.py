# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ids and duplicates."""

from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._models.assemble import assemble
from ansible_collections.magi.models.tests.unit.plugins.module_utils._models.builders import by_id, entry


@pytest.mark.parametrize(
    ("path", "facts", "expected"),
    [
        ("/m/DeepSeek-R1-Qwen3-8B-Q2_K.gguf", {}, "deepseek-r1-qwen3-8b-q2_k"),
        ("/m/SmolLM2-135M-Instruct.Q4_1.GGUF", {}, "smollm2-135m-instruct.q4_1"),
        ("/m/plain.gguf", {}, "plain-q4_k_m"),
        ("/m/plain.gguf", {"file_type": 57}, "plain-q4_k_m"),
        ("/m/gpt-oss-20b-mxfp4.gguf", {"file_type": 38}, "gpt-oss-20b-mxfp4"),
        ("/m/model-f16.gguf", {}, "model-f16"),
        ("/m/Ünï cödé-Q8_0.gguf", {}, "uni-code-q8_0"),
        ("/m/-rf; $(x) `y`\n[Service]-Q4_0.gguf", {}, "rf-x-y-service-q4_0"),
        ("/m/..gguf", {}, "q4_k_m"),
    ],
)
def test_ids(path, facts, expected):
    assert list(by_id([entry(path, **facts)])) == [expected]


def test_two_files_of_one_name_are_told_apart_by_their_folders():
    paths = [
        "/m/a/x-Q4_0.gguf",
        "/m/b/x-Q4_0.gguf",
        "/m/c/d/y-Q4_0.gguf",
        "/m/e/d/y-Q4_0.gguf",
        "/m/z-Q4_0.gguf",
    ]
    found = by_id([entry(path) for path in paths])
    assert {model.id: model.path for model in found.values()} == {
        "a-x-q4_0": paths[0],
        "b-x-q4_0": paths[1],
        "c-d-y-q4_0": paths[2],
        "e-d-y-q4_0": paths[3],
        "z-q4_0": paths[4],
    }
    assert by_id([entry(path) for path in reversed(paths)]) == found


def test_ids_are_unique_even_where_folders_say_nothing():
    paths = ["/m/X-Q4_0.gguf", "/m/x-Q4_0.gguf", "/m/x-q4_0.GGUF", "/m/é/x-Q4_0.gguf"]
    found = by_id([entry(path) for path in paths])
    assert len(found) == 4


def test_byte_identical_copies_are_one_model():
    same = {"sha256": "5" * 64}
    inventory = assemble(
        [
            entry("/m/b/x-Q4_0.gguf", **same),
            entry("/m/a/x-Q4_0.gguf", **same),
            entry("/m/c/x-Q4_0.gguf", sha256="6" * 64),
            entry("/m/l/y-Q4_0.gguf", inode=7),
            entry("/m/k/y-Q4_0.gguf", inode=7),
        ]
    )
    assert {model.id: (model.path, model.duplicates) for model in inventory.models} == {
        "a-x-q4_0": ("/m/a/x-Q4_0.gguf", ("/m/b/x-Q4_0.gguf",)),
        "c-x-q4_0": ("/m/c/x-Q4_0.gguf", ()),
        "y-q4_0": ("/m/k/y-Q4_0.gguf", ("/m/l/y-Q4_0.gguf",)),
    }
