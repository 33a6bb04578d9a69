# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Copies, and checksums."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.magi.models.plugins.module_utils._models import digests
from ansible_collections.magi.models.tests.unit.plugins.module_utils._models.folders import (
    look,
    scanned,
)
from ansible_collections.magi.models.tests.unit.plugins.module_utils.gguf_files import (
    Tensor,
    model,
    write,
)


def test_copies_are_one_model_and_look_alikes_are_not(tmp_path):
    tensors = [Tensor("w", (64, 1024))]
    write(tmp_path / "m/a.gguf", model(tensors=tensors, fill=b"\1"))
    write(tmp_path / "m/b.gguf", model(tensors=tensors, fill=b"\1"))
    write(tmp_path / "m/c.gguf", model(tensors=tensors, fill=b"\2"))
    data = bytearray(model(tensors=tensors, fill=b"\1"))
    data[-200_000] ^= 1  # outside the samples
    write(tmp_path / "m/d.gguf", bytes(data))
    found = {
        item.id: [Path(path).name for path in item.duplicates] for item in scanned(tmp_path / "m").inventory.models
    }
    assert found == {"a-f32": ["b.gguf"], "c-f32": [], "d-f32": []}


def test_checksums_are_computed_once(tmp_path, registry_path, monkeypatch):
    write(tmp_path / "m/x.gguf", model())
    assert look(tmp_path, registry_path).registry.inventory.models[0].sha256 is None
    outcome = look(tmp_path, registry_path, checksum=True)
    assert outcome.changed
    digest = outcome.registry.inventory.models[0].sha256
    assert len(digest) == 64
    monkeypatch.setattr(digests, "sha256_of", None)
    assert look(tmp_path, registry_path, checksum=True).source == "cache"
    assert look(tmp_path, registry_path).registry.inventory.models[0].sha256 == digest
