# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From facts to models: names, tiers, shards, projectors, duplicates, drift. No file is touched."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._models import model
from ansible_collections.magi.models.plugins.module_utils._models.model import (
    Entry,
    Facts,
    File,
    Model,
    Rejected,
    assemble,
    drift,
    slug,
    table,
    tier_of,
)

FACTS = Facts(
    architecture="llama",
    kind="model",
    name="Test",
    file_type=15,
    tensor_type="Q4_K",
    tensor_count=3,
    parameter_count=1000,
    context_length=4096,
    shape={"embedding_length": 8},
    projection_dim=None,
    split_number=None,
    split_count=None,
    split_tensors=None,
    tensor_names="",
    fingerprint="f" * 64,
)


def entry(path, size=100, inode=None, sha256=None, **facts):
    folder = path.rpartition("/")[0]
    stem = model.stem(path)
    file = File(path, size, 1, inode or hash(path), 1, stem, folder, tuple(reversed(folder.strip("/").split("/"))))
    return Entry(file, replace(FACTS, **facts), sha256)


def shards(total, prefix="/m/big-Q4_K_M", **changes):
    """A whole set; ``changes`` maps a number to facts that differ, or to None for a missing one."""
    found = []
    for number in range(1, total + 1):
        changed = changes.get(f"n{number}", {})
        if changed is not None:
            facts = {
                "split_number": number - 1,
                "split_count": total,
                "split_tensors": total,
                "tensor_count": 1,
                "tensor_names": f"{number:08x}",
                "architecture": "llama" if number == 1 else None,
                **changed,
            }
            found.append(entry(f"{prefix}-{number:05}-of-{total:05}.gguf", **facts))
    return found


def by_id(entries):
    return {model.id: model for model in assemble(entries).models}


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
    assert {tier_of(name) for name in model.FILE_TYPES.values()} == set(TIERS) - {"unknown"}


@pytest.mark.parametrize(
    ("path", "facts", "expected"),
    [
        ("/m/DeepSeek-R1-Qwen3-8B-Q2_K.gguf", {}, "deepseek-r1-qwen3-8b-q2_k"),
        ("/m/SmolLM2-135M-Instruct.Q4_1.GGUF", {}, "smollm2-135m-instruct.q4_1"),
        ("/m/plain.gguf", {}, "plain-q4_k_m"),
        ("/m/plain.gguf", {"file_type": 57}, "plain-unknown-57"),
        ("/m/gpt-oss-20b-mxfp4.gguf", {"file_type": 38}, "gpt-oss-20b-mxfp4"),
        ("/m/model-f16.gguf", {}, "model-f16"),
        ("/m/Ünï cödé-Q8_0.gguf", {}, "uni-code-q8_0"),
        ("/m/-rf; $(x) `y`\n[Service]-Q4_0.gguf", {}, "rf-x-y-service-q4_0"),
        ("/m/..gguf", {}, "q4_k_m"),
    ],
)
def test_ids(path, facts, expected):
    assert list(by_id([entry(path, **facts)])) == [expected]


@pytest.mark.parametrize("text", ["", "...", "模型", "🦙", "a" * 500, "-", "\x1b[31m", "x\0y", "..-/../x"])
def test_a_slug_is_always_a_slug(text):
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,119}", slug(text))


def test_different_names_without_latin_letters_have_different_slugs():
    assert slug("模型") != slug("模形")


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
    assert model.quantization_of(replace(FACTS, **facts), name) == expected


@pytest.mark.parametrize(
    ("general_name", "stem", "expected"),
    [
        ("DeepSeek R1 Qwen3 8B", "x-Q2_K", "DeepSeek R1 Qwen3 8B (Q4_K_M)"),
        (None, "Qwen3-8B-Q4_K_M", "Qwen3-8B (Q4_K_M)"),
        (None, "Q4_K_M", "unnamed (Q4_K_M)"),
    ],
)
def test_display_names(general_name, stem, expected):
    assert model.display_name_of(replace(FACTS, name=general_name), stem, "Q4_K_M") == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("{{ lookup('pipe', 'touch X') }} %n $HOME", "{{ lookup('pipe', 'touch X') }} %n $HOME"),
        ("a\n[Service]\nExecStart=x", "a [Service] ExecStart=x"),
        ("\x1b[31mred\x1b[0m\0", "[31mred [0m"),
        ("right\u202eleft", "right left"),
        ("x" * (1 << 20), "x" * 200),
        (" \n\t ", None),
        (4711, None),
    ],
)
def test_names_that_files_give_themselves_become_one_line(value, expected):
    assert model._text(value) == expected


FAULTS = {
    "missing": (shards(3, n2=None), "shard_missing"),
    "the first missing": (shards(3, n1=None), "shard_missing"),
    "of two counts": (shards(3, n2={"split_count": 4}), "shard_mixed"),
    "without split keys": (shards(2, n2={"split_count": None, "architecture": "llama"}), "shard_mixed"),
    "numbered twice": (shards(3, n2={"split_number": 2}), "shard_misnumbered"),
    "without number": (shards(3, n2={"split_number": None, "architecture": "llama"}), "shard_misnumbered"),
    "of models of different size": (shards(3, n3={"split_tensors": 4}), "shard_mixed"),
    "with tensors twice": (shards(3, n3={"tensor_names": f"{1:08x}"}), "shard_mixed"),
    "with too few tensors": (shards(3, n3={"tensor_names": ""}), "shard_mixed"),
    "numbered beyond the total": (
        [*shards(2), entry("/m/big-Q4_K_M-00003-of-00002.gguf")],
        "shard_misnumbered",
    ),
    "renamed": ([entry("/m/renamed.gguf", split_number=0, split_count=3)], "shard_misnamed"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_faulty_set_of_shards_is_one_rejected_entry(kind):
    entries, code = FAULTS[kind]
    inventory = assemble(entries)
    assert [item.code for item in inventory.rejected] == [code]
    assert inventory.models == ()
    assert inventory.rejected[0].reason.startswith(entries[0].file.path)


def test_a_whole_set_is_one_model_of_all_shards_in_order():
    inventory = assemble(reversed(shards(12)))
    (model,) = inventory.models
    assert (model.id, model.size_bytes, model.parameter_count) == ("big-q4_k_m", 1200, 12000)
    assert [file["path"][-19:-14] for file in model.files] == [f"{number:05}" for number in range(1, 13)]
    assert model.path.endswith("-00001-of-00012.gguf")
    assert inventory.rejected == ()


def test_a_set_with_a_refused_shard_is_one_rejected_entry_with_its_cause():
    bad = Rejected("big", "/m/big-Q4_K_M-00002-of-00003.gguf", "key_type", "shard 2 is corrupt.")
    inventory = assemble(shards(3, n2=None), [bad])
    (item,) = inventory.rejected
    assert (item.code, item.id, item.path) == (
        "shard_unusable",
        "big-q4_k_m",
        "/m/big-Q4_K_M-00001-of-00003.gguf",
    )
    assert "shard 2 is corrupt" in item.reason


ASIDE = {
    "projector": ({"architecture": "clip"}, "mmproj"),
    "projector by type": ({"kind": "mmproj"}, "mmproj"),
    "adapter": ({"kind": "adapter"}, "adapter"),
    "control vector": ({"architecture": "controlvector"}, "control_vector"),
    "imatrix": ({"kind": "imatrix", "architecture": None}, "imatrix"),
    "no architecture": ({"architecture": None}, "no_architecture"),
    "vocabulary": ({"tensor_count": 0}, "vocab_only"),
}


@pytest.mark.parametrize("kind", ASIDE)
def test_what_is_no_model_is_set_aside_with_a_reason(kind):
    facts, code = ASIDE[kind]
    inventory = assemble([entry("/m/x.gguf", **facts)])
    assert inventory.models == ()
    (item,) = [*inventory.companions, *inventory.rejected]
    assert getattr(item, "kind", None) or item.code == code
    assert item.reason.startswith("/m/x.gguf")
    assert item.reason.endswith(".")


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
    assert {model_id: model.mmproj and model.mmproj["path"] for model_id, model in found.items()} == paths
    paired = {item.path: item.models for item in assemble(entries).companions}
    for model_id, path in paths.items():
        assert path is None or model_id in paired[path]


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


def test_a_model_travels_through_json():
    (model,) = assemble(shards(2)).models
    assert Model.from_dict(json.loads(json.dumps(model.to_dict()))) == model


def variant(size=1, fingerprint="a", sha256=None):
    return {"id": "x", "size_bytes": size, "fingerprint": fingerprint, "sha256": sha256}


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ({"a": variant(), "b": variant()}, []),
        ({"a": variant(), "b": variant(size=2), "c": variant(size=2)}, [["b", "c"], ["a"]]),
        ({"a": variant(), "b": variant(fingerprint="b")}, [["a"], ["b"]]),
        ({"a": variant(sha256="1"), "b": variant(sha256="2")}, [["a"], ["b"]]),
        ({"a": variant(sha256="1"), "b": variant(sha256=None)}, []),
        ({"a": variant()}, []),
    ],
)
def test_drift(hosts, expected):
    found = drift({host: [model] for host, model in hosts.items()})
    assert [[item["hosts"] for item in each["variants"]] for each in found] == ([expected] if expected else [])
    assert all(each["id"] == "x" for each in found)


def test_the_table_lists_models_and_what_was_set_aside():
    inventory = assemble(
        [
            entry("/m/x-Q4_K_M.gguf", size=5 << 30, parameter_count=8_190_000_000),
            entry("/m/v.gguf", tensor_count=0),
        ]
    )
    assert table(inventory.to_dict()) == [
        "ID        TIER     SIZE  PARAMETERS  CONTEXT  PATH",
        "x-q4_k_m  Q4    5.0 GiB       8.2 B     4096  /m/x-Q4_K_M.gguf",
        "",
        "Set aside:",
        "  /m/v.gguf holds a vocabulary and no weights.",
    ]


def test_an_empty_table_has_its_head():
    assert table({"models": [], "companions": [], "rejected": []}) == ["ID  TIER  SIZE  PARAMETERS  CONTEXT  PATH"]
