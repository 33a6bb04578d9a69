# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files as a scan finds them, and whole sets of shards."""

from __future__ import annotations

from dataclasses import replace

from ansible_collections.magi.models.plugins.module_utils._models.assemble import assemble
from ansible_collections.magi.models.plugins.module_utils._models.facts import Facts
from ansible_collections.magi.models.plugins.module_utils._models.found import FoundFile, KnownFile
from ansible_collections.magi.models.plugins.module_utils._models.naming import stem

FACTS = Facts(
    architecture="llama",
    kind="model",
    name="Test",
    basename=None,
    size_label=None,
    finetune=None,
    file_type=15,
    weights={"Q4_K": 1000},
    parts=["a"],
    tensor_count=3,
    parameter_count=1000,
    context_length=4096,
    shape={"embedding_length": 8},
    pooling=None,
    has_vision=False,
    layers=0,
    nextn_layers=None,
    deepstack=None,
    projector_types=[],
    projector_width=None,
    has_text_encoder=False,
    split_number=None,
    split_count=None,
    split_tensors=None,
    tensor_names="",
    fingerprint="f" * 64,
)


def entry(path, size=100, inode=None, sha256=None, **facts):
    folder = path.rpartition("/")[0]
    file = FoundFile(
        path, size, 1, inode or hash(path), 1, stem(path), folder, tuple(reversed(folder.strip("/").split("/")))
    )
    return KnownFile(file, replace(FACTS, **facts), sha256)


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
