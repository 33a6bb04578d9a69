# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether files with the names of a model's shards make a model. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ansible_collections.magi.models.plugins.module_utils._base.text import counted
from ansible_collections.magi.models.plugins.module_utils._models.facts import Facts
from ansible_collections.magi.models.plugins.module_utils._models.found import KnownFile
from ansible_collections.magi.models.plugins.module_utils._models.model import Rejected
from ansible_collections.magi.models.plugins.module_utils._models.naming import shard_of


def misnamed(facts: Facts) -> tuple[str, str]:
    """Code and reason why a shard without a shard's name can't be served."""
    return "shard_misnamed", (
        f"is one of {facts.split_count} shards but not named like one (…-00001-of-{facts.split_count:05}.gguf); "
        "give it back its name, so that llama-server finds the others"
    )


def shard_fault(members: Sequence[KnownFile], total: int, refused: Sequence[Rejected] = ()) -> tuple[str, str] | None:
    """Code and reason why shards with one name don't make a model, the first that a check finds; None if they do.

    llama.cpp src/llama-model-loader.cpp finds the others by the first one's name, and checks split.count,
    split.no, the names of the tensors and their number.
    """
    if refused:
        return "shard_unusable", f"is an incomplete set of {total} shards: {refused[0].reason.rstrip('.')}"
    numbers = {shard[1]: entry for entry in members if (shard := shard_of(entry.file.name))}
    missing = [number for number in range(1, total + 1) if number not in numbers]
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (", …" if len(missing) > 10 else "")
        return "shard_missing", f"is incomplete: shard {shown} of {total} is missing; download the whole set"
    if len(numbers) > total:
        return (
            "shard_misnumbered",
            f"has shards numbered beyond {total}, or from 0; download the whole set again",
        )
    for number, entry in sorted(numbers.items()):
        facts = entry.facts
        if facts.split_count != total:
            return "shard_mixed", (
                f"is mixed up: shard {number} says that it belongs to {counted(facts.split_count or 1, 'shard')}, "
                f"but its name says {total}; download the whole set again"
            )
        if facts.split_number != number - 1:
            said = "no number" if facts.split_number is None else f"number {facts.split_number + 1}"
            return "shard_misnumbered", (
                f"is mixed up: the file named shard {number} says that it has {said}; give the shards back their names"
            )
    if len({entry.facts.split_tensors for entry in members} - {None}) != 1:
        return "shard_mixed", "is mixed up: its shards belong to different models; download the whole set again"
    names = "".join(entry.facts.tensor_names for entry in members)
    each = Counter(names[start : start + 8] for start in range(0, len(names), 8))
    found, wanted = sum(each.values()), members[0].facts.split_tensors
    if found != wanted or max(each.values(), default=1) > 1:
        what = f"{found} tensors, not {wanted}" if found != wanted else "tensors twice"
        return "shard_mixed", f"is mixed up: its shards together have {what}; download the whole set again"
    return None
