# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a running HAProxy says of itself, as the commands of its runtime API print it (management.txt, 9.3). Pure."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ServerState:
    """A server in one backend."""

    backend: str
    server: str
    up: bool
    state: str
    """up, down, drained (it gets nothing new) or disabled (it is about to come)."""
    busy: int
    """Requests that it works on."""
    slots: int
    queued: int
    """Requests that wait for it, or in its backend."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def parse_revision(info: str) -> str | None:
    """Return the revision of the configuration that runs, from ``show info``; None if it is not ours."""
    found = re.search(r"^description: magi ([0-9a-f]{16})$", info, re.MULTILINE)
    return found[1] if found else None


ITSELF = "itself"
"""The name of a server that is the gateway itself: requests wait there for others, or go on to the process after a
reload."""


def parse_workers(proc: str) -> list[int]:
    """Return the processes from ``show proc`` of the master: the one that works, then those of before a reload."""
    return [int(pid) for pid in re.findall(r"^(\d+)\s+worker\s", proc, re.MULTILINE)]


def in_flight(stat: str, places: Collection[str]) -> int:
    """Return how many requests of one process, from ``show stat``, are at the servers at ``places`` (backend/server),
    or wait for one of them alone."""
    return sum(_number(row["scur"]) + _number(row["qcur"]) for row in _rows(stat) if _place(row) in places)


def waiting(stat: str, backends: Collection[str]) -> int:
    """Return how many requests wait in ``backends`` for any of their servers."""
    rows = (row for row in _rows(stat) if row["svname"] == "BACKEND")
    return sum(_number(row["qcur"]) for row in rows if row["pxname"] in backends)


@dataclass(frozen=True)
class Counted:
    """What a server has done in one backend since HAProxy took its configuration."""

    server: str
    requests: int
    """Those that have ended."""
    failed: int
    """Answers with a status of 5xx, that were none, or that it cut off."""
    first_byte_ms: int
    """How long it took until an answer began, in milliseconds: a mean of the last requests (canary.since)."""
    begun: int = 0
    """Answers that have begun."""
    waiting: int = 0
    """About how many requests are there whose answer has not begun. (Of those whose clients left, HAProxy does not say
    whether one had.)"""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def parse_counts(stat: str) -> list[Counted]:
    """Return what each server has done, from ``show stat``."""
    rows = (row for row in _rows(stat) if row["svname"] not in ("FRONTEND", "BACKEND", ITSELF))
    return list(map(_counted, rows))


def _counted(row: Mapping[str, str]) -> Counted:
    sent, busy, none, cut, left = (_number(row[name]) for name in ("stot", "scur", "eresp", "srv_abrt", "cli_abrt"))
    *fine, errors = (_number(row[f"hrsp_{kind}"]) for kind in ("2xx", "3xx", "4xx", "other", "5xx"))
    begun = sum(fine) + errors
    waiting = max(0, min(busy, sent - begun - none - left))
    return Counted(row["svname"], sent - busy, max(errors + cut, none), _number(row["rtime"]), begun, waiting)


def parse_servers(stat: str) -> list[ServerState]:
    """Return the servers from ``show stat``, and for each the requests that wait in its backend."""
    rows = _rows(stat)
    queued = {row["pxname"]: _number(row["qcur"]) for row in rows if row["svname"] == "BACKEND"}
    return list(_servers(rows, queued))


def _rows(stat: str) -> list[dict[str, str]]:
    if not stat.startswith("# pxname,"):  # what a process says that has just ended
        return []
    return list(csv.DictReader(stat.removeprefix("# ").splitlines()))


def _place(row: Mapping[str, str]) -> str:
    return f"{row['pxname']}/{row['svname']}"


def _servers(rows: list[dict[str, str]], queued: dict[str, int]) -> Iterator[ServerState]:
    for row in rows:
        if row["svname"] not in ("FRONTEND", "BACKEND", ITSELF):
            yield ServerState(
                row["pxname"],
                row["svname"],
                (state := _state(row["status"])) == "up",
                state,
                _number(row["scur"]),
                _number(row["slim"]),
                queued.get(row["pxname"], 0),
            )


def _state(status: str) -> str:
    """Return the word for a status such as UP 1/3 (on its way down) or MAINT (via another); MAINT (resolution) means
    that its name has no address."""
    if status.startswith("DRAIN"):
        return "drained"
    if status.startswith("MAINT") and status != "MAINT (resolution)":
        return "disabled"
    return "up" if status.startswith(("UP", "no check")) else "down"


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0
