# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A model on its way: a set of files whose id and projector are not known yet. Pure."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ansible_collections.magi.models.plugins.module_utils._models.found import FoundFile, KnownFile
from ansible_collections.magi.models.plugins.module_utils._models.naming import MAX_ID, family, slug
from ansible_collections.magi.models.plugins.module_utils._models.quantization import quantization_in


@dataclass
class Draft:
    """A model on its way: a set of files whose id and projector are not known yet."""

    entries: Sequence[KnownFile]
    name: str
    quantization: str
    duplicates: list[str] = field(default_factory=list)
    id: str = ""
    mmproj: FoundFile | None = None

    @property
    def first(self) -> KnownFile:
        return self.entries[0]

    @property
    def family(self) -> str:
        return family(self.name)


def merge_duplicates(drafts: Sequence[Draft]) -> list[Draft]:
    """Byte-identical models become one, the first by path, which lists the others as duplicates."""
    kept: dict[tuple[str, ...], Draft] = {}
    for draft in sorted(drafts, key=lambda draft: (draft.first.file.superseded, draft.first.file.path)):
        first = kept.setdefault(tuple(entry.content for entry in draft.entries), draft)
        if first is not draft and draft.first.file.path != first.first.file.path:
            first.duplicates.append(draft.first.file.path)
    return list(kept.values())


def assign_ids(drafts: Sequence[Draft]) -> None:
    """Give each draft a unique id that depends on the set of files alone, not on their order.

    Drafts that would share an id get the name of the folder above in front, then of the one above that, and so
    on; those that still agree get a piece of a hash of their path.
    """
    for draft in drafts:
        mentioned = quantization_in(draft.name)
        draft.id = slug(draft.name if mentioned else f"{draft.name}-{draft.quantization}")
    base = {id(draft): draft.id for draft in drafts}
    for depth in range(1, 1 + max((len(draft.first.file.qualifiers) for draft in drafts), default=0)):
        taken = Counter(draft.id for draft in drafts)
        for draft in drafts:
            if taken[draft.id] > 1:
                draft.id = slug("-".join([*reversed(draft.first.file.qualifiers[:depth]), base[id(draft)]]))
    taken = Counter(draft.id for draft in drafts)
    for draft in drafts:
        if taken[draft.id] > 1:
            digest = hashlib.sha256(draft.first.file.path.encode()).hexdigest()[:8]
            draft.id = f"{draft.id[: MAX_ID - 9]}-{digest}"
