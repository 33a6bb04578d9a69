# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asking a running HAProxy over its sockets, and telling it where to send requests (management.txt, 9.3 and 9.4)."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Collection, Sequence

from ansible_collections.magi.models.plugins.module_utils._haproxy.sockets import Sockets
from ansible_collections.magi.models.plugins.module_utils._haproxy.stats import (
    ServerState,
    in_flight,
    parse_revision,
    parse_servers,
    parse_workers,
    waiting,
)


def ask(path: str, command: str, timeout: float = 5) -> str | None:
    """Return what HAProxy answers on the socket at ``path`` to a ``command``; None without an answer."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
        connection.sendall(command.encode() + b"\n")
        connection.shutdown(socket.SHUT_WR)  # else the master waits for the next command
        parts = []
        while part := connection.recv(1 << 16):
            parts.append(part)
        return b"".join(parts).decode("utf-8", "replace")
    return None


def running_revision(path: str) -> str | None:
    """Return the revision of the configuration that HAProxy works with; None if it does not run, or not with ours."""
    return parse_revision(ask(path, "show info") or "")


def servers(path: str) -> list[ServerState]:
    """Return the state of each server; [] without an answer."""
    return parse_servers(ask(path, "show stat") or "")


def enable(path: str, places: Sequence[str]) -> None:
    """Let the servers at ``places`` (backend/server), which are healthy, have requests."""
    for place in places:
        ask(path, f"set server {place} state ready")
        ask(path, f"set server {place} health up")


def forget(path: str, keys: Sequence[str]) -> None:
    """Answer requests for these keys of the map routes.map with 404 from now on."""
    for key in keys:
        ask(path, f"del map routes.map {key}")


def drain(path: str, places: Sequence[str]) -> None:
    """Send the servers at ``places`` no more requests."""
    for place in places:
        ask(path, f"set server {place} state drain")


def await_empty(
    sockets: Sockets, places: Collection[str], before: Collection[str], left: Collection[str], seconds: float
) -> int:
    """Wait until no request is at the servers at ``places`` any more; return how many still are after ``seconds``.

    The processes of before a reload count, too, where the servers are at the places ``before``: such a process takes no
    new requests, but what waits in it for one of these servers still goes there. In the process that works, this holds
    for the backends ``left`` alone, to which no name leads any more.
    """
    backends = {place.split("/")[0] for place in before}
    deadline = time.monotonic() + seconds
    while True:
        _working, *old = parse_workers(ask(sockets.master, "show proc") or "") or [0]
        stat = ask(sockets.stats, "show stat") or ""
        count = in_flight(stat, places) + waiting(stat, left)
        for pid in old:
            stat = ask(sockets.master, f"@!{pid} show stat") or ""
            count += in_flight(stat, before) + waiting(stat, backends)
        if count == 0 or time.monotonic() > deadline:
            return count
        time.sleep(0.05)
