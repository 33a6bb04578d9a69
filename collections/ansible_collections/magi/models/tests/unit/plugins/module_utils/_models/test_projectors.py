# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which projector goes with which model."""

from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._models.assemble import assemble
from ansible_collections.magi.models.tests.unit.plugins.module_utils._models.builders import by_id, entry

CLIP = {"architecture": "clip", "file_type": 1}


@pytest.mark.parametrize(
    ("projectors", "models", "expected"),
    [
        # one model in two quantizations, a projector without a name of its own
        (
            {"mmproj-F16": {}},
            {"gemma-Q4_0": 8, "gemma-Q8_0": 8},
            {"gemma-q4_0": "mmproj-F16", "gemma-q8_0": "mmproj-F16"},
        ),
        # LM Studio's name
        ({"mmproj-model-f16": {}}, {"gemma-Q4_0": 8}, {"gemma-q4_0": "mmproj-model-f16"}),
        # by name, in one folder
        (
            {"mmproj-gemma-f16": {}, "mmproj-qwen-f16": {}},
            {"gemma-Q4_0": 8, "qwen-Q4_0": 8},
            {"gemma-q4_0": "mmproj-gemma-f16", "qwen-q4_0": "mmproj-qwen-f16"},
        ),
        (
            {"gemma.mmproj-Q8_0": {}},
            {"gemma-Q4_0": 8, "qwen-Q4_0": 8},
            {"gemma-q4_0": "gemma.mmproj-Q8_0", "qwen-q4_0": None},
        ),
        # by the width it projects to
        (
            {"mmproj": {"projection_dim": 16}},
            {"a-Q4_0": 8, "b-Q4_0": 16},
            {"a-q4_0": None, "b-q4_0": "mmproj"},
        ),
        # no guess
        ({"mmproj": {}}, {"a-Q4_0": 8, "b-Q4_0": 16}, {"a-q4_0": None, "b-q4_0": None}),
        # F16 before others
        (
            {"mmproj-BF16": {"file_type": 32}, "mmproj-F16": {}, "mmproj-F32": {"file_type": 0}},
            {"a-Q4_0": 8},
            {"a-q4_0": "mmproj-F16"},
        ),
    ],
)
def test_projectors_are_paired_with_the_models_beside_them(projectors, models, expected):
    entries = [entry(f"/m/{name}.gguf", **{**CLIP, **facts}) for name, facts in projectors.items()]
    entries += [
        entry(f"/m/{name}.gguf", shape={"embedding_length": width}, name=name, fingerprint=name)
        for name, width in models.items()
    ]
    entries.append(entry("/elsewhere/other-Q4_0.gguf"))
    found = by_id(entries)
    assert found.pop("other-q4_0").mmproj is None
    paths = {model_id: name and f"/m/{name}.gguf" for model_id, name in expected.items()}
    assert {model_id: model.mmproj and model.mmproj.path for model_id, model in found.items()} == paths
    paired = {item.path: item.models for item in assemble(entries).companions}
    for model_id, path in paths.items():
        assert path is None or model_id in paired[path]
