# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who answers for which name: the servers of all hosts, as a gateway reaches them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.addresses import exposed, is_one, reachable
from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind, Word
from ansible_collections.magi.models.plugins.module_utils._plan.values import STANDS_IN, Instance
from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import HostResult
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import Way
from ansible_collections.magi.models.plugins.plugin_utils._gateway.settings import Gateway

AUTOMATIC_SLOTS = 4
"""The slots of a llama-server that is told no number (llama.cpp tools/server/server.cpp, n_parallel)."""


class Part(Word):
    """What becomes of a server while its host is deployed."""

    STAYS = "stays"
    COMES = "comes"
    """It gets requests once it is ready."""
    GOES = "goes"
    """It ends, or starts again at another address."""


@dataclass(frozen=True)
class Server:
    """A llama-server as a gateway reaches it; one for each model of a pool."""

    host: str
    instance: str
    model_id: str
    address: str
    port: int
    slots: int
    aliases: tuple[str, ...] = ()
    task: str = "chat"
    """chat, embedding or rerank."""
    wants_key: bool = False
    """It has an API key file."""
    part: Part = Part.STAYS
    pooled: bool = False
    """It is a pool, which serves other models, too: by what a request's body says, and what its path says of these."""
    stands_in: bool = False
    """It serves for another that restarts, and nobody knows it by a name of its own."""

    @property
    def whose(self) -> tuple[str, str]:
        """Host and instance."""
        return self.host, self.instance

    @property
    def which(self) -> tuple[str, str, str]:
        """What tells it from all others."""
        return self.host, self.instance, self.model_id

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "aliases": list(self.aliases), "part": self.part.value}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Server:
        return cls(**{**data, "aliases": tuple(data["aliases"]), "part": Part(data["part"])})


@dataclass(frozen=True)
class Route:
    """The names that lead to the same servers: a model's id, its aliases, the name of one instance."""

    names: tuple[str, ...]
    """The first is what people know it by."""
    servers: tuple[Server, ...]


@dataclass(frozen=True)
class Reached:
    """The servers that a gateway reaches, and a sentence for each that it does not."""

    servers: tuple[Server, ...] = ()
    warnings: tuple[str, ...] = ()


def unknown_hosts(hosts: Sequence[HostResult]) -> tuple[str, ...]:
    """Return the hosts of which this run does not know what they serve: they were not reached, or not deployed."""
    return tuple(item.name for item in hosts if item.plan is None or item.trouble)


def reached(gateway: str, way: Way, hosts: Sequence[HostResult], remembered: Iterable[Server] = ()) -> Reached:
    """Return the servers that the host ``gateway``, which Ansible gets to by ``way``, reaches.

    Those are the servers that each host's plan deploys or keeps; for a host that was not deployed, those that the
    gateway has ``remembered``.
    """
    unknown = unknown_hosts(hosts)
    servers = _settled(item for item in remembered if item.host in unknown)
    warnings = []
    for result in hosts:
        if result.plan is None or result.name in unknown:
            continue
        for instance in result.served:
            address = address_from(gateway, way, instance.address, result.name, result.way)
            if address:
                servers += [_server(result.name, instance, part, address) for part in instance.each]
            else:
                warnings.append(
                    f"Host {result.name}, instance {instance.name}: it binds {instance.address}, where gateway "
                    f"{gateway} can't reach it; set model_server_host there to an address that others reach."
                )
    return Reached(tuple(sorted(servers, key=lambda item: item.which)), tuple(warnings))


def _settled(remembered: Iterable[Server]) -> list[Server]:
    """Return one server for each instance, which stays: in the middle of a deployment, that which was there before."""
    found: dict[tuple[str, str, str], Server] = {}
    for item in sorted(remembered, key=lambda item: item.part is Part.COMES):
        found.setdefault(item.which, replace(item, part=Part.STAYS))
    return list(found.values())


def meanwhile(
    before: Iterable[Server], after: Iterable[Server], actions: Mapping[tuple[str, str], ActionKind]
) -> tuple[Server, ...]:
    """Return the servers while hosts are deployed: those ``before``, and those ``after``; ``actions`` are what happens
    to instances, by host and instance.

    What restarts where it is keeps its place, with the slots and names that it has now. At another address it is two
    servers, one that goes and one that comes. A pool that restarts gains models, and loses some.
    """
    known = tuple(before)
    there = {item.which: replace(item, part=Part.STAYS) for item in known if item.part is not Part.COMES}
    # What a deployment that did not end had begun, and this one ends.
    begun = [item for item in known if item.which not in there and actions.get(item.whose) is ActionKind.STOP]
    servers = []
    for item in after:
        now = there.pop(item.which, None)
        action = actions.get(item.whose)
        if action is ActionKind.START or now is None:
            servers.append(item if action in (None, ActionKind.KEEP) else replace(item, part=Part.COMES))
        elif action is not ActionKind.RESTART:
            servers.append(item)
        elif (now.address, now.port) == (item.address, item.port):
            servers.append(now)
        else:
            servers += [replace(now, part=Part.GOES), replace(item, part=Part.COMES)]
    ends = (ActionKind.STOP, ActionKind.RESTART)
    going = [*begun, *(item for item in there.values() if actions.get(item.whose) in ends)]
    servers += [replace(item, part=Part.GOES) for item in going]
    return tuple(sorted(servers, key=lambda item: (*item.which, item.part)))


def address_from(asks: str, its_way: Way, bound: str, host: str, way: Way) -> str | None:
    """Return the address at which the host ``asks``, which Ansible gets to by ``its_way``, reaches what binds ``bound``
    on ``host``, which others get to by ``way``; None without one."""
    address: str | None
    if host == asks or its_way.connection == way.connection == "local":
        address = reachable(bound)
    else:
        outside = [item.strip() for item in bound.split(",") if exposed(item)]
        address = next((item for item in outside if is_one(item)), way.address if outside else None)
    return address if address and re.fullmatch(r"[A-Za-z0-9_.:-]+", address) else None


def _server(host: str, instance: Instance, part: Instance, address: str) -> Server:
    slots = part.environment.get("LLAMA_ARG_N_PARALLEL", "")
    return Server(
        host,
        instance.name,
        part.model_id,
        address,
        part.port,
        int(slots) if re.fullmatch(r"[1-9][0-9]{0,5}", slots) else AUTOMATIC_SLOTS,
        part.aliases,
        part.task,
        bool(instance.api_key_file),
        pooled=bool(instance.members),
        stands_in=STANDS_IN in instance.environment,
    )


def routes(servers: Sequence[Server]) -> tuple[Route, ...]:
    """Return a route for each set of servers that has a name, sorted by the first of its names.

    A model's id leads to all its servers, an alias to all that have it, and the name of an instance to that instance
    alone, on each host that has it (the name of a pool, or of what stands in for another, leads nowhere). Where one
    name is several of these, the first of them counts.
    """
    by_name: dict[str, dict[str, tuple[Server, ...]]] = {}
    for kind, named in (
        ("model", lambda item: (item.model_id,)),
        ("instance", lambda item: () if item.pooled or item.stands_in else (item.instance,)),
        ("alias", lambda item: item.aliases),
    ):
        found: dict[str, tuple[Server, ...]] = {}
        for item in servers:
            for name in named(item):
                found[name] = (*found.get(name, ()), item)
        taken = {name for other in by_name.values() for name in other}
        by_name[kind] = {name: theirs for name, theirs in found.items() if name not in taken}
    by_servers: dict[tuple[Server, ...], list[str]] = {}
    for kind in ("model", "instance", "alias"):
        for name, theirs in sorted(by_name[kind].items()):
            by_servers.setdefault(theirs, []).append(name)
    return tuple(sorted((Route(tuple(names), theirs) for theirs, names in by_servers.items()), key=lambda r: r.names))


def shared_aliases(servers: Sequence[Server]) -> list[str]:
    """Return a sentence for each alias of several models: who asks for it gets any of them."""
    holders: dict[str, set[str]] = {}
    for item in servers:
        for alias in item.aliases:
            holders.setdefault(alias, set()).add(item.model_id)
    return [
        f"Alias {alias} is a name of several models ({', '.join(sorted(models))}), and the gateway answers with any of "
        "them; give it to one."
        for alias, models in sorted(holders.items())
        if len(models) > 1
    ]


def unlocked(gateway: Gateway, servers: Sequence[Server]) -> list[str]:
    """Return a sentence for each server that will refuse all requests: it wants a key that neither the gateway nor any
    client can show."""
    if not gateway.keys_file or gateway.backend_key_file:
        return []
    return [
        f"Host {host}, instance {instance}: it has an API key file, and the gateway takes clients' keys for "
        "its own; set model_gateway_backend_key_file to a file on the gateway with a key of the server."
        for host, instance in dict.fromkeys(item.whose for item in servers if item.wants_key)
    ]
