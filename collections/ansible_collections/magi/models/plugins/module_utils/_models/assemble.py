# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From the facts of GGUF files to models. Pure.

A model is one servable GGUF file or one complete set of shards. Everything else is a companion (it serves a
model: a projector, an adapter) or rejected, with a code for programs and a sentence for people.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.magi.models.plugins.module_utils._base.text import one_line, printable
from ansible_collections.magi.models.plugins.module_utils._models.draft import Draft, assign_ids, merge_duplicates
from ansible_collections.magi.models.plugins.module_utils._models.found import KnownFile
from ansible_collections.magi.models.plugins.module_utils._models.kinds import (
    companion_kind,
    drafts_by,
    set_aside,
    task_of,
)
from ansible_collections.magi.models.plugins.module_utils._models.model import Companion, Inventory, Model, Rejected
from ansible_collections.magi.models.plugins.module_utils._models.naming import display_name_of, shard_of, slug, stem
from ansible_collections.magi.models.plugins.module_utils._models.projectors import Pairing, made_for, pair_projectors
from ansible_collections.magi.models.plugins.module_utils._models.quantization import quantization_of, tier_of
from ansible_collections.magi.models.plugins.module_utils._models.shards import misnamed, shard_fault


@dataclass
class _Shards:
    """The files named as shards of one set: those with facts, and those that were refused."""

    members: list[KnownFile] = field(default_factory=list)
    refused: list[Rejected] = field(default_factory=list)


def assemble(entries: Iterable[KnownFile], rejected: Iterable[Rejected] = ()) -> Inventory:
    """Sort readable files into models, companions and rejected; ``rejected`` is what was refused before."""
    refused: list[Rejected] = []
    shards: dict[tuple[str, str, int], _Shards] = defaultdict(_Shards)
    units: list[tuple[str, Sequence[KnownFile]]] = []  # what is one thing, and its name
    for item in rejected:
        shard = shard_of(stem(item.path))
        if shard:
            shards[item.path.rpartition("/")[0], shard[0], shard[2]].refused.append(item)
        else:
            refused.append(item)
    for entry in sorted(entries, key=lambda entry: entry.file.path):
        shard = shard_of(entry.file.name)
        if shard:
            shards[entry.file.folder, shard[0], shard[2]].members.append(entry)
        else:
            units.append((entry.file.name, [entry]))
    for (_folder, prefix, total), found in sorted(shards.items()):
        members = found.members
        if not any((entry.facts.split_count or 0) > 1 for entry in members) and (members or total == 1):
            # Named like shards but not shards: the keys decide, as they do for llama.cpp.
            units += [(prefix if len(members) == 1 else entry.file.name, [entry]) for entry in members]
            refused += found.refused
            continue
        reason = shard_fault(members, total, found.refused)
        if reason:
            first = min([entry.file.path for entry in members] + [item.path for item in found.refused])
            refused.append(Rejected.of(first, prefix, *reason))
        else:
            units.append((prefix, members))
    drafts, companions = [], []
    for name, files in units:
        facts = files[0].facts
        kind = companion_kind(facts)
        reason = None if kind else set_aside(facts)
        if not reason and len(files) == 1 and (facts.split_count or 0) > 1:
            reason = misnamed(facts)
        if kind:
            companions.append((kind, name, files[0]))
        elif reason:
            refused.append(Rejected.of(files[0].file.path, name, *reason))
        else:
            drafts.append(Draft(files, name, _quantization(files, name)))
    merged = merge_duplicates(drafts)
    older = [draft for draft in merged if draft.first.file.superseded]
    drafts = [draft for draft in merged if not draft.first.file.superseded]
    assign_ids(drafts)
    paired = pair_projectors(drafts, [entry for kind, _name, entry in companions if kind == "mmproj"])
    refused += [_superseded(draft.name, draft.first) for draft in older]
    refused += [_superseded(name, entry) for _kind, name, entry in companions if _is_older(entry, paired)]
    return Inventory(
        models=tuple(sorted((_model(draft) for draft in drafts), key=lambda model: model.id)),
        companions=tuple(
            sorted(
                {
                    entry.file.path: _companion(kind, name, entry, paired.get(entry.file.path))
                    for kind, name, entry in companions
                    if not _is_older(entry, paired)
                }.values(),
                key=lambda item: item.path,
            )
        ),
        rejected=tuple(sorted(refused, key=lambda item: (item.path, item.code))),
    )


def _is_older(entry: KnownFile, paired: Mapping[str, Pairing]) -> bool:
    """Whether a companion is from an older revision, and no model that only that revision has needs it."""
    return entry.file.superseded and not (entry.file.path in paired and paired[entry.file.path].serves)


def _superseded(name: str, entry: KnownFile) -> Rejected:
    return Rejected.of(
        entry.file.path,
        name,
        "superseded",
        "is from another revision of its repository than the current one, which replaces it; remove it with hf cache "
        "prune, or name its folder in scan_paths to serve it",
    )


def _quantization(files: Sequence[KnownFile], name: str) -> str:
    weights: Counter[str] = Counter()
    for entry in files:
        weights.update(entry.facts.weights)
    return quantization_of(files[0].facts.file_type, weights, name)


def _model(draft: Draft) -> Model:
    facts = draft.first.facts
    digests = [entry.sha256 for entry in draft.entries if entry.sha256]
    return Model(
        id=draft.id,
        display_name=display_name_of(facts, draft.name, draft.quantization),
        quantization=draft.quantization,
        tier=tier_of(draft.quantization),
        task=task_of(facts),
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
    """One file's digest unchanged; for several, the digest of their digests in order."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _companion(kind: str, name: str, entry: KnownFile, pairing: Pairing | None) -> Companion:
    facts = entry.facts
    serves = pairing.serves if pairing else ()
    if kind == "mmproj":
        what = "a projector"
        if serves:
            use = f"it is served with {', '.join(serves)}"
        elif pairing:
            use = f"it also fits {', '.join(pairing.fits)}, but another projector is served with them"
        else:
            use = f"it fits no model in its folder or below ({made_for(entry)})"
    elif kind == "drafter":
        what = "a drafter"
        use = f"serve it with the model it drafts for, by the options model_draft and spec_type: {drafts_by(facts)}"
    else:
        what = "an adapter" if kind == "adapter" else "a control vector"
        use = f"serve it with one; set the option {'lora' if kind == 'adapter' else 'control_vector'}"
    return Companion(
        id=slug(name),
        path=entry.file.path,
        kind=kind,
        name=facts.name or one_line(entry.file.name) or "",
        architecture=facts.architecture,
        size_bytes=entry.file.size,
        models=serves,
        reason=f"{printable(entry.file.path)} is {what}, not a model by itself: {use}.",
    )
