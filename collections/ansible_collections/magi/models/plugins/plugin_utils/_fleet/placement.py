# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From a profile and what hosts were found to have, to each host's share of it. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._config.profile import Entry, Profile
from ansible_collections.magi.models.plugins.module_utils._host.values import Host, Running, foreign_listeners
from ansible_collections.magi.models.plugins.module_utils._llama.need import HOST, MIB, Need
from ansible_collections.magi.models.plugins.module_utils._plan.build import build_plan
from ansible_collections.magi.models.plugins.module_utils._plan.ledger import balance
from ansible_collections.magi.models.plugins.module_utils._plan.need import PROMPTS
from ansible_collections.magi.models.plugins.module_utils._plan.select import select
from ansible_collections.magi.models.plugins.module_utils._plan.share import Siblings
from ansible_collections.magi.models.plugins.module_utils._plan.values import Plan, PlanError, Share
from ansible_collections.magi.models.plugins.module_utils._plan.worker import NO_RPC, Rpc
from ansible_collections.magi.models.plugins.plugin_utils._fleet.look import Fleet, Look, allowed_hosts
from ansible_collections.magi.models.plugins.plugin_utils._fleet.place import Opening, Placed, Room, Want, place
from ansible_collections.magi.models.plugins.plugin_utils._fleet.workers import spread, with_plans

_ALL_PORTS = (1, 65535)


@dataclass(frozen=True)
class Placing:
    """What the fleet decided."""

    shares: Mapping[str, Sequence[Mapping[str, Share] | None]]
    """By host, as build_plan takes them."""
    refused: str = ""
    """Why nothing is to be deployed: sentences, in numbers and with the remedy."""
    notes: tuple[str, ...] = ()
    """What each plan is to say."""
    failing: frozenset[str] = frozenset()
    """The hosts whose own plan fails, and says why: that is to be heard."""
    rpc: Mapping[str, Rpc] = field(default_factory=dict)
    """By host, as build_plan takes it."""


def placing(profile: Profile, fleet: Fleet) -> Placing:
    """Return what each host of ``fleet`` has of the entries of ``profile`` with replicas or hosts of their own."""
    entries = profile.entries
    refused = [
        f"{profile.where(index)}: hosts: {entry.hosts} matches none of the hosts in "
        "model_servers; correct the pattern, or leave it out."
        for index, entry in enumerate(entries)
        if entry.hosts is not None and not allowed_hosts(fleet, index)
    ]
    refused += [
        f"{profile.where(later)}: entry {first + 1} is for some of its hosts, too; give them hosts that exclude each "
        "other."
        for (first, other), (later, entry) in itertools.combinations(enumerate(entries), 2)
        if entry.kind == other.kind == "model" and entry.pattern == other.pattern
        if (entry.replicas or other.replicas or entry.rpc or other.rpc)
        and {*allowed_hosts(fleet, first)} & {*allowed_hosts(fleet, later)}
    ]
    found_workers = spread(profile, fleet)
    fleet = replace(fleet, allowed=found_workers.allowed)
    refused += found_workers.refused
    seen = {
        name: _Seen(name, look, profile, fleet, found_workers.of.get(name, NO_RPC))
        for name, look in fleet.looks.items()
    }
    wants = {
        (index, model): want
        for index, entry in enumerate(entries)
        if entry.replicas is not None and allowed_hosts(fleet, index)
        for model, want in _wants(index, entry, profile, fleet, seen)
    }
    pool = sum(want.replicas for want in wants.values())
    found = place([*wants.values()], {name: item.room(pool) for name, item in seen.items()})
    refused += [item.sentence for item in found.short]
    at = max((look.host.generation.began_at for look in fleet.looks.values()), default=0)
    placed = dict(zip(wants, found.placed))
    shares = {name: [_shares(i, entry, name, fleet, placed, at) for i, entry in enumerate(entries)] for name in seen}
    return Placing(
        shares,
        " ".join(refused),
        tuple(f"{want.model}: {want.frozen}." for want in wants.values() if want.frozen),
        frozenset(name for name, item in seen.items() if not item.works),
        with_plans(profile, fleet, shares, found_workers.of),
    )


def _shares(
    index: int, entry: Entry, host: str, fleet: Fleet, placed: Mapping[tuple[int, str], Placed], at: float
) -> dict[str, Share] | None:
    if entry.replicas is None:
        return None if host in allowed_hosts(fleet, index) else {}
    shares = {}
    for (number, model), item in placed.items():
        if number == index and host in item.counts:
            hosts = tuple(name for name in sorted(item.counts) for _each in range(item.counts[name]))
            since = str(Siblings(at, hosts))
            shares[model] = Share(item.counts[host], item.why.get(host, ""), since, host in item.moved)
    return shares


class _Seen:
    """What one host has for the entries with replicas."""

    def __init__(self, name: str, look: Look, profile: Profile, fleet: Fleet, rpc: Rpc) -> None:
        self.look, self.models, self._rpc = look, {}, rpc
        self._needs: dict[str, tuple[Need, ...]] = {}
        self._left: dict[str, int] = {}
        self._files: dict[str, int] = {}
        self._sharing, self._ports = False, 0
        self.takes_none = ""
        """Why no replica can come here, though the host's own plan works."""
        here = [name in allowed_hosts(fleet, index) for index in range(len(profile.entries))]
        inventory = look.inventory
        try:
            wanted, _missing = select(
                profile, inventory.models, (), name, look.host.instances, [None if x else {} for x in here]
            )
            self.models = {
                index: {item.model.id: item.model.path for item in wanted if item.entry is entry}
                for index, entry in enumerate(profile.entries)
                if entry.replicas is not None and here[index]
            }
            self.works = True
            trial = [
                {model: Share(max(self.runs(model), 1)) for model in self.models[index]}
                if index in self.models
                else None
                if x
                else {}
                for index, x in enumerate(here)
            ]
            if any(self.models.values()):
                self._weigh(name, profile, trial)
        except PlanError:  # its own plan says so
            self.works = False

    def runs(self, model: str) -> int:
        return len(replicas_of(model, self.look.host))

    def _weigh(self, name: str, profile: Profile, trial: Sequence[Mapping[str, Share] | None]) -> None:
        """Plan one replica of each model that has none here, and see what it needs, and what is left without."""
        look = self.look
        memory = "warn" if look.settings.memory == "refuse" else look.settings.memory

        def planned(shares: Sequence[Mapping[str, Share] | None]) -> Plan:
            return build_plan(
                host_name=name,
                profile=replace(profile, strict=False),
                inventory=look.inventory,
                host=look.host,
                settings=replace(look.settings, memory=memory, strict=False, port_range=_ALL_PORTS),
                scan_paths=look.scan_paths,
                needs=look.needs,
                shares=shares,
                rpc=self._rpc,
            )

        now = planned([x and {model: Share(self.runs(model)) for model in x} for x in trial])
        try:
            plan = planned(trial)
        except PlanError as error:
            self.takes_none = f"takes none ({str(error).rstrip('.')})"
            return
        entries = {model: profile.entries[index] for index, found in self.models.items() for model in found}
        for item in plan.instances:
            if item.model_id in entries and item.need:
                prompts = item.need.parts.get("prompts", 0) if "MAGI_PROMPTS" in item.environment else 0
                self._sharing |= bool(prompts)
                own = {**item.need.own, HOST: item.need.own.get(HOST, 0) - prompts}
                given = {**profile.options, **look.settings.options, **entries[item.model_id].options}
                self._needs[item.model_id] = _ways(replace(item.need, own=own), look.host, given)
        alone = {item.name: item.need.own for item in now.instances if item.need}
        stay = [
            replace(item, need=replace(item.need, own={**alone[item.name], HOST: item.need.own[HOST]}))
            for item in plan.instances
            if item.name in alone and item.need
        ]
        kept = {item.name for item in plan.kept}
        runs_on = [item for item in look.host.instances if item.name in kept]
        workers = [item for item in plan.workers if item.need]
        ledger = balance(look.host, [*stay, *workers], runs_on, {*plan.names(ActionKind.KEEP)})
        refused = {model for model in entries if not any(item.model_id == model for item in plan.instances)}
        self.models = {
            index: {model: path for model, path in found.items() if model not in refused}
            for index, found in self.models.items()
        }
        first, last = look.settings.port_range
        foreign = foreign_listeners(look.host.listeners, look.settings.host)
        free = sum(port not in foreign for port in range(first, last + 1))
        self._ports = max(free - len(now.instances) - len(now.workers) - len(runs_on), 0)
        self._left = {item.device: item.room - item.given for item in ledger.accounts}
        self._files = {item.model_path: item.need.mapped for item in stay if item.need}

    def offer(self, model: str, path: str) -> Opening:
        return Opening(self.runs(model), self._needs.get(model, ()), path, not self.works)

    def room(self, pool: int) -> Room:
        """Return what is left for replicas; so many may come. Their caches of prompts get a share of the host's memory
        together (prompt_share), however many there are."""
        left = dict(self._left)
        if self._sharing and HOST in left:
            left[HOST] -= min(self.look.host.memory_bytes // 8, pool * PROMPTS * MIB)
        return Room(left, self._files, self._ports, self.look.settings.memory == "refuse")


def _ways(need: Need, host: Host, options: Mapping[str, Any]) -> tuple[Need, ...]:
    """Return what an instance needs on each GPU that it may use instead of the only one that it uses now."""
    used = [device for device in need.own if device != HOST]
    alike = host.binary.default_devices if host.binary else ()
    if not used or not {*used} <= {*alike} or {"device", "main_gpu", "split_mode", "tensor_split"} & options.keys():
        return (need,)
    rest, sizes = {HOST: need.own[HOST]}, [need.own[device] for device in used]
    return tuple(
        replace(need, own={**dict(zip(chosen, sizes)), **rest}) for chosen in itertools.combinations(alike, len(used))
    )


def replicas_of(model: str, host: Host) -> list[Running]:
    """Return the instances of a model that a host has."""
    numbered = re.compile(rf"{re.escape(model)}(-[0-9]+)?")
    return [
        x for x in host.instances if x.environment.get("MAGI_MODEL_ID", model) == model and numbered.fullmatch(x.name)
    ]


def _wants(
    index: int, entry: Entry, profile: Profile, fleet: Fleet, seen: Mapping[str, _Seen]
) -> Iterator[tuple[str, Want]]:
    """Yield each model of an entry with replicas, and where it may run."""
    allowed = allowed_hosts(fleet, index)
    out = [name for name in allowed if name in fleet.left_out]
    frozen = f"--limit leaves out {', '.join(out)}, so its replicas stay as they are" if out else ""
    models = dict.fromkeys(model for item in seen.values() for model in item.models.get(index, ()))
    if not models and not frozen:
        models = {entry.pattern if entry.kind == "model" else f"a model of {entry}": None}
    for model in models:
        last = _last(model, fleet)
        offers: dict[str, Opening] = {}
        for name in allowed:
            item = seen.get(name)
            if item and item.takes_none:
                offers[name] = Opening(item.runs(model), fixed=True)
            elif item and model in item.models.get(index, ()) and (item.works or item.runs(model)):
                offers[name] = item.offer(model, item.models[index][model])
            elif item and item.works and (count := _runs_on(item.look, model)):
                offers[name] = Opening(count, fixed=True)
            elif not item and name not in (*fleet.away, *fleet.left_out) and last.count(name):
                offers[name] = Opening(last.count(name), fixed=True)  # it answers, but failed: what it has, it keeps
        names = dict.fromkeys((*last, *fleet.away))
        gone = {name: why for name in names if (why := _gone(name, allowed, fleet, offers))}
        here = {name: item for name, item in seen.items() if name in allowed}
        failing = {name: "has no plan, as it says itself" for name, item in here.items() if not item.works}
        failing |= {name: item.takes_none for name, item in here.items() if item.takes_none}
        where = profile.where(index)
        yield model, Want(where, model, entry.replicas or 0, offers, last, gone, failing, frozen)


def _runs_on(look: Look, model: str) -> int:
    """Return how many replicas run on a host that has their file no more, and run on as they are."""
    if look.settings.missing != "keep":
        return 0
    return sum(bool(item.pid) for item in replicas_of(model, look.host))


def _last(model: str, fleet: Fleet) -> tuple[str, ...]:
    """Return where the replicas were when one of those that run now was last placed."""
    told = (
        (Siblings.of(item.environment), look.host.generation.began_at)
        for look in fleet.looks.values()
        for item in replicas_of(model, look.host)
    )
    newest = max(told, key=lambda item: (item[0].at, item[1]), default=None)
    return newest[0].hosts if newest else ()


def _gone(name: str, allowed: Collection[str], fleet: Fleet, offers: Mapping[str, Opening]) -> str:
    """Return why a host is no offer that had a replica or may have one; or an empty string."""
    if name in offers:
        return ""
    if name in fleet.away:
        return "can't be reached" if name in allowed else ""
    if name not in fleet.hosts:
        return "is not in the inventory any more"
    return "is not one of its hosts any more" if name not in allowed else "does not have the model any more"
