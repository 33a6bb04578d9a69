# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which projector goes with which model: by type, width and folder, and by name where that decides."""

from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._models.assemble import assemble
from ansible_collections.magi.models.tests.unit.plugins.module_utils._models.builders import entry


def model(path, architecture="gemma3", width=2560, **more):
    return entry(path, architecture=architecture, shape={"embedding_length": width}, fingerprint=path, **more)


def projector(path, kind="gemma3", width=2560, file_type=1, **more):
    return entry(
        path,
        architecture="clip",
        kind="mmproj",
        file_type=file_type,
        weights={{1: "F16", 32: "BF16", 0: "F32", 7: "Q8_0"}[file_type]: 1},
        projector_types=[kind] if kind else [],
        projector_width=width,
        **more,
    )


def pairs(*entries):
    """The projector of each model, by the name of its file."""
    found = assemble(entries)
    return {item.path.rpartition("/")[2][:-5]: item.mmproj and item.mmproj.path for item in found.models}


@pytest.mark.parametrize(
    ("projectors", "folder", "expected"),
    [
        (["/m/r/mmproj-F16.gguf"], "/m/r", "/m/r/mmproj-F16.gguf"),
        (["/m/r/mmproj-F16.gguf"], "/m/r/Q4_K_M", "/m/r/mmproj-F16.gguf"),
        (["/m/mmproj-F16.gguf", "/m/r/mmproj-f.gguf"], "/m/r/q/deep", "/m/r/mmproj-f.gguf"),
        (["/m/r/a/mmproj.gguf"], "/m/r/b", None),
        (["/m/r/a/mmproj.gguf"], "/m/r", None),
        (["/m/rr/mmproj.gguf"], "/m/r", None),
    ],
)
def test_it_lies_in_the_folder_of_the_model_or_above(projectors, folder, expected):
    assert pairs(model(f"{folder}/x-Q4_0.gguf"), *map(projector, projectors)) == {"x-Q4_0": expected}


def test_f16_comes_before_others():
    found = [projector(f"/m/mmproj-{number}.gguf", file_type=number) for number in (0, 32, 7, 1)]
    assert pairs(model("/m/x-Q4_0.gguf"), *found) == {"x-Q4_0": "/m/mmproj-1.gguf"}


@pytest.mark.parametrize(
    ("kind", "width", "architecture", "embedding", "fits"),
    [
        ("qwen3vl_merger", 2560, "qwen3vl", 2560, True),
        ("qwen3vl_merger", 3072, "qwen35moe", 3072, True),
        ("qwen3vl_merger", 2560, "qwen3", 2560, False),  # text only
        ("qwen3vl_merger", 2048, "qwen3vl", 2560, False),
        ("gemma4", 2816, "qwen35", 4096, False),
        ("gemma4", 2816, "gemma4", 2816, True),  # not a type of llama.cpp's, but the architecture's name
        ("gemma9v", 8, "gemma9", 8, True),  # newer than the list
        ("qwen9vl_merger", 8, "qwen9", 8, False),
        ("qwen9vl_merger", 8, "qwen9vlmoe", 8, True),
        ("idefics3", 576, "llama", 576, True),
        (None, 4096, "llama", 4096, True),  # LLaVA's, older than types
        ("pixtral", None, "llama", 4096, False),  # nothing tells its width
    ],
)
def test_type_and_width_go_with_the_model(kind, width, architecture, embedding, fits):
    found = pairs(model("/m/x-Q4_0.gguf", architecture, embedding), projector("/m/mmproj.gguf", kind, width))
    assert found == {"x-Q4_0": "/m/mmproj.gguf" if fits else None}


@pytest.mark.parametrize(
    ("delivers", "width", "takes", "fits"),
    [
        (None, 8, 3, True),
        (None, 32, 3, True),
        (3, 8, 3, True),
        (0, 8, 3, False),
        (3, 8, None, False),
        (2, 8, 3, False),
    ],
)
def test_deepstack_layers_count(delivers, width, takes, fits):
    text = model("/m/x-Q4_0.gguf", "qwen3vl", 8, deepstack=takes)
    found = pairs(text, projector("/m/mmproj.gguf", "qwen3vl_merger", width, deepstack=delivers))
    assert bool(found["x-Q4_0"]) is fits


@pytest.mark.parametrize(
    ("projectors", "expected"),
    [
        # one for a model in two quantizations, and for another that it also fits
        (["mmproj-F16"], {"gemma-Q4_0": "mmproj-F16", "gemma-Q8_0": "mmproj-F16", "med-Q4_0": "mmproj-F16"}),
        (["mmproj-model-f16"], dict.fromkeys(["gemma-Q4_0", "gemma-Q8_0", "med-Q4_0"], "mmproj-model-f16")),
        # names decide where they can
        (["mmproj-gemma-f16"], {"gemma-Q4_0": "mmproj-gemma-f16", "gemma-Q8_0": "mmproj-gemma-f16", "med-Q4_0": None}),
        (
            ["gemma.mmproj-Q8_0", "mmproj-med-f16"],
            {"gemma-Q4_0": "gemma.mmproj-Q8_0", "gemma-Q8_0": "gemma.mmproj-Q8_0", "med-Q4_0": "mmproj-med-f16"},
        ),
        # llama.cpp's flat cache
        (
            ["org_gemma-GGUF_mmproj-model-f16", "org_med-GGUF_mmproj-model-f16"],
            {
                "org_gemma-GGUF_gemma-Q4_0": "org_gemma-GGUF_mmproj-model-f16",
                "org_med-GGUF_med-Q4_0": "org_med-GGUF_mmproj-model-f16",
            },
        ),
    ],
)
def test_one_projector_may_serve_several_models(projectors, expected):
    models = [model(f"/m/{name}.gguf") for name in expected]
    found = pairs(*models, *(projector(f"/m/{name}.gguf") for name in projectors))
    assert found == {name: path and f"/m/{path}.gguf" for name, path in expected.items()}


def test_what_it_serves_is_said_and_that_it_fits_none():
    models = [model("/m/a-Q4_0.gguf"), model("/m/b-Q4_0.gguf", "qwen35", 4096)]
    found = assemble([*models, projector("/m/mmproj-a.gguf"), projector("/m/mmproj-c.gguf", "gemma4", 2816)])
    assert {item.path: item.models for item in found.companions} == {
        "/m/mmproj-a.gguf": ("a-q4_0",),
        "/m/mmproj-c.gguf": (),
    }
    assert found.companions[0].reason.endswith(": it is served with a-q4_0.")
    assert found.companions[1].reason.endswith(": it fits no model in its folder or below (gemma4, width 2816).")
