# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Models that several hosts compute together (llama.cpp's RPC): which host serves, and which workers the others run.
Pure."""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ansible_collections.magi.models.plugins.module_utils._base.addresses import exposed, local_url
from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind, State
from ansible_collections.magi.models.plugins.module_utils._config.profile import Entry, Profile
from ansible_collections.magi.models.plugins.module_utils._host.values import Host, Running, foreign_listeners
from ansible_collections.magi.models.plugins.module_utils._plan.build import build_plan
from ansible_collections.magi.models.plugins.module_utils._plan.select import Shares
from ansible_collections.magi.models.plugins.module_utils._plan.values import Plan, PlanError
from ansible_collections.magi.models.plugins.module_utils._plan.worker import (
    NO_RPC,
    Remote,
    Rpc,
    RpcWorker,
    make_worker,
    sizes_of_devices,
)
from ansible_collections.magi.models.plugins.plugin_utils._fleet.look import Fleet, Look, allowed_hosts

_PRIVATE = [
    ipaddress.ip_network(each)
    for each in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10")
]
"""Loopback, RFC 1918, link-local (RFC 3927), and the shared addresses of RFC 6598, which overlay networks use."""


def why_not_private(address: str) -> str:
    """Return why a worker may not listen at ``address``, or an empty string. Whoever reaches one can use and crash it;
    and it speaks IPv4 alone (ggml/src/ggml-rpc/transport.cpp)."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return f"{address} is no address" if address else "its address is not known"
    if found.version != 4:
        return f"its address {address} is not an IPv4 address, and workers speak IPv4 alone"
    if not any(found in network for network in _PRIVATE):
        return f"its address {address} is not a private one, and whoever reaches a worker can use and crash it"
    return ""


@dataclass(frozen=True)
class Spread:
    """What the fleet decided of the entries with rpc."""

    allowed: Sequence[Collection[str] | None] = ()
    """By entry, as in Fleet: of one with rpc, the host of its server."""
    of: Mapping[str, Rpc] = field(default_factory=dict)
    """By host."""
    refused: tuple[str, ...] = ()


class _Refused(Exception):
    """Why nothing is deployed: a sentence without its entry and without a full stop."""


def spread(profile: Profile, fleet: Fleet) -> Spread:
    """Return what each host has of the entries of ``profile`` with rpc."""
    allowed = [*fleet.allowed]
    of: dict[str, Rpc] = {}
    refused = []
    for index, entry in enumerate(profile.entries):
        if not entry.rpc:
            continue
        try:
            allowed[index], found = _entry(index, entry, profile, fleet, of)
        except _Refused as error:
            refused.append(f"{profile.where(index)}: rpc: {error}.")
            continue
        for name, item in found.items():
            old = of.get(name, NO_RPC)
            of[name] = Rpc((*old.workers, *item.workers), {**old.remotes, **item.remotes}, {**old.held, **item.held})
    return Spread(allowed, of, tuple(refused))


def _entry(
    index: int, entry: Entry, profile: Profile, fleet: Fleet, of: Mapping[str, Rpc]
) -> tuple[list[str], dict[str, Rpc]]:
    """Return where an entry may be served, and what each host has of it. Raises _Refused."""
    model, where = entry.pattern, profile.where(index)
    for name in entry.rpc:
        if name not in fleet.hosts:
            near = difflib.get_close_matches(name, fleet.hosts, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"the hosts are {', '.join(fleet.hosts)}"
            raise _Refused(f"{name} is none of the hosts in model_servers; {hint}".rstrip("?"))
    candidates = [name for name in allowed_hosts(fleet, index) if name not in entry.rpc]
    if not candidates:
        raise _Refused("no host is left for the server; take one out of rpc, or correct hosts")
    have = [name for name in candidates if name in fleet.looks and _has(fleet.looks[name], model)]
    if len(have) > 1:
        raise _Refused(f"{', '.join(have)} have the model, and workers serve one server; set hosts to one of them")
    absent = [name for name in entry.rpc if name not in fleet.looks]
    if not have or absent:
        away = absent or [name for name in candidates if name not in fleet.looks]
        said = f"{away[0]} {_why_absent(away[0], fleet)}" if away else ""
        held = {name: Rpc(held=_held(fleet.looks[name], model, said)) for name in entry.rpc if name in fleet.looks}
        remote = Remote(entry.rpc, refused=f"the host of its worker {said}")
        of_server = {name: Rpc(remotes={model: remote}) for name in have}
        return have or candidates, {**(held if away else {}), **of_server}
    (server,) = have
    _check_host(server, fleet.looks[server].host)
    made = [_worker(name, server, entry, where, profile, fleet, of.get(name, NO_RPC)) for name in entry.rpc]
    remote = _remote(server, made, fleet)
    shares = _shares(index, server, profile, fleet.looks[server], model, remote)
    found = {}
    for name, worker in made:
        count = len(sizes_of_devices(fleet.looks[name].host))
        mine, shares = (shares[:count], shares[count:]) if shares else (None, shares)
        found[name] = Rpc((replace(worker, share=mine),))
    return [server], {**found, server: Rpc(remotes={model: remote})}


def _has(look: Look, model: str) -> bool:
    return any(item.id == model for item in look.inventory.models)


def _why_absent(name: str, fleet: Fleet) -> str:
    if name in fleet.away:
        return "can't be reached"
    return "is left out by --limit" if name in fleet.left_out else "could not be looked at, as it says itself"


def _held(look: Look, model: str, why: str) -> dict[str, str]:
    return {item.name: why for item in _now(look, model)}


def _now(look: Look, model: str) -> list[Running]:
    """Return the workers of a host that compute ``model``."""
    return [item for item in look.host.instances if item.server.partition("/")[2] == model]


def _check_host(name: str, host: Host) -> None:
    if host.binary is None:
        raise _Refused(f"{name}: {host.binary_error.rstrip('.')}")
    if not host.can.workers:
        raise _Refused(f"{host.manager} on {name} can't run it: a model over RPC needs systemd or supervisor there")


def _worker(
    name: str, server: str, entry: Entry, where: str, profile: Profile, fleet: Fleet, has: Rpc
) -> tuple[str, RpcWorker]:
    """Return a worker on the host ``name``, which ``has`` some already. Raises _Refused."""
    look, address = fleet.looks[name], fleet.addresses.get(name, "")
    _check_host(name, look.host)
    if not look.host.worker_path:
        raise _Refused(
            f"{name} has no ggml-rpc-server beside its llama-server, nor in the PATH; install one of the same build "
            "(role llama_server)"
        )
    wrong = why_not_private(address)
    own = fleet.addresses.get(server, "")
    if not wrong and not exposed(address) and (exposed(own) or not own):
        wrong = f"its address {address} is its own alone, and {server} can't reach it"
    if wrong:
        raise _Refused(f"{name}: {wrong}; set model_server_rpc_address there to a private address of that host")
    whose = f"{server}/{entry.pattern}"
    now = next((item for item in look.host.instances if item.server == whose), None)
    taken = {item.name for item in has.workers} | {item.id for item in look.inventory.models}
    names = (f"{entry.pattern}.worker{'' if number == 1 else f'-{number}'}" for number in range(1, 1000))
    chosen = now.name if now else next(each for each in names if each not in taken)
    used = {item.port for item in has.workers} | {item.port for item in profile.entries if item.port}
    foreign = foreign_listeners(look.host.listeners, address)
    first, last = look.settings.port_range
    if now and now.port and first <= now.port <= last and now.port not in {*used, *foreign}:
        return name, RpcWorker(chosen, address, now.port, whose, where)
    leases = {item.port for item in look.host.instances}
    # From the end, so that servers have the ports that they have without workers.
    free = (port for port in range(last, first - 1, -1) if port not in {*used, *foreign, *leases})
    port = next(free, None)
    if port is None:
        raise _Refused(f"{name} has no free port for a worker in {first}-{last}; widen model_server_port_range")
    return name, RpcWorker(chosen, address, port, whose, where)


def _remote(server: str, made: Sequence[tuple[str, RpcWorker]], fleet: Fleet) -> Remote:
    identity: list[str] = []
    sizes: list[int] = []
    stale, warnings = "", []
    build = fleet.looks[server].host.binary
    for name, worker in made:
        look = fleet.looks[name]
        identity.append(f"{name} {make_worker(worker, look.host, look.settings.environment, None, None).config_hash}")
        sizes += sizes_of_devices(look.host)
        now = next((item for item in look.host.instances if item.name == worker.name), None)
        if not stale and not (now and now.pid and now.state in (State.RUNNING, State.STARTING)):
            stale = f"its worker on {name} did not run"
        if build and look.host.binary and look.host.binary.version != build.version:
            warnings.append(
                f"{worker.server}: {name} has llama.cpp {look.host.binary.version}, and {server} has {build.version}: "
                "over RPC, both should be of the same build."
            )
    return Remote(
        tuple(name for name, _worker in made),
        tuple(local_url(item.address, item.port).removeprefix("http://") for _name, item in made),
        tuple(sizes),
        ", ".join(identity),
        stale,
        warnings=tuple(warnings),
    )


def _shares(index: int, server: str, profile: Profile, look: Look, model: str, remote: Remote) -> tuple[int, ...]:
    """Return what the server puts on each device of its workers, in bytes; () if nobody looks at memory."""
    try:
        plan = build_plan(
            host_name=server,
            profile=replace(profile, strict=False),
            inventory=look.inventory,
            host=look.host,
            settings=replace(
                look.settings,
                memory="off" if look.settings.memory == "off" else "warn",
                strict=False,
                port_range=(1, 65535),
            ),
            scan_paths=look.scan_paths,
            needs=look.needs,
            shares=[None if number == index else {} for number in range(len(profile.entries))],
            rpc=Rpc(remotes={model: remote}),
        )
    except PlanError:  # its own plan says so
        return ()
    need = next((item.need for item in plan.instances if item.model_id == model), None)
    return tuple(need.own.get(device, 0) for device in remote.devices) if need else ()


def with_plans(profile: Profile, fleet: Fleet, shares: Mapping[str, Shares], of: Mapping[str, Rpc]) -> dict[str, Rpc]:
    """Return ``of`` (Spread), where each server is left as it is whose worker's host has no plan with these ``shares``,
    say for lack of memory: it would start without that worker."""
    without = {}
    for name, item in of.items():
        look = fleet.looks[name]
        try:
            build_plan(
                host_name=name,
                profile=profile,
                inventory=look.inventory,
                host=look.host,
                settings=look.settings,
                scan_paths=look.scan_paths,
                needs=look.needs,
                shares=shares[name],
                rpc=item,
            )
        except PlanError:
            without[name] = f"the host of its worker {name} has no plan, as it says itself"

    def left(remote: Remote) -> Remote:
        return replace(remote, refused=remote.refused or next((without[x] for x in remote.hosts if x in without), ""))

    return {
        name: replace(item, remotes={model: left(remote) for model, remote in item.remotes.items()})
        for name, item in of.items()
    }


_GOES = (ActionKind.RESTART, ActionKind.STOP)


@dataclass(frozen=True)
class WorkersFirst:
    """What happens before the hosts are deployed, so that no server is without the workers that it uses."""

    ends: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By host, the servers that end first: their workers do, too."""
    workers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By host, the workers that start, restart or end then."""

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.ends, *self.workers)))


def workers_first(hosts: Mapping[str, tuple[Plan, Host]]) -> WorkersFirst:
    """Return what comes first in a deployment of ``hosts``, by their plans and what they run."""
    workers: dict[str, tuple[str, ...]] = {}
    going = set()
    for name, (plan, host) in hosts.items():
        now = {item.name: item.server for item in host.instances if item.server}
        ours = {item.name for item in plan.workers} | now.keys()
        changes = tuple(each for each in plan.names(ActionKind.START, *_GOES) if each in ours)
        if changes:
            workers[name] = changes
        going |= {now[each] for each in plan.names(*_GOES) if each in now}
    ends = {
        name: tuple(each for each in plan.names(*_GOES) if f"{name}/{each}" in going)
        for name, (plan, _host) in hosts.items()
    }
    return WorkersFirst({name: servers for name, servers in ends.items() if servers}, workers)


def workers_lines(found: WorkersFirst) -> list[str]:
    """Return that for people."""
    return [
        *(f"{name}: ends before its workers: {', '.join(servers)}" for name, servers in found.ends.items()),
        *(f"{name}: before the servers: {', '.join(workers)}" for name, workers in found.workers.items()),
    ]
