# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the instances of a plan need of their host's memory, and which of them don't fit. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._config.profile import Profile
from ansible_collections.magi.models.plugins.module_utils._host.values import Host, Running
from ansible_collections.magi.models.plugins.module_utils._llama.need import HOST, Need, Told
from ansible_collections.magi.models.plugins.module_utils._llama.options import Binary
from ansible_collections.magi.models.plugins.module_utils._models.model import Inventory
from ansible_collections.magi.models.plugins.module_utils._plan.allocation import Candidate, allocate
from ansible_collections.magi.models.plugins.module_utils._plan.devices import Devices, alone, told_of, ways
from ansible_collections.magi.models.plugins.module_utils._plan.estimate import context_of, estimate
from ansible_collections.magi.models.plugins.module_utils._plan.layers import variables_of
from ansible_collections.magi.models.plugins.module_utils._plan.ledger import (
    DEVICE_RESERVE,
    Ledger,
    Shortage,
    balance,
    planned_need,
    rooms,
)
from ansible_collections.magi.models.plugins.module_utils._plan.need import (
    MARGIN,
    Question,
    largest_context,
    need_of,
    on_devices,
    prompt_share,
    prompt_shares,
    prompts_of,
    question,
    sizes_of,
    together,
    within,
    work,
)
from ansible_collections.magi.models.plugins.module_utils._plan.refusal import Lacking
from ansible_collections.magi.models.plugins.module_utils._plan.select import Wanted
from ansible_collections.magi.models.plugins.module_utils._plan.values import Action, Instance, Settings
from ansible_collections.magi.models.plugins.module_utils._plan.worker import ESTIMATED, Remote


class Memory:
    """What the instances of a plan need of memory; nothing where nobody looks at it."""

    def __init__(
        self,
        inventory: Inventory,
        host: Host,
        settings: Settings,
        profile: Profile,
        told: Mapping[str, Told] | None,
        wanted: Sequence[Wanted],
        options: Mapping[str, dict[str, Any]],
        gpus: Mapping[str, Devices],
        beside: Sequence[Running] = (),
        remotes: Mapping[str, Remote] | None = None,
        workers: Sequence[Need | None] = (),
    ) -> None:
        """``told`` is what llama-fit-params said, by the key of the question; None: it was not asked. ``gpus`` are by
        name the devices that the instances may use; ``beside`` are instances that run on as they are, ``remotes`` by
        name the workers of instances here, ``workers`` what those for other hosts need."""
        self._remotes = remotes or {}
        self._host, self._wanted, self._options = host, wanted, options
        self._looked = settings.memory != "off"
        self._asked: dict[str, tuple[Question, Told]] = {}
        self._needs: dict[str, Need] = {}
        self._devices: dict[str, tuple[str, ...]] = {}
        self._got: dict[str, tuple[str, ...]] = {}
        shares = (min(sum("cache_ram" not in options[x.name] for x in item.each), item.at_once) for item in wanted)
        sharing = sum(shares) + sum(prompt_shares(item.environment) for item in beside)
        self._prompts = prompt_share(host.memory_bytes, sharing)
        if not self._looked or told is None or host.binary is None:
            return
        self._told, self._sizes = told, sizes_of(inventory)
        self._keeps = any("cache_ram" in option.names for option in host.binary.options)
        self._variables = {
            part.name: variables_of(profile, settings.environment, part)
            for item in wanted
            for part in (item, *item.members)
        }
        candidates, can = [], {}
        for item in wanted:
            found, own = gpus[item.name], self._variables[item.name]
            told_to = tuple(filter(None, str(options[item.name].get("device", "")).split(",")))
            self._devices[item.name] = told_to or host.binary.devices or () if found.there else ()
            if item.name in self._remotes:
                gpus_here = host.binary.default_devices if found.there else ()
                self._devices[item.name] = (*self._remotes[item.name].devices, *gpus_here)
            can[item.name] = ways(host.binary, options[item.name], own, settings.environment, item.entry.devices)
            self._ask(item, *can[item.name][-1:])
            if found.named and can[item.name]:
                candidates.append(self._candidate(item, can[item.name]))
        room, sizes = self._rooms(beside)
        for need in filter(None, workers):
            room = {device: size - need.own.get(device, 0) for device, size in room.items()}
        settled = {item.name for item in wanted} - {item.name for item in candidates}  # they have theirs already
        for name in settled:
            room = {device: size - self._needs[name].own.get(device, 0) for device, size in room.items()}
        for name, chosen in allocate(candidates, room, sizes).items():
            item = next(item for item in wanted if item.name == name)
            self._devices[name] = self._got[name] = chosen
            self._ask(item, next(way for way in can[name] if len(way) == len(chosen)), chosen)

    def _ask(self, item: Wanted, way: tuple[str, ...] = (), chosen: tuple[str, ...] = ()) -> None:
        """Set what is known of an instance on the GPUs ``chosen``, for which ``way`` were asked about."""
        if item.members:
            for part in item.members:
                self._devices[part.name] = self._devices[item.name]
                self._ask(part, way, chosen)
            self._needs[item.name] = self._pool(item, item.at_once)
            return
        given, binary = self._options[item.name], cast(Binary, self._host.binary)
        asked = question(binary, item.model, on_devices(given, way), self._variables[item.name])
        said = self._told.get(asked.key, Told((), "llama-fit-params was not asked"))
        if item.name in self._remotes:
            said = Told((), ESTIMATED)
        if chosen and chosen != way:
            names = dict(zip(way, chosen))
            said = said._replace(
                rows=tuple(row._replace(device=names.get(row.device, row.device)) for row in said.rows)
            )
            asked = question(binary, item.model, on_devices(given, chosen), self._variables[item.name])
        prompts = prompts_of({"cache_ram": self._prompts, **given}) if self._keeps else 0
        devices = chosen or self._devices[item.name]
        self._asked[item.name] = asked, said
        self._needs[item.name] = need_of(item.model, given, said, devices, prompts, self._sizes)

    def _pool(self, item: Wanted, loaded: int) -> Need:
        return together([self._needs[part.name] for part in item.members], loaded)

    def _candidate(self, item: Wanted, can: tuple[tuple[str, ...], ...]) -> Candidate:
        needs = []
        for way in can:
            self._ask(item, way, way)
            needs.append(tuple(self._needs[item.name].own.get(device, 0) for device in way))
        among = cast(Binary, self._host.binary).default_devices
        there = next((there for there in self._host.instances if there.name == item.name), None)
        now = tuple(filter(None, told_of(there.environment).split(","))) if there else ()
        held = planned_need(there.environment) if there and there.pid else None
        holds = tuple(held.own.get(device, 0) for device in now) if held else ()
        told_again = held and bool(held.estimated) != bool(self._needs[item.name].estimated)
        if told_again and {*now} <= {*among} and len(now) in map(len, can):  # no other server, only another number
            return Candidate(item.name, among, (holds,), now, holds)
        return Candidate(item.name, among, tuple(needs), now, holds)

    def _rooms(self, beside: Sequence[Running]) -> tuple[dict[str, int], dict[str, int]]:
        """Return what the instances can have of each GPU, and what they could have of an empty one."""
        held = {item.name: planned_need(item.environment) for item in self._host.instances}
        totals, room = rooms(self._host, held)
        for item in beside:
            need = held.get(item.name)
            room = {device: size - (need.own.get(device, 0) if need else 0) for device, size in room.items()}
        return room, {device: size - DEVICE_RESERVE for device, size in totals.items()}

    def devices(self, name: str, found: Devices) -> Devices:
        """Return the devices of an instance that may use those ``found``: those that it got, where some were given."""
        return alone(self._got[name]) if name in self._got else found

    @property
    def options(self) -> dict[str, str]:
        """The options that we set for the sake of memory: too little of it is an error, and no shorter context."""
        return {"fit": "off", "cache_ram": str(self._prompts)} if self._looked else {}

    def need(self, name: str) -> Need | None:
        return self._needs.get(name)

    def ledger(self, instances: Sequence[Instance], beside: Sequence[Running], actions: Iterable[Action]) -> Ledger:
        """Return the ledger of the host once ``instances`` run there, ``beside`` others that run on."""
        kinds = {item.instance: item.action for item in actions}
        there = [item for item in instances if kinds[item.name] is not ActionKind.QUARANTINE]
        if not any(item.need for item in there):
            return Ledger()
        return balance(self._host, there, beside, {x for x, kind in kinds.items() if kind is ActionKind.KEEP})

    def lacking(self, ledger: Ledger) -> list[Lacking]:
        """Return the instances that don't fit. One that is to adjust itself to the GPU (fit) does that."""
        short: dict[str, list[Shortage]] = {}
        for item in ledger.shortages:
            if item.instance not in self._options:  # a worker's
                continue
            adjusts = self._given(item.instance).get("fit", "off") == "on"
            if item.device == HOST or not adjusts:
                short.setdefault(item.instance, []).append(item)
        found: dict[str, Lacking] = {}
        for wanted in self._wanted:
            if wanted.name not in short:
                continue
            if wanted.members:
                found[wanted.name] = self._lacking_pool(wanted, short[wanted.name])
                continue
            asked, said = self._asked[wanted.name]
            before = found.get(asked.key)
            if before:
                found[asked.key] = replace(before, instances=(*before.instances, wanted.name))
                continue
            alike = sum(other.key == asked.key for other, _said in self._asked.values())
            context = context_of(wanted.model, self._given(wanted.name))
            estimated = bool(self._needs[wanted.name].estimated)
            mine = tuple(short[wanted.name])
            found[asked.key] = Lacking(wanted.where, (wanted.name,), alike, mine, estimated, asked, said, context)
        first = {item.name: item for item in self._wanted}
        return [
            replace(item, fits=self._fits(first[item.instances[0]], item))
            if item.estimated and not item.largest
            else item
            for item in found.values()
        ]

    def _lacking_pool(self, item: Wanted, short: Sequence[Shortage]) -> Lacking:
        """Return what a pool lacks, and with how many models in memory it would fit."""
        lacks = max(short, key=lambda x: x.missing)
        by_size = sorted(item.members, key=lambda part: -self._needs[part.name].total(lacks.device))
        largest = tuple(part.name for part in by_size[: item.at_once])
        fewer = (
            count
            for count in range(item.at_once - 1, 0, -1)
            if all(self._pool(item, count).total(x.device) <= x.left for x in short)
        )
        asked, said = self._asked[largest[0]]
        estimated = bool(self._needs[item.name].estimated)
        return Lacking(
            item.where, (item.name,), 1, tuple(short), estimated, asked, said, 0, next(fewer, 0), largest=largest
        )

    def _given(self, name: str) -> Mapping[str, Any]:
        return self._options[name]

    def _fits(self, item: Wanted, lacks: Lacking) -> int:
        """Return the context with which an instance would fit, by the estimate."""
        given, devices = self._given(item.name), self._devices[item.name]

        def at(context: int) -> dict[str, int]:
            rows = estimate(item.model, {**given, "ctx_size": context}, devices)
            return {device: int(size * MARGIN) for device, size in work(rows).items()}

        room = lacks.room(at(lacks.context))
        return largest_context(lacks.context, lambda context: within(at(context), room))

    def notes(self) -> list[str]:
        """Return a sentence on those whose need is an estimate, and on each that is split over several GPUs."""
        reasons: dict[str, list[str]] = {}
        for name, need in self._needs.items():
            if need.estimated and "router" not in need.parts:  # its models are named
                reasons.setdefault(need.estimated, []).append(name)
        split = [
            f"{item.name} is split over {', '.join(self._got[item.name])}, since it is too large for one GPU."
            for item in self._wanted
            if item.entry.devices is None and len(self._got.get(item.name, ())) > 1
        ]
        return split + [
            f"The memory that {', '.join(names)} need{'s' if len(names) == 1 else ''} is an estimate: {why}."
            for why, names in reasons.items()
        ]
