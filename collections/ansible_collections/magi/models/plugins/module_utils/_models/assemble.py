# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From the facts of GGUF files to models. Pure.

A model is one servable GGUF file or one complete set of shards. Everything else is a companion (it serves a
model: a projector, an adapter) or rejected, each with a code for programs and a sentence for people.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ansible_collections.magi.models.plugins.module_utils._base.text import one_line, printable
from ansible_collections.magi.models.plugins.module_utils._models.draft import Draft, assign_ids, merge_duplicates
from ansible_collections.magi.models.plugins.module_utils._models.facts import Facts
from ansible_collections.magi.models.plugins.module_utils._models.found import KnownFile
from ansible_collections.magi.models.plugins.module_utils._models.model import Companion, Inventory, Model, Rejected
from ansible_collections.magi.models.plugins.module_utils._models.naming import display_name_of, shard_of, stem
from ansible_collections.magi.models.plugins.module_utils._models.projectors import pair_projectors
from ansible_collections.magi.models.plugins.module_utils._models.quantization import quantization_of, tier_of
from ansible_collections.magi.models.plugins.module_utils._models.shards import misnamed, shard_fault


@dataclass
class _Shards:
    """The files that are named as shards of one set: those with facts, and those that were refused."""

    members: list[KnownFile] = field(default_factory=list)
    refused: list[Rejected] = field(default_factory=list)


def assemble(entries: Iterable[KnownFile], rejected: Iterable[Rejected] = ()) -> Inventory:
    """Sort readable files into models, companions and rejected; ``rejected`` is what was refused before."""
    refused: list[Rejected] = []
    shards: dict[tuple[str, str, int], _Shards] = defaultdict(_Shards)
    for item in rejected:
        shard = shard_of(stem(item.path))
        if shard:
            shards[item.path.rpartition("/")[0], shard[0], shard[2]].refused.append(item)
        else:
            refused.append(item)
    drafts, companions = [], []
    for entry in sorted(entries, key=lambda entry: entry.file.path):
        file, facts = entry.file, entry.facts
        shard = shard_of(file.name)
        kind, reason = _companion_kind(facts), _set_aside(facts)
        if kind:
            companions.append((kind, entry))
        elif reason:
            refused.append(Rejected.of(file.path, file.name, *reason))
        elif shard:
            shards[file.folder, shard[0], shard[2]].members.append(entry)
        elif (facts.split_count or 0) > 1:
            refused.append(Rejected.of(file.path, file.name, *misnamed(facts)))
        else:
            drafts.append(Draft([entry], file.name, quantization_of(facts, file.name)))
    for (_folder, prefix, total), found in sorted(shards.items()):
        members = found.members
        reason = shard_fault(members, total, found.refused)
        if reason:
            first = min([entry.file.path for entry in members] + [item.path for item in found.refused])
            refused.append(Rejected.of(first, prefix, *reason))
        else:
            drafts.append(Draft(members, prefix, quantization_of(members[0].facts, prefix)))
    drafts = merge_duplicates(drafts)
    assign_ids(drafts)
    paired = pair_projectors(drafts, [entry for kind, entry in companions if kind == "mmproj"])
    return Inventory(
        models=tuple(sorted((_model(draft) for draft in drafts), key=lambda model: model.id)),
        companions=tuple(_companion(kind, entry, paired.get(entry.file.path, ())) for kind, entry in companions),
        rejected=tuple(sorted(refused, key=lambda item: (item.path, item.code))),
    )


def _companion_kind(facts: Facts) -> str | None:
    """llama.cpp gguf-py/gguf/constants.py GGUFType; projectors older than general.type are of clip."""
    if facts.kind == "adapter":
        return "adapter"
    if facts.kind == "mmproj" or facts.architecture == "clip":
        return "mmproj"
    if facts.architecture == "controlvector":
        return "control_vector"
    return None


def _set_aside(facts: Facts) -> tuple[str, str] | None:
    """Code and reason why a well-formed file is not a model."""
    if facts.kind == "imatrix":
        return "imatrix", "is an importance matrix for quantizing, not a model"
    if facts.architecture is None and not facts.split_number:  # a later shard names none
        return (
            "no_architecture",
            "names no architecture (general.architecture), so llama-server cannot load it",
        )
    if facts.tensor_count == 0 and (facts.split_count or 0) < 2:
        return "vocab_only", "holds a vocabulary and no weights"
    return None


def _model(draft: Draft) -> Model:
    facts = draft.first.facts
    digests = [entry.sha256 for entry in draft.entries if entry.sha256]
    return Model(
        id=draft.id,
        display_name=display_name_of(facts, draft.name, draft.quantization),
        quantization=draft.quantization,
        tier=tier_of(draft.quantization),
        path=draft.first.file.path,
        files=tuple(entry.file.version for entry in draft.entries),
        size_bytes=sum(entry.file.size for entry in draft.entries),
        architecture=facts.architecture or "",
        parameter_count=sum(entry.facts.parameter_count for entry in draft.entries),
        context_length=facts.context_length,
        shape=facts.shape,
        mmproj=draft.mmproj.version if draft.mmproj else None,
        duplicates=tuple(sorted(draft.duplicates)),
        fingerprint=_combined([entry.facts.fingerprint for entry in draft.entries]),
        sha256=_combined(digests) if len(digests) == len(draft.entries) else None,
    )


def _combined(digests: Sequence[str]) -> str:
    """One file's digest as it is; the digest of several, in order."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _companion(kind: str, entry: KnownFile, models: tuple[str, ...]) -> Companion:
    what = {"mmproj": "a projector", "adapter": "an adapter", "control_vector": "a control vector"}[kind]
    if kind != "mmproj":
        use = f"serve it with one by the option {'lora' if kind == 'adapter' else 'control_vector'}"
    elif models:
        use = f"it is served with {', '.join(models)}"
    else:
        use = "none beside it fits; give it to one by the option mmproj"
    return Companion(
        path=entry.file.path,
        kind=kind,
        name=entry.facts.name or one_line(entry.file.name) or "",
        architecture=entry.facts.architecture,
        size_bytes=entry.file.size,
        models=models,
        reason=f"{printable(entry.file.path)} is {what} and not a model by itself: {use}.",
    )
