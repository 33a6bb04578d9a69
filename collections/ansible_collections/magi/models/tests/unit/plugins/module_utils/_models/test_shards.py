# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Sets of shards, whole and faulty."""

from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._models.assemble import assemble
from ansible_collections.magi.models.plugins.module_utils._models.model import Rejected
from ansible_collections.magi.models.tests.unit.plugins.module_utils._models.builders import entry, shards

FAULTS = {
    "missing": (shards(3, n2=None), "shard_missing"),
    "the first missing": (shards(3, n1=None), "shard_missing"),
    "of two counts": (shards(3, n2={"split_count": 4}), "shard_mixed"),
    "one without split keys": (shards(2, n2={"split_count": None, "architecture": "llama"}), "shard_mixed"),
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
    assert [file.path[-19:-14] for file in model.files] == [f"{number:05}" for number in range(1, 13)]
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


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("whole-Q4_K_M-00001-of-00001", {}),
        ("whole-Q4_K_M-00001-of-00001", {"split_number": 0, "split_count": 1, "split_tensors": 1}),
        # llama-gguf-split --merge leaves these keys, and people leave the name of the first shard
        ("whole-Q4_K_M-00001-of-00002", {"split_number": 0, "split_count": 0, "split_tensors": 1}),
    ],
)
def test_a_whole_model_may_be_named_like_a_shard(name, keys):
    inventory = assemble([entry(f"/m/{name}.gguf", **keys), *shards(2)])
    assert [model.id for model in inventory.models] == ["big-q4_k_m", "whole-q4_k_m"]
    assert inventory.rejected == ()


def test_two_whole_models_named_like_shards_of_one_are_two():
    inventory = assemble([entry(f"/m/x-Q4_0-0000{number}-of-00002.gguf") for number in (1, 2)])
    assert [model.id for model in inventory.models] == ["x-q4_0-00001-of-00002", "x-q4_0-00002-of-00002"]


def test_the_quantization_of_a_set_is_that_of_all_its_weights():
    found = shards(2, n1={"weights": {"Q4_K": 10}}, n2={"weights": {"Q8_0": 90}})
    assert [model.quantization for model in assemble(found).models] == ["Q8_0"]
