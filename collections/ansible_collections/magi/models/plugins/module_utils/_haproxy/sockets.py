# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The sockets on which a gateway's HAProxy listens, besides its address. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Sockets:
    """The paths of HAProxy's Unix sockets."""

    stats: str
    """Where the process that works says what it does, and is told what to do."""
    master: str
    """Where the master passes on what is said to its processes, the old ones included."""
    hold: str
    """Where HAProxy sends itself requests that no server can take now."""
    own: str
    """Where our own modules ask, without HTTPS and without a key: only who may tell HAProxy what to do gets there."""
    handover: str
    """Where a process of before a reload hands requests over to the new one."""

    @classmethod
    def at(cls, path: Callable[[str], str]) -> Sockets:
        """Return the sockets, each where ``path`` says for its name."""
        return cls(*map(path, ("haproxy", "master", "hold", "own", "handover")))
