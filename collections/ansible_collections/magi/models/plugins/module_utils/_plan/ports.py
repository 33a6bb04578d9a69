# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The port of each instance. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.magi.models.plugins.module_utils._host.values import Host, Listener, foreign_listeners
from ansible_collections.magi.models.plugins.module_utils._plan.select import Wanted
from ansible_collections.magi.models.plugins.module_utils._plan.values import AskedForError, PlanError, Settings


def assign_ports(
    host_name: str, wanted: Sequence[Wanted], host: Host, settings: Settings
) -> tuple[dict[str, int], list[str]]:
    """Return the port of each instance by name: fixed by the profile, else the one it holds, else the first free one
    of the range, in profile order; and notes on foreign listeners that were stepped around.

    Raises PlanError, naming port, pid and command, when a port that must be used is taken, or none is left.
    """
    foreign = foreign_listeners(host.listeners, settings.host)
    first, last = settings.port_range
    ports: dict[str, int] = {}
    holder: dict[int, str] = {}

    def take(name: str, port: int) -> None:
        if port in foreign:
            raise PlanError(
                f"Host {host_name}: port {port} of {name} is taken by {_owner(foreign[port])}; "
                "stop it, or give the entry another port."
            )
        if port in holder:
            raise AskedForError(
                f"Host {host_name}: port {port} is fixed for both {holder[port]} and {name}; change one of the two."
            )
        holder[port] = name
        ports[name] = port

    for item in wanted:
        if item.port is not None:
            take(item.name, item.port)
    leases = {item.name: item.port for item in host.instances if item.port is not None}
    for item in wanted:
        lease = leases.get(item.name)
        if item.name not in ports and lease is not None and first <= lease <= last and lease not in holder:
            take(item.name, lease)
    free = (port for port in range(first, last + 1) if port not in holder and port not in foreign)
    for item in wanted:
        if item.name not in ports:
            port = next(free, None)
            if port is None:
                taken = ", ".join(f"{p} by {_owner(foreign[p])}" for p in sorted(foreign) if first <= p <= last)
                raise PlanError(
                    f"Host {host_name}: no free port for {item.name} in {first}-{last}"
                    + (f" (taken: {taken})" if taken else "")
                    + "; widen model_server_port_range."
                )
            take(item.name, port)
    highest = max(ports.values())
    notes = [
        f"Port {port} is taken by {_owner(foreign[port])} and was left out."
        for port in sorted(foreign)
        if first <= port <= min(last, highest)
    ]
    return ports, notes


def _owner(listener: Listener) -> str:
    if listener.pid is None:
        return "a process that cannot be seen from here"
    return f"process {listener.pid} ({listener.command})"
