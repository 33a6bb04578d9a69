# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How a gateway takes requests from servers that go, and gives them to those that have come. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.plugin_utils._gateway.haproxy import backend, encoded, endpoint, places
from ansible_collections.magi.models.plugins.plugin_utils._gateway.routes import Part, Server, routes

Whose = tuple[str, str]
"""Host and instance."""
_GOING = (ActionKind.RESTART, ActionKind.STOP)
_STARTED = (ActionKind.START, ActionKind.RESTART)


@dataclass(frozen=True)
class Handover:
    """What a gateway is told, in this order. A place is backend/server."""

    comes: tuple[str, ...] = ()
    """The places that get requests once the gateway's own checks find them up, which is awaited."""
    needed: tuple[tuple[str, ...], ...] = ()
    """For each model of what goes, the places that are to serve it meanwhile, if there are any: unless one of these is
    up, nothing is told."""
    ready: tuple[str, ...] = ()
    """The places that get requests from now on."""
    down: tuple[str, ...] = ()
    """The places that get requests once the gateway's own checks find them up."""
    forget: tuple[str, ...] = ()
    """The names, as the map has them, that lead nowhere from now on."""
    left: tuple[str, ...] = ()
    """The backends of these names: what waits there is still served."""
    drain: tuple[str, ...] = ()
    """The places that get no more requests."""
    empty: tuple[str, ...] = ()
    """The places where no request may be in flight then."""
    empty_before: tuple[str, ...] = ()
    """The same, as processes of an earlier configuration call them."""

    def __bool__(self) -> bool:
        return any(asdict(self).values())

    def to_dict(self) -> dict[str, Any]:
        return {name: list(value) for name, value in asdict(self).items()}


def leaving(
    servers: Sequence[Server],
    actions: Mapping[Whose, ActionKind],
    batch: Collection[str],
    done: Collection[str],
    ready: Collection[Whose],
) -> Handover:
    """Return the handover before the hosts of ``batch`` end or restart servers.

    ``servers`` are those that the gateway knows meanwhile (routes.meanwhile), ``actions`` those of all hosts of the
    deployment, ``done`` the hosts that have been through it, ``ready`` what serves on its host, as far as these looked.
    """
    found = routes(servers)
    where = places(found)
    going = [item for item in servers if item.host in batch and _goes(item, actions)]
    ended = [
        item
        for item in servers
        if item.host in {*batch, *done} and item.part is Part.GOES and actions.get(item.whose) is not ActionKind.RESTART
    ]
    left = [
        route for route in found if {*route.servers} <= {*ended} and any(item.host in batch for item in route.servers)
    ]
    # Before the reload, none of them had a part.
    plain = routes([replace(item, part=Part.STAYS) for item in servers if item.part is not Part.COMES])
    before = places(plain)
    started = [who for who in ready if actions.get(who) is ActionKind.START]
    keeps = {item.whose for item in servers if item.part is Part.STAYS and actions.get(item.whose) is ActionKind.KEEP}
    stay = keeps.union(started)
    staying = [item for item in servers if item.whose in stay and item not in going]
    return Handover(
        comes=_ready([item for item in servers if item.host in batch], where, started),
        needed=tuple(
            those
            for model in sorted({item.model_id for item in going})
            if (those := tuple(where[item][0] for item in staying if item.model_id == model))
        ),
        forget=tuple(encoded(name) for route in left for name in route.names),
        left=tuple(map(backend, left)),
        drain=tuple(where[item][0] for item in going),
        empty=tuple(place for item in going for place in where[item]),
        empty_before=tuple(
            sorted({place for item in going for place in (*before[replace(item, part=Part.STAYS)], *where[item])})
        ),
    )


def meeting(job: Handover) -> Handover:
    """Return the part of a handover that comes first, at all gateways: none may be told the rest if one misses what is
    needed."""
    return Handover(comes=job.comes, needed=job.needed if job.comes else ())


def unmet(servers: Sequence[Server], missed: Collection[str]) -> str:
    """Return which servers are at the places ``missed``, and where the gateway asks them."""
    where = places(routes(servers))
    found = sorted(
        {(item.host, item.instance, item.address, item.port) for item in servers if {*where[item]} & {*missed}}
    )
    return ", ".join(f"{instance} of {host} at {endpoint(address, port)}" for host, instance, address, port in found)


def arriving(servers: Sequence[Server], actions: Mapping[Whose, ActionKind], ready: Collection[Whose]) -> Handover:
    """Return the handover when the servers ``ready`` have started or restarted."""
    return Handover(
        ready=_ready(servers, places(routes(servers)), [who for who in ready if actions.get(who) in _STARTED])
    )


def ending(servers: Sequence[Server], ends: Collection[Whose]) -> Handover:
    """Return the handover before the servers ``ends`` end."""
    where = places(routes(servers))
    going = [item for item in servers if item.whose in ends]
    everywhere = tuple(place for item in going for place in where[item])
    return Handover(drain=tuple(where[item][0] for item in going), empty=everywhere, empty_before=everywhere)


def stopped(servers: Sequence[Server], ended: Collection[Whose]) -> Handover:
    """Return the handover after the servers ``ended`` were stopped: they may come back without a deployment, with their
    host for example."""
    where = places(routes(servers))
    return Handover(down=tuple(where[item][0] for item in servers if item.whose in ended))


def _goes(item: Server, actions: Mapping[Whose, ActionKind]) -> bool:
    return item.part is not Part.COMES and actions.get(item.whose) in _GOING


def _ready(
    servers: Sequence[Server], where: Mapping[Server, Sequence[str]], ready: Collection[Whose]
) -> tuple[str, ...]:
    return tuple(where[item][0] for item in servers if item.whose in ready and item.part is not Part.GOES)
