# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The port of each instance. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.magi.models.plugins.module_utils._host.values import Host, Listener, foreign_listeners
from ansible_collections.magi.models.plugins.module_utils._plan.select import Wanted
from ansible_collections.magi.models.plugins.module_utils._plan.values import AskedForError, PlanError, Settings


@dataclass(frozen=True)
class Ports:
    """The ports of a host's instances."""

    of: Mapping[str, int]
    """By name of the instance."""
    refused: Mapping[str, str]
    """By name, why an instance can't have the port that the profile fixes for it."""
    notes: tuple[str, ...]
    spare: tuple[int, ...] = ()
    """As many as there are instances, if so many are left that nothing has, now or later; for Settings.beside."""


def assign_ports(
    host_name: str, wanted: Sequence[Wanted], host: Host, settings: Settings, kept: Mapping[int, str]
) -> Ports:
    """Return the port of each instance: fixed by the profile, else the one it holds, else the first free one of the
    range, in profile order; one of an instance that goes comes last where both run for a while (Settings.beside).
    ``kept`` has the ports of instances that run on beside them, with their names.

    Only a fixed port can't move. Raises PlanError when none is left, AskedForError when one is fixed for two.
    """
    foreign = foreign_listeners(host.listeners, settings.host)
    first, last = settings.port_range
    ports: dict[str, int] = {}
    refused: dict[str, str] = {}
    fixed: dict[int, str] = {}
    for item in wanted:
        if item.port in fixed:
            raise AskedForError(
                f"Host {host_name}: port {item.port} is fixed for both {fixed[item.port]} and {item.name}; change one "
                "of the two."
            )
        if item.port is not None:
            fixed[item.port] = item.name
            holder = owner(foreign[item.port]) if item.port in foreign else kept.get(item.port)
            if holder:
                refused[item.name] = (
                    f"port {item.port} of {item.name} is taken by {holder}; stop it, or give the entry another port"
                )
            else:
                ports[item.name] = item.port
    leases = {item.name: item.port for item in host.instances if item.port is not None}
    held = {*kept, *fixed, *(leases[name] for name in refused if name in leases)}
    moved: dict[str, int] = {}
    for item in wanted:
        lease = leases.get(item.name)
        if item.port is None and lease is not None and first <= lease <= last and lease not in held:
            if lease in foreign:
                moved[item.name] = lease
            else:
                ports[item.name] = lease
                held.add(lease)
    going = {item.port for item in host.instances if settings.beside and item.name not in {x.name for x in wanted}}
    open_ports = [port for port in range(first, last + 1) if port not in held and port not in foreign]
    free = iter(sorted(open_ports, key=lambda port: port in going))
    for item in wanted:
        if item.name not in ports and item.name not in refused:
            port = next(free, None)
            if port is None:
                taken = ", ".join(f"{p} by {owner(foreign[p])}" for p in sorted(foreign) if first <= p <= last)
                raise PlanError(
                    f"Host {host_name}: no free port for {item.name} in {first}-{last}"
                    + (f" (taken: {taken})" if taken else "")
                    + "; widen model_server_port_range."
                )
            ports[item.name] = port
    notes = [
        f"{name} moves from port {lease} to {ports[name]}: {owner(foreign[lease])} has taken it."
        for name, lease in moved.items()
    ]
    notes += [
        f"Port {port} is taken by {owner(foreign[port])} and was left out."
        for port in sorted(foreign.keys() - moved.values())
        if first <= port <= min(last, max(ports.values(), default=0))
    ]
    spare = (port for port in free if settings.beside and port not in leases.values())
    return Ports(ports, refused, tuple(notes), tuple(itertools.islice(spare, len(wanted))))


def owner(listener: Listener) -> str:
    """Say who holds a port."""
    if listener.pid is None:
        return "a process that can't be seen from here"
    return f"process {listener.pid} ({listener.command})"
