# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asking a running HAProxy over its stats socket."""

from __future__ import annotations

import contextlib
import socket

from ansible_collections.magi.models.plugins.module_utils._haproxy.stats import (
    ServerState,
    parse_revision,
    parse_servers,
)


def ask(path: str, command: str, timeout: float = 5) -> str | None:
    """Return what HAProxy answers on the socket at ``path`` to a ``command``; None without an answer."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
        connection.sendall(command.encode() + b"\n")
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
