# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asking a running HAProxy over its sockets, and telling it where to send requests (management.txt, 9.3 and 9.4)."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Collection, Mapping, Sequence

from ansible_collections.magi.models.plugins.module_utils._haproxy.sockets import Sockets
from ansible_collections.magi.models.plugins.module_utils._haproxy.stats import (
    Counted,
    ServerState,
    in_flight,
    parse_counts,
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


def counts(path: str) -> list[Counted]:
    """Return what each server has done; [] without an answer."""
    return parse_counts(ask(path, "show stat") or "")


def await_answers(path: str, requests: Mapping[str, int], seconds: float) -> list[Counted]:
    """Return what each server has done once so many ``requests`` of those that are named have ended, or none waits for
    its answer there, or ``seconds`` are over; [] without an answer."""
    deadline = time.monotonic() + seconds
    while True:
        found = counts(path)
        slow = [name for name, number in requests.items() if _slow([x for x in found if x.server == name], number)]
        if not slow or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def _slow(backends: Sequence[Counted], requests: int) -> bool:
    return sum(x.requests for x in backends) < requests and any(x.waiting for x in backends)


class RefusedError(RuntimeError):
    """HAProxy did not do what it was told, or does not answer."""


def _tell(path: str, command: str, *, fine: str = "") -> None:
    """Raise RefusedError unless HAProxy takes a ``command``, with no word or one that is ``fine``."""
    said = ask(path, command)
    if said is None or said.strip() not in ("", fine):
        raise RefusedError(f"{command}: {'no answer' if said is None else ' '.join(said.split())}")


def enable(path: str, places: Sequence[str]) -> None:
    """Let the servers at ``places`` (backend/server), which are healthy, have requests. Raises RefusedError."""
    for place in places:
        _tell(path, f"set server {place} state ready")
        _tell(path, f"set server {place} health up")


def await_up(path: str, places: Sequence[str], seconds: float) -> None:
    """Let the servers at ``places``, which have just come, have requests once HAProxy's own checks find them up, and
    wait for that, ``seconds`` at most. Raises RefusedError."""
    for place in places:
        # In this order, nothing that waits goes there before.
        _tell(path, f"set server {place} state drain")
        _tell(path, f"set server {place} health down")
        _tell(path, f"set server {place} state ready")
    deadline = time.monotonic() + seconds
    while {*places} - up(path) and time.monotonic() < deadline:
        time.sleep(0.05)


def up(path: str) -> set[str]:
    """Return the places of the servers that are up by HAProxy's own checks."""
    return {f"{item.backend}/{item.server}" for item in servers(path) if item.up}


def leave_to_checks(path: str, places: Sequence[str]) -> None:
    """Let the servers at ``places``, which were drained and are gone, have requests once checks find them back. Raises
    RefusedError."""
    for place in places:
        _tell(path, f"set server {place} health down")
        _tell(path, f"set server {place} state ready")


def forget(path: str, keys: Sequence[str]) -> None:
    """Answer requests for these keys of the map routes.map with 404 from now on. Raises RefusedError."""
    for key in keys:
        _tell(path, f"del map routes.map {key}", fine="Key not found.")


def routed_keys(path: str) -> set[str] | None:
    """Return the keys of the map routes.map as HAProxy has it now; None without an answer."""
    said = ask(path, "show map routes.map")
    return None if said is None else {line.split()[1] for line in said.splitlines() if len(line.split()) == 3}


def drain(path: str, places: Sequence[str]) -> None:
    """Send the servers at ``places`` no more requests. Raises RefusedError."""
    for place in places:
        _tell(path, f"set server {place} state drain")


def await_empty(
    sockets: Sockets, places: Collection[str], before: Collection[str], left: Collection[str], seconds: float
) -> int:
    """Wait until no request is at the servers at ``places`` any more; return how many still are after ``seconds``, or
    -1 if HAProxy does not say.

    The processes of before a reload count, too, where the servers are at the places ``before``: such a process takes no
    new requests, but what waits in it for one of these servers still goes there. In the process that works, this holds
    for the backends ``left`` alone, to which no name leads any more.
    """
    backends = {place.split("/")[0] for place in before}
    deadline = time.monotonic() + seconds
    while True:
        workers = parse_workers(ask(sockets.master, "show proc") or "")
        said = [ask(sockets.stats, "show stat"), *(ask(sockets.master, f"@!{pid} show stat") for pid in workers[1:])]
        if not workers or None in said:
            count = -1
        else:
            now, *earlier = map(str, said)
            count = in_flight(now, places) + waiting(now, left)
            count += sum(in_flight(stat, before) + waiting(stat, backends) for stat in earlier)
        if count == 0 or time.monotonic() > deadline:
            return count
        time.sleep(0.05)
