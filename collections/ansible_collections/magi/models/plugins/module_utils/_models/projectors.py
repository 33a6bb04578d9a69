# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which projector goes with which model. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from ansible_collections.magi.models.plugins.module_utils._models.draft import Draft
from ansible_collections.magi.models.plugins.module_utils._models.found import KnownFile
from ansible_collections.magi.models.plugins.module_utils._models.naming import family
from ansible_collections.magi.models.plugins.module_utils._models.quantization import quantization_of

_T = TypeVar("_T")


def pair_projectors(drafts: Sequence[Draft], projectors: Sequence[KnownFile]) -> dict[str, tuple[str, ...]]:
    """Give each draft the projector beside it, and return the ids that each projector is paired with.

    In one folder, a projector goes to the models whose name its own begins or continues; one whose name fits
    none goes to all if they are one model in several quantizations, else to those of the width it projects
    to. llama-server fails with a projector of another model, so no pair is better than a guess.
    """
    pairs: dict[str, list[str]] = defaultdict(list)
    for folder, group in _by_folder(drafts, lambda draft: draft.first.file.folder).items():
        beside = sorted(
            (entry for entry in projectors if entry.file.folder == folder),
            key=lambda entry: (_preference(entry), entry.file.path),
        )
        families = {draft.family for draft in group}
        for draft in group:
            for entry in beside:
                name = family(entry.file.name)
                fits = {other for other in families if name and (other.startswith(name) or name.startswith(other))}
                if draft.family in fits or (not fits and (len(families) == 1 or _projects_to(entry, draft))):
                    draft.mmproj = entry.file
                    pairs[entry.file.path].append(draft.id)
                    break
    return {path: tuple(sorted(ids)) for path, ids in pairs.items()}


def _by_folder(items: Iterable[_T], key: Callable[[_T], str]) -> dict[str, list[_T]]:
    folders: dict[str, list[_T]] = defaultdict(list)
    for item in items:
        folders[key(item)].append(item)
    return folders


def _preference(entry: KnownFile) -> int:
    """Projectors are small: F16 is what most are published and tested as."""
    order = ["F16", "BF16", "Q8_0", "F32"]
    quantization = quantization_of(entry.facts, entry.file.name)
    return order.index(quantization) if quantization in order else len(order)


def _projects_to(entry: KnownFile, draft: Draft) -> bool:
    width = draft.first.facts.shape.get("embedding_length")
    return width is not None and width == entry.facts.projection_dim
