# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""On which hosts the replicas of a profile run: where they run already, then spread over those that have room. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.magi.models.plugins.module_utils._base.text import counted
from ansible_collections.magi.models.plugins.module_utils._llama.need import HOST, Need, shown
from ansible_collections.magi.models.plugins.module_utils._plan.ledger import Book, Shortage, name_of


@dataclass(frozen=True)
class Room:
    """What a host has left for more replicas, while all that stays there stays."""

    left: Mapping[str, int] = field(default_factory=dict)
    """Bytes by device and HOST; one that is not named is not counted."""
    files: Mapping[str, int] = field(default_factory=dict)
    """By path, the bytes of weights that servers there share already."""
    ports: int = 65535
    """So many more instances can have a port."""
    strict: bool = True
    """Whether what does not fit is refused; if not, it comes here where nobody has room."""


@dataclass(frozen=True)
class Opening:
    """What a host has for a model."""

    runs: int = 0
    """How many replicas it has now."""
    needs: tuple[Need, ...] = ()
    """What one more would need: one of these, as it may use one device or another; () if that is not known."""
    path: str = ""
    fixed: bool = False
    """Nothing can be changed there, and what runs there counts."""


@dataclass(frozen=True)
class Want:
    """A model of which so many replicas are to run."""

    where: str
    """The entry of the profile, for people."""
    model: str
    replicas: int
    offers: Mapping[str, Opening]
    """By host, those that have the model, or had a replica of it that stays."""
    last: tuple[str, ...] = ()
    """The hosts that had the replicas when one was last placed, as far as one that runs tells."""
    gone: Mapping[str, str] = field(default_factory=dict)
    """Hosts that are no offer and may have had one, and why they are none (``can't be reached``)."""
    failing: Mapping[str, str] = field(default_factory=dict)
    """Hosts that get none, and why: their own plans fail, or would with one more."""
    frozen: str = ""
    """Why nothing may be changed; then each host keeps what it has."""


@dataclass(frozen=True)
class Placed:
    """Where the replicas of a model run from now on."""

    counts: Mapping[str, int]
    """By host, of all offers."""
    why: Mapping[str, str] = field(default_factory=dict)
    """By host, why what is new comes there, or what is too many ends."""
    moved: frozenset[str] = frozenset()
    """The hosts that get what one had that is gone."""


@dataclass(frozen=True)
class Short:
    """A model of which not all replicas have a place."""

    want: Want
    placed: int
    lacking: Mapping[str, Sequence[Shortage]]
    """By host, what one more would lack there."""
    full: tuple[str, ...] = ()
    """The hosts that have no port for one more."""

    @property
    def sentence(self) -> str:
        """What is missing where, and the remedy."""
        want = self.want
        unable = {**want.gone, **want.failing}
        away = "; ".join(f"{host} {why}" for host, why in unable.items())
        if not want.offers:
            also = f" ({away})" if away else ""
            return (
                f"{want.where}: no host that it is for has {want.model}{also}, so there is no place for "
                f"{counted(want.replicas, 'replica')}: copy it to one, or correct the entry."
            )
        missing = want.replicas - self.placed
        short = {host: items for host, items in self.lacking.items() if items}
        first = next(iter(short.values()), ())
        needs = " and ".join(f"{shown(item.need)} of {name_of(item.device)}" for item in first)
        left = ", ".join(
            f"{host} has {' and '.join(f'{shown(item.left)} of {name_of(item.device)}' for item in items)}"
            for host, items in short.items()
        )
        said = f": each needs {needs}, and of the hosts that have the model {left} left" if first else ""
        full = ", ".join(self.full) + f" {'has' if len(self.full) == 1 else 'have'} no port left" if self.full else ""
        also = "".join(f"; {item}" for item in (full, away) if item)
        return (
            f"{want.where}: {self.placed} of {counted(want.replicas, 'replica')} have a place, {missing} "
            f"{'has' if missing == 1 else 'have'} none{said}{also}. Set replicas: {self.placed or 'fewer'}, lower "
            f"ctx_size, copy the model to another host, {_REMEDY[bool(self.full)]}."
        )


_REMEDY = {
    False: "or set model_server_memory: warn to try all the same",
    True: "widen model_server_port_range, or set model_server_memory: warn to try all the same",
}


@dataclass(frozen=True)
class Placement:
    placed: tuple[Placed, ...]
    """One for each want, in the same order."""
    short: tuple[Short, ...] = ()


def place(wants: Sequence[Want], rooms: Mapping[str, Room]) -> Placement:
    """Return where the replicas of ``wants`` run, on hosts with these ``rooms``; a host without one is not counted.

    What runs stays, also where another host has more room. If there are too many, those end first that were not there
    when one was last placed: they were on a host that was gone then. What is missing comes to the host that has fewest
    of its model, then fewest in all, then most room. The large come first, as they have least choice; where that leaves
    one without a place, those first that had none.
    """
    kept = [_kept(want) for want in wants]
    order = sorted(range(len(wants)), key=lambda i: -_size(wants[i]))
    found = _fill(wants, kept, rooms, order)
    for _again in range(len(wants)):
        if not found.short:
            break
        names = [item.want for item in found.short]
        first = [i for i in order if wants[i] in names]
        order = first + [i for i in order if i not in first]
        better = _fill(wants, kept, rooms, order)
        if sum(x.want.replicas - x.placed for x in better.short) >= sum(
            x.want.replicas - x.placed for x in found.short
        ):
            break
        found = better
    return found


def _size(want: Want) -> int:
    """Return the largest part of what one more needs, of a device or of the host's memory."""
    return max((max(need.own.values()) for x in want.offers.values() for need in x.needs), default=0)


def _kept(want: Want) -> Counter[str]:
    """Return by host how many of those that run stay."""
    counts = Counter({host: offer.runs for host, offer in want.offers.items()})
    last = Counter(want.last)
    hosts = list(want.offers)
    while not want.frozen and sum(counts.values()) > want.replicas:
        may = [host for host in hosts if counts[host] and not want.offers[host].fixed]
        if not may:
            break
        too_many = max(may, key=lambda x: (bool(last) and counts[x] > last[x], counts[x], hosts.index(x)))
        counts[too_many] -= 1
    return counts


class _Host:
    """A host while it is filled."""

    def __init__(self, room: Room | None) -> None:
        self.book = Book(room.left, room.files) if room else None
        self.strict = room is None or room.strict
        self.ports = room.ports if room else 65535
        self.total = 0

    def best(self, offer: Opening) -> tuple[Need | None, list[Shortage]]:
        """Return which need is met best, that which leaves least of its device; and what it lacks."""
        if self.book is None or not offer.needs:
            return None, []
        lacking = [self.book.lacking("", need, offer.path) for need in offer.needs]
        fits = [need for need, short in zip(offer.needs, lacking) if not short]
        if fits:
            return min(fits, key=lambda need: self._left(need, offer.path)), []
        return min(zip(offer.needs, lacking), key=lambda item: sum(short.missing for short in item[1]))

    def _left(self, need: Need, path: str) -> int:
        book = self.book
        asked = book.asked(need, path) if book else {}
        left = {device: book.left[device] - size for device, size in asked.items() if book and device in book.left}
        on_devices = [size for device, size in left.items() if device != HOST]
        return min(on_devices or left.values(), default=0)

    def room(self, need: Need | None, path: str) -> int:
        return self._left(need, path) if need else 0

    def give(self, need: Need | None, path: str) -> None:
        self.total += 1
        self.ports -= 1
        if self.book and need:
            self.book.give(need, path)


def _fill(
    wants: Sequence[Want], kept: Sequence[Counter[str]], rooms: Mapping[str, Room], order: Sequence[int]
) -> Placement:
    hosts = {name: _Host(rooms.get(name)) for want in wants for name in want.offers}
    for counts in kept:
        for name, count in counts.items():
            hosts[name].total += count
    found: dict[int, Placed] = {}
    shorts: dict[int, Short] = {}
    for i in order:
        want, counts = wants[i], kept[i].copy()
        if want.frozen:
            found[i] = Placed(dict(counts), dict.fromkeys(want.offers, want.frozen))
            continue
        while sum(counts.values()) < want.replicas:
            chosen = _next(want, counts, hosts)
            if chosen is None:
                changed = [host for host, offer in want.offers.items() if not offer.fixed]
                lacking = {host: hosts[host].best(want.offers[host])[1] for host in changed}
                full = tuple(host for host in changed if not hosts[host].ports)
                shorts[i] = Short(want, sum(counts.values()), lacking, full)
                break
            offer = want.offers[chosen]
            hosts[chosen].give(hosts[chosen].best(offer)[0], offer.path)
            counts[chosen] += 1
        found[i] = _explained(want, kept[i], counts)
    return Placement(tuple(found[i] for i in range(len(wants))), tuple(shorts[i] for i in sorted(shorts)))


def _next(want: Want, counts: Counter[str], hosts: Mapping[str, _Host]) -> str | None:
    """Return the host of the next replica; None: nobody has room."""
    fitting: list[tuple[tuple[int, int, int], str]] = []
    trying: list[tuple[tuple[int, int, int], str]] = []
    for name, offer in want.offers.items():
        host = hosts[name]
        if offer.fixed or not host.ports:
            continue
        need, short = host.best(offer)
        rank = (counts[name], host.total, -host.room(need, offer.path))
        if not short:
            fitting.append((rank, name))
        elif not host.strict:
            trying.append((rank, name))
    found = fitting or trying
    return min(found, key=lambda item: item[0])[1] if found else None


def _explained(want: Want, kept: Mapping[str, int], counts: Mapping[str, int]) -> Placed:
    """Return the counts with a reason for each host where they are not what they were."""
    homeless = Counter(want.last)
    homeless.subtract(kept)
    left = [host for host in dict.fromkeys(want.last) for _each in range(homeless[host]) if host in want.gone]
    why, moved = {}, set()
    there = [host for host in counts if counts[host]]
    choice = [host for host, offer in want.offers.items() if not offer.fixed]
    away = ", ".join(f"{name} {why}" for name, why in want.gone.items()) if not want.last else ""
    for host, offer in want.offers.items():
        new = counts[host] - kept[host]
        if new and left:
            came, left = left[:new], left[new:]
            reasons = ", ".join(f"{name}, which {want.gone[name]}" for name in dict.fromkeys(came))
            why[host] = f"moved from {reasons}"
            moved.add(host)
        elif new:
            share = f"{counts[host]} of {counted(want.replicas, 'replica')}"
            spread = f"spread over {', '.join(there)}" if len(there) > 1 else "where there is room"
            why[host] = "no other host that it is for has the model" if len(choice) == 1 else f"{share}, {spread}"
            if away:  # nobody is left who knows
                why[host] += f"; {away}, and may have had it"
                moved.add(host)
        elif offer.runs > kept[host]:
            others = [name for name in there if name != host]
            said = f", on {', '.join(others)}" if others else ""
            why[host] = f"{counted(want.replicas, 'replica')} {'is' if want.replicas == 1 else 'are'} enough{said}"
    return Placed(dict(counts), why, frozenset(moved))
