# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The memory of a host as a ledger: what there is, what it is given to, and what does not fit. Pure.

No byte is counted twice. What runs and stays has what it needs, used or not; what ends gives its memory back, but only
once it has ended (``spare`` counts it as taken).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.magi.models.plugins.module_utils._host.values import Host, Running
from ansible_collections.magi.models.plugins.module_utils._llama.need import HOST, MIB, Need, shown
from ansible_collections.magi.models.plugins.module_utils._plan.need import ON_GPU, has_context
from ansible_collections.magi.models.plugins.module_utils._plan.values import Account, Instance

DEVICE_RESERVE = 512 * MIB
"""What stays free of each device. With what each process takes of it besides (ON_GPU), a device with one server keeps
the 1 GiB of llama.cpp's own fit-target."""


def host_reserve(memory: int) -> int:
    """Return what stays free of a host's memory: a twentieth, at most 1 GiB."""
    return min(memory // 20, 1024 * MIB)


@dataclass(frozen=True)
class Shortage:
    """An instance that is to start, and a device with too little left for it."""

    instance: str
    device: str
    need: int
    left: int

    @property
    def missing(self) -> int:
        return self.need - self.left


@dataclass(frozen=True)
class Ledger:
    accounts: tuple[Account, ...] = ()
    shortages: tuple[Shortage, ...] = ()


def need_text(need: Need) -> str:
    """Return a need as the variable of a process has it: what a running instance was planned with tells what it
    holds."""
    devices = (f"{device}={size}" for device, size in sorted(need.own.items()))
    return " ".join([*devices, f"mapped={need.mapped}", *(["estimated=1"] if need.estimated else ())])


def planned_need(environment: Mapping[str, str]) -> Need | None:
    """Return the need that an instance was started with, from its environment; None if that does not tell."""
    pairs = (part.partition("=") for part in environment.get("MAGI_NEED", "").split())
    sizes = {device: int(size) for device, _equals, size in pairs if size.isdecimal()}
    if HOST not in sizes:
        return None
    mapped, estimated = sizes.pop("mapped", 0), sizes.pop("estimated", 0)
    return Need(sizes, mapped, estimated="an estimate" if estimated else "")


def pool_needs_text(needs: Mapping[str, Need]) -> str:
    """Return what each model of a pool needs, by its id, as the variable of its process has it."""
    return ", ".join(f"{model}: {need_text(need)}" for model, need in needs.items())


def _held_by_pool(item: Running, device: str) -> int:
    """Return what those models of a pool that are in memory hold of a GPU."""
    parts = (part.partition(": ") for part in item.environment.get("MAGI_POOL_NEEDS", "").split(", "))
    needs = {model: planned_need({"MAGI_NEED": said}) for model, _colon, said in parts}
    there = [needs.get(model) for model, state in (item.models or {}).items() if state in ("loaded", "loading")]
    return sum(need.own.get(device, 0) for need in there if need)


def held(item: Running, need: Need | None, device: str) -> int:
    """Return what a running instance holds of a device: what it needs of a GPU is taken at its start, and free while it
    sleeps, but for the driver's context. A pool holds it for the models that are in memory; of one that does not tell
    which these are, nothing is known to come back."""
    if device == HOST:
        return item.own_memory or 0
    if "MAGI_POOL" in item.environment:
        return _held_by_pool(item, device)
    size = need.own.get(device, 0) if need else 0
    return min(size, ON_GPU if has_context(device) else 0) if item.asleep else size


def name_of(device: str) -> str:
    return "memory" if device == HOST else device


class Book:
    """What is left of each device, and of the host's memory, while it is given away."""

    def __init__(self, left: Mapping[str, int], files: Mapping[str, int] | None = None) -> None:
        self.left = dict(left)
        self._files = dict(files or {})  # the weights that servers share already

    def lacking(self, name: str, need: Need, path: str) -> list[Shortage]:
        """Return what an instance would lack."""
        asked = self.asked(need, path)
        return [
            Shortage(name, device, size, max(self.left[device], 0))
            for device, size in asked.items()
            if device in self.left and size > self.left[device]
        ]

    def said(self, need: Need, short: Sequence[Shortage] = ()) -> str:
        """Return what an instance needs of each device and what is left there; of those alone that are ``short``."""
        asked = {item.device: item.need for item in short} or {x: need.total(x) for x in need.own if x in self.left}
        return "; ".join(
            f"it needs {shown(size)} of {name_of(device)}, and {shown(max(self.left[device], 0))} are free"
            for device, size in asked.items()
        )

    def give(self, need: Need, path: str) -> None:
        for device, size in self.asked(need, path).items():
            if device in self.left:
                self.left[device] -= size
        self._files[path] = max(self._files.get(path, 0), need.mapped)

    def asked(self, need: Need, path: str) -> dict[str, int]:
        """Return what an instance takes of each device, beside others that share its file."""
        return {**need.own, HOST: need.own.get(HOST, 0) + max(need.mapped - self._files.get(path, 0), 0)}


def rooms(host: Host, needs: Mapping[str, Need | None]) -> tuple[dict[str, int], dict[str, int]]:
    """Return what there is of each device, and of the host's memory if that is known, and what of it our instances
    can have all together; ``needs`` are by name what those that run hold."""
    ours = [item for item in host.instances if item.pid]
    totals, room = {}, {}
    if host.available_bytes is not None:
        totals[HOST], room[HOST] = host.memory_bytes, host.available_bytes - host_reserve(host.memory_bytes)
    for device, (total, free) in (host.binary.device_memory if host.binary else {}).items():
        # Where one that ends does not tell what it holds, nobody else is thought to use the device.
        unknown = any(needs[item.name] is None for item in ours)
        totals[device], room[device] = total, (total if unknown else free) - DEVICE_RESERVE
    for item in ours:
        for device in room:
            room[device] = min(room[device] + held(item, needs[item.name], device), totals[device])
    return totals, room


def balance(host: Host, instances: Sequence[Instance], kept: Sequence[Running], unchanged: Collection[str]) -> Ledger:
    """Return the ledger of ``host`` once all ``instances`` run there, of which those named in ``unchanged`` do so
    already, beside ``kept``, which run on and are no instances of the plan.

    Those that run come first, then the others in their order. Instances that don't fit are given nothing, so that each
    of them is named. Where the host's free memory is not known, there is nothing to say.
    """
    if host.available_bytes is None or (instances and not any(item.need for item in instances)):
        return Ledger()
    planned = {item.name: item.need for item in instances if item.name in unchanged}
    needs = {item.name: planned_need(item.environment) or planned.get(item.name) for item in host.instances if item.pid}
    totals, room = rooms(host, needs)
    book = Book(room)
    for now in kept:
        # One that does not tell its need keeps what it has.
        told = needs[now.name] or Need({device: held(now, None, device) for device in room})
        book.give(told, now.environment.get("LLAMA_ARG_MODEL", now.name))
    shortages: list[Shortage] = []
    for instance in sorted(instances, key=lambda item: item.name not in unchanged):
        runs = instance.name in unchanged
        need = needs.get(instance.name) if runs else instance.need
        if need is None:
            continue
        lacking = [] if runs else book.lacking(instance.name, need, instance.model_path)
        shortages += lacking
        if not lacking:
            book.give(need, instance.model_path)
    accounts = (Account(name, totals[name], size, size - book.left[name]) for name, size in room.items())
    return Ledger(tuple(accounts), tuple(shortages))


def spare(host: Host) -> Book | None:
    """Return what is left now, while all that runs on ``host`` goes on: those that start meanwhile are given of this.
    None if that is not known."""
    if host.available_bytes is None:
        return None
    left = {HOST: host.available_bytes - host_reserve(host.memory_bytes)}
    memory = host.binary.device_memory if host.binary else {}
    left.update({device: free - DEVICE_RESERVE for device, (_total, free) in memory.items()})
    files: dict[str, int] = {}
    for item in host.instances:
        need = planned_need(item.environment) if item.pid else None
        if need:  # what it has not touched yet, it will, and so will one that sleeps
            for device in left:
                left[device] -= max(need.own.get(device, 0) - held(item, need, device), 0)
            path = item.environment.get("LLAMA_ARG_MODEL", "")
            files[path] = max(files.get(path, 0), need.mapped)
    return Book(left, files)


def account_lines(accounts: Sequence[Account]) -> list[str]:
    """Return a line for each account, for people."""
    return [
        f"{name_of(item.device)}: {shown(item.given)} needed of {shown(item.room)} that "
        f"instances can have, {shown(item.total)} in all"
        for item in accounts
    ]


def need_line(need: Need) -> str:
    """Return a need for people, in short."""
    about = "about " if need.estimated else ""
    devices = (f"{device} {about}{shown(size)}" for device, size in need.own.items() if device != HOST)
    return ", ".join([about + shown(need.total()), *devices])
