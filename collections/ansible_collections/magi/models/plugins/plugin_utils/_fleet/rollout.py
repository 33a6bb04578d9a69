# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The order in which the hosts of a fleet are deployed, and when a rollout stops. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import HostResult, cause_of


@dataclass(frozen=True)
class Rollout:
    """The hosts in order, and how many of them make up each batch."""

    order: tuple[str, ...]
    batches: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        return {name: list(value) for name, value in asdict(self).items()}

    def parts(self) -> list[tuple[str, ...]]:
        """Return the hosts of each batch."""
        order = iter(self.order)
        return [tuple(itertools.islice(order, size)) for size in self.batches]

    def before(self, host: str) -> tuple[str, ...]:
        """Return the batch before that of ``host``; () if its own is the first."""
        batch: tuple[str, ...] = ()
        for here in self.parts():
            if host in here:
                break
            batch = here
        return batch


def roll_out(
    serving: Mapping[str, bool],
    serial: Sequence[int | str],
    apart: Sequence[Sequence[str]] = (),
    canary: Sequence[str] = (),
) -> Rollout:
    """Return the rollout over hosts; ``serving`` says by name whether something runs there. The hosts ``canary`` are
    the first batch, if there are any. For the others:

    All hosts are one batch if nothing runs yet, or ``serial`` is 100%; in the latter case, they are the batches
    ``apart`` if given. Else the hosts where nothing runs come first, since nobody misses them; the others follow in
    batches of ``serial``: numbers of hosts or percentages of these others (at least one host), repeating the last size
    until none is left.
    """
    if canary:
        later = {name: runs for name, runs in serving.items() if name not in canary}
        rest = [[name for name in batch if name in later] for batch in apart]
        after = roll_out(later, serial, [batch for batch in rest if batch]) if later else Rollout((), ())
        return Rollout((*canary, *after.order), (len(canary), *after.batches))
    idle = [name for name, runs in serving.items() if not runs]
    busy = [name for name, runs in serving.items() if runs]
    if not busy or list(serial) == ["100%"]:
        if not busy or len(apart) < 2:
            return Rollout(tuple(serving), (len(serving),))
        others = [name for name in serving if not any(name in batch for batch in apart)]
        together = [[*others, *apart[0]], *apart[1:]]
        return Rollout(tuple(itertools.chain(*together)), tuple(map(len, together)))
    batches = [len(idle)] if idle else []
    sizes = itertools.chain(serial, itertools.repeat(serial[-1]))
    while (left := len(serving) - sum(batches)) > 0:
        size = next(sizes)
        count = size if isinstance(size, int) else max(1, len(busy) * int(size.rstrip("%")) // 100)
        batches.append(min(count, left))
    return Rollout((*idle, *busy), tuple(batches))


def held_back(batch: Sequence[HostResult], max_fail_percentage: int) -> str:
    """Return why a rollout stops after this batch, or an empty string if it goes on.

    A host counts as failed if it was not deployed, or if one of its instances is not ready or is in quarantine: else
    each run would take what broke one batch to the next. As with Ansible's max_fail_percentage, at most that
    percentage of a batch may fail, but no canary. A batch that was held back itself holds back the next.
    """
    held = next((item.trouble.detail for item in batch if item.trouble and item.trouble.code == "held_back"), "")
    failed = [(result.name, why) for result in batch for why in _not_ready(result)[:1]]
    few = len(failed) * 100 <= max_fail_percentage * len(batch) and not any(item.worse for item in batch)
    if held or few:
        return held
    named = "; ".join(f"{name} failed: {why}" for name, why in failed)
    return f"not deployed, because in an earlier batch {named}; fix that and run again"


def _not_ready(result: HostResult) -> list[str]:
    whole = result.worse or result.trouble
    if whole:
        return [whole.detail.split("; ")[0]]  # without its remedy: the sentence ends with one
    causes = [(item.name, cause_of(item, result)) for item in result.served]
    return [f"{name} ({cause.code})" for name, cause in causes if cause]
