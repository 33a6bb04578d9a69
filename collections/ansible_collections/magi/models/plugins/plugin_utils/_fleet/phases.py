# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""In which order the servers of a fleet start, restart and end, so that the clients of a gateway notice nothing. Pure.

In each batch of hosts: what is new starts beside the old where there is room; a gateway takes the requests from what
goes and waits until none is left; then that ends or restarts, and the gateway gives it requests again. Of a model with
several servers, only some restart at the same time; requests for one with a single server are held meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._host.values import Host
from ansible_collections.magi.models.plugins.module_utils._llama.need import HOST
from ansible_collections.magi.models.plugins.module_utils._plan.ledger import spare
from ansible_collections.magi.models.plugins.module_utils._plan.pool import models_of
from ansible_collections.magi.models.plugins.module_utils._plan.values import Plan


@dataclass(frozen=True)
class Before:
    """What is known of a host before it is deployed."""

    plan: Plan
    host: Host
    sizes: Mapping[str, int]
    """Bytes of each model, by id."""

    def going(self, *kinds: ActionKind) -> list[str]:
        """Return the instances with a process that restart or end."""
        runs = {item.name for item in self.host.instances if item.pid}
        return [name for name in self.plan.names(*(kinds or (ActionKind.RESTART, ActionKind.STOP))) if name in runs]

    def models_of(self, instance: str) -> list[str]:
        """Return the ids of the models that an instance serves; of a pool that runs, those that it has now."""
        pools = (models_of(item.environment) for item in self.host.instances if item.name == instance)
        pooled = [item["model"] for pool in pools for item in pool]
        known = {item.name: [part.model_id for part in item.each] for item in self.plan.served}
        numbered = re.sub(r"-[0-9]+$", "", instance)  # what goes is in no plan
        return pooled or known.get(instance) or [instance if instance in self.sizes else numbered]


@dataclass(frozen=True)
class Phases:
    """What happens to the clients of each instance that changes; nothing without a gateway, or where nothing goes."""

    beside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By host, the instances that start before anything goes."""
    going: tuple[str, ...] = ()
    """The hosts on which something goes."""
    clients: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By host and instance, what happens to its clients, and why."""


def phases(hosts: Mapping[str, Before], batches: Sequence[Collection[str]]) -> Phases:
    """Return the phases of a deployment of ``hosts`` in these ``batches``."""
    going = tuple(name for name, item in hosts.items() if item.going())
    if not going:
        return Phases()
    beside: dict[str, tuple[str, ...]] = {}
    clients: dict[str, dict[str, str]] = {}
    for name, item in hosts.items():
        starts = dict(_starts(item))
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
                clients[name][instance] = _said(instance in ends, elsewhere)
    return Phases(
        {name: instances for name, instances in beside.items() if instances},
        going,
        {name: said for name, said in clients.items() if said},
    )


BESIDE, AFTER = "beside the old ones", "after the old ones"


def _starts(item: Before) -> Iterable[tuple[str, str]]:
    """Yield each instance that starts, and whether beside what runs, or after what goes, and why."""
    goes = item.going()
    ports = {now.port: now.name for now in item.host.instances if now.name in goes}
    left = spare(item.host)
    starting = item.plan.names(ActionKind.START)
    for instance in item.plan.instances:
        if instance.name not in starting:
            continue
        if not goes:
            yield instance.name, f"{BESIDE}, as nothing goes here"
        elif instance.port in ports:
            yield instance.name, f"{AFTER}: port {instance.port} is that of {ports[instance.port]}"
        elif instance.need is None or left is None or (item.plan.gpu and left.left.keys() == {HOST}):
            yield instance.name, f"{AFTER}: how much memory it needs, or is free, is not known"
        else:
            short = left.lacking(instance.name, instance.need, instance.model_path)
            yield instance.name, f"{AFTER if short else BESIDE}: {left.said(instance.need, short)}"
            if not short:
                left.give(instance.need, instance.model_path)


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
