# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""In which order the servers of a fleet start, restart and end, so that the clients of a gateway notice nothing. Pure.

In each batch of hosts: what is new starts beside the old where there is room; a gateway takes the requests from what
goes and waits until none is left; then that ends or restarts, and the gateway gives it requests again. Of a model with
several servers, only some restart at the same time. For one with a single server, another stands in where there is room
for both, and ends when all hosts have been deployed; else its requests are held meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._host.values import Host
from ansible_collections.magi.models.plugins.module_utils._llama.need import HOST
from ansible_collections.magi.models.plugins.module_utils._plan.instance import WORKERS
from ansible_collections.magi.models.plugins.module_utils._plan.ledger import Book, spare
from ansible_collections.magi.models.plugins.module_utils._plan.pool import models_of
from ansible_collections.magi.models.plugins.module_utils._plan.values import Instance, Plan
from ansible_collections.magi.models.plugins.plugin_utils._fleet.stand_in import stand_in


@dataclass(frozen=True)
class Before:
    """What is known of a host before it is deployed."""

    plan: Plan
    host: Host

    def going(self, *kinds: ActionKind) -> list[str]:
        """Return the servers with a process that restart or end; workers have no clients."""
        runs = {item.name for item in self.host.instances if item.pid and not item.server}
        return [name for name in self.plan.names(*(kinds or (ActionKind.RESTART, ActionKind.STOP))) if name in runs]

    def models_of(self, instance: str) -> list[str]:
        """Return the ids of the models that an instance serves; of a pool that runs, those that it has now."""
        now = next((item.environment for item in self.host.instances if item.name == instance), {})
        pooled = [item["model"] for item in models_of(now)]
        known = {item.name: [part.model_id for part in item.each] for item in self.plan.served}
        return pooled or known.get(instance) or [now.get("MAGI_MODEL_ID", "")]  # what goes is in no plan


@dataclass(frozen=True)
class Phases:
    """What happens to the clients of each instance that changes; nothing without a gateway, or where nothing goes."""

    beside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By host, the instances that start before anything goes."""
    going: tuple[str, ...] = ()
    """The hosts on which something goes."""
    clients: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By host and instance, what happens to its clients, and why."""
    stand_ins: Mapping[str, tuple[Instance, ...]] = field(default_factory=dict)
    """By host, the instances among ``beside`` that stand in for what restarts there, and end afterwards."""


def phases(hosts: Mapping[str, Before], batches: Sequence[Collection[str]]) -> Phases:
    """Return the phases of a deployment of ``hosts`` in these ``batches``."""
    going = tuple(name for name, item in hosts.items() if item.going())
    if not going:
        return Phases()
    beside: dict[str, tuple[str, ...]] = {}
    clients: dict[str, dict[str, str]] = {}
    stand_ins: dict[str, list[Instance]] = {}
    rooms = {name: _Room.of(item) for name, item in hosts.items()}
    for name, item in hosts.items():
        starts = dict(_starts(item, rooms[name]))
        beside[name] = tuple(instance for instance, why in starts.items() if why.startswith(BESIDE))
        clients[name] = starts
    goes = {name: item.going() for name, item in hosts.items()}
    servers = _servers(hosts, beside)
    for batch in batches:
        for name in (name for name in batch if name in hosts):
            ends = hosts[name].plan.names(ActionKind.STOP)
            for instance in goes[name]:
                elsewhere = [
                    next((x for x, other in servers.get(model, ()) if not (x in batch and other in goes[x])), "")
                    for model in hosts[name].models_of(instance)
                ]
                clients[name][instance] = said = _said(instance in ends, elsewhere)
                if all(elsewhere) or instance in ends:
                    continue
                made, why = _stand_in(hosts[name], instance, rooms[name])
                if made is None:
                    clients[name][instance] = f"{said}; no stand-in: {why}"
                    continue
                place = f"{made.name} on port {made.port}"
                clients[name][instance] = f"beside: {place} serves its model while it restarts: {why}"
                stand_ins.setdefault(name, []).append(made)
                beside[name] = (*beside[name], made.name)
                servers.setdefault(made.model_id, []).append((name, made.name))
    return Phases(
        {name: instances for name, instances in beside.items() if instances},
        going,
        {name: said for name, said in clients.items() if said},
        {name: tuple(instances) for name, instances in stand_ins.items()},
    )


BESIDE, AFTER = "beside the old ones", "after the old ones"


@dataclass(frozen=True)
class _Room:
    """What is left on a host for those that start beside what runs."""

    now: Book | None
    """None: not known."""
    then: Book | None
    """The same once the host is deployed; for those that are in no plan."""
    ports: Iterator[int]

    @classmethod
    def of(cls, item: Before) -> _Room:
        left = spare(item.host)
        if left is None or (item.plan.gpu and left.left.keys() == {HOST}):
            return cls(None, None, iter(()))
        files: dict[str, int] = {}
        for instance in item.plan.served:
            if instance.need:
                files[instance.model_path] = max(files.get(instance.model_path, 0), instance.need.mapped)
        then = Book({account.device: account.room - account.given for account in item.plan.memory}, files)
        return cls(left, then if item.plan.memory else None, iter(item.plan.spare_ports))

    def give(self, instance: Instance, *, planned: bool) -> tuple[bool, str]:
        """Give an instance what it needs, if that is left; return whether it is, and why."""
        books = [self.now] if planned else [self.now, self.then]
        known = [book for book in books if book]
        if instance.need is None or len(known) < len(books):
            return False, "how much memory it needs, or is free, is not known"
        for book in known:
            short = book.lacking(instance.name, instance.need, instance.model_path)
            if short:
                return False, book.said(instance.need, short)
        why = known[0].said(instance.need)
        for book in known:
            book.give(instance.need, instance.model_path)
        return True, why


def _starts(item: Before, room: _Room) -> Iterable[tuple[str, str]]:
    """Yield each instance that starts, and whether beside what runs, or after what goes, and why."""
    goes = item.going()
    ports = {now.port: now.name for now in item.host.instances if now.name in goes}
    starting = item.plan.names(ActionKind.START)
    for instance in item.plan.instances:
        if instance.name not in starting:
            continue
        if not goes:
            yield instance.name, f"{BESIDE}, as nothing goes here"
        elif instance.port in ports:
            yield instance.name, f"{AFTER}: port {instance.port} is that of {ports[instance.port]}"
        else:
            fits, why = room.give(instance, planned=True)
            yield instance.name, f"{BESIDE if fits else AFTER}: {why}"


def _stand_in(item: Before, name: str, room: _Room) -> tuple[Instance | None, str]:
    """Return what stands in for the instance ``name``, None if nothing does; and why."""
    instance = next(instance for instance in item.plan.instances if instance.name == name)
    taken = {now.name for now in item.host.instances} | {planned.name for planned in item.plan.served}
    if item.plan.restores is not None:
        why = "a rollback starts none"
    elif instance.members:
        why = "a pool has none"
    elif WORKERS in instance.environment:
        why = "its workers have one server"
    else:
        fits, why = room.give(instance, planned=False)
        port = next(room.ports, None) if fits else None
        if port:
            return stand_in(instance, port, taken), why
        why = "no port of the range is free" if fits else why
    return None, why


def _servers(hosts: Mapping[str, Before], beside: Mapping[str, Collection[str]]) -> dict[str, list[tuple[str, str]]]:
    """Return host and instance of each server that runs or starts ``beside``, and that the plans have, by model."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, item in hosts.items():
        runs = {now.name for now in item.host.instances if now.pid} | {*beside.get(name, ())}
        for instance in item.plan.served:
            stays = {part.model_id for part in instance.each} if instance.name in runs else set()
            for model in item.models_of(instance.name):
                if model in stays:
                    found.setdefault(model, []).append((name, instance.name))
    return found


def _said(ends: bool, elsewhere: Sequence[str]) -> str:
    """Say what happens to clients, by the host that serves each of its models meanwhile, or empty."""
    models = "its model" if len(elsewhere) == 1 else f"all of its {len(elsewhere)} models"
    if all(elsewhere):
        hosts = [*dict.fromkeys(elsewhere)]
        return f"drained, while {' and '.join(hosts)} serve{'s' if len(hosts) == 1 else ''} {models}"
    return f"drained, then forgotten: nothing else serves {models}" if ends else f"held: nothing else serves {models}"


def phases_lines(found: Phases) -> list[str]:
    """Return the phases for people."""
    return [
        f"{host}: clients of {instance}: {said}"
        for host, theirs in found.clients.items()
        for instance, said in theirs.items()
    ]


def apart(hosts: Mapping[str, Before]) -> list[list[str]]:
    """Return the hosts in batches, in their order: of the servers of a model on several hosts, at most half (but one)
    restart in the same batch."""
    total: dict[str, int] = {}
    restarts: dict[str, dict[str, int]] = {}
    for name, item in hosts.items():
        mine = restarts.setdefault(name, {})
        restarting = item.going(ActionKind.RESTART)
        for now in item.host.instances:
            if now.pid:
                for model_id in item.models_of(now.name):
                    total[model_id] = total.get(model_id, 0) + 1
                    if now.name in restarting:
                        mine[model_id] = mine.get(model_id, 0) + 1
    batches: list[list[str]] = []
    for name, mine in restarts.items():
        for batch in batches:
            together = {m: n + sum(restarts[other].get(m, 0) for other in batch) for m, n in mine.items()}
            if all(n == mine[m] or n <= total[m] // 2 for m, n in together.items()):
                batch.append(name)
                break
        else:
            batches.append([name])
    return batches
