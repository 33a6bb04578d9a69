# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which of a host's GPUs each instance gets: best fit, and what runs stays where it is. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """What an instance asks of the GPUs of its host."""

    name: str
    among: tuple[str, ...]
    """The GPUs that it may get, in llama-server's order."""
    ways: tuple[tuple[int, ...], ...]
    """How it can run, the fewest GPUs first: the bytes that it needs of each."""
    now: tuple[str, ...] = ()
    """The GPUs that it was started with last."""
    holds: tuple[int, ...] = ()
    """What it holds of each of these while it runs, in bytes."""


def allocate(
    candidates: Sequence[Candidate], room: Mapping[str, int], sizes: Mapping[str, int]
) -> dict[str, tuple[str, ...]]:
    """Return by name the GPUs of each instance.

    ``room`` are the bytes that instances can have of each GPU, ``sizes`` those that they could have of an empty one.

    An instance keeps its GPUs while it fits there, and where it holds already what it needs. The others follow, the
    largest first, each on the GPU with the least room that is enough. One gets more GPUs than the fewest only if it is
    too large for these when they are empty. One that fits nowhere gets those with the most room, and takes nothing
    there: it can't start.
    """
    left = dict(room)
    found: dict[str, tuple[str, ...]] = {}

    def fits(chosen: Sequence[str], way: Sequence[int], there: Mapping[str, int]) -> bool:
        return all(size <= there.get(device, 0) for device, size in zip(chosen, way))

    def give(candidate: Candidate, chosen: tuple[str, ...], way: Sequence[int]) -> None:
        found[candidate.name] = chosen
        left.update({device: left.get(device, 0) - size for device, size in zip(chosen, way)})

    def best(candidate: Candidate, way: Sequence[int]) -> tuple[str, ...]:
        if len(way) >= len(candidate.among):
            return candidate.among
        by_room = sorted(candidate.among, key=lambda device: left.get(device, 0))
        enough = [device for device in by_room if left.get(device, 0) >= max(way)]
        chosen = enough[: len(way)] if len(enough) >= len(way) else by_room[-len(way) :]
        return tuple(device for device in candidate.among if device in chosen)

    def way_of(candidate: Candidate) -> tuple[int, ...]:
        """Return the way with the fewest GPUs for which it is not too large; if it is for all, that which lacks least,
        so that the remedy is the smallest."""
        empty = sorted((sizes.get(device, 0) for device in candidate.among), reverse=True)

        def lacks(way: tuple[int, ...]) -> int:
            return sum(max(size - have, 0) for size, have in zip(sorted(way, reverse=True), empty))

        return min(candidate.ways, key=lacks)

    chosen_ways = {candidate.name: way_of(candidate) for candidate in candidates}
    others = []
    for candidate in candidates:
        way = chosen_ways[candidate.name]
        there = len(candidate.now) == len(way) and {*candidate.now} <= {*candidate.among}
        holds = candidate.holds and all(size <= held for size, held in zip(way, candidate.holds))
        if there and (holds or fits(candidate.now, way, left)):
            give(candidate, candidate.now, way)
        else:
            others.append(candidate)
    for candidate in sorted(others, key=lambda candidate: -sum(chosen_ways[candidate.name])):
        way = chosen_ways[candidate.name]
        chosen = best(candidate, way)
        if fits(chosen, way, left):
            give(candidate, chosen, way)
        else:
            found[candidate.name] = chosen
    return found
