# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a running HAProxy says of itself, as the commands of its runtime API print it (management.txt, 9.3). Pure."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ServerState:
    """A server in one backend."""

    backend: str
    server: str
    up: bool
    state: str
    """up, down, or drained: it gets nothing new."""
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


def parse_servers(stat: str) -> list[ServerState]:
    """Return the servers from ``show stat``, and for each the requests that wait in its backend."""
    rows = list(csv.DictReader(stat.removeprefix("# ").splitlines()))
    waiting = {row["pxname"]: _number(row["qcur"]) for row in rows if row["svname"] == "BACKEND"}
    return list(_servers(rows, waiting))


def _servers(rows: list[dict[str, str]], waiting: dict[str, int]) -> Iterator[ServerState]:
    for row in rows:
        if row["svname"] not in ("FRONTEND", "BACKEND"):
            yield ServerState(
                row["pxname"],
                row["svname"],
                (state := _state(row["status"])) == "up",
                state,
                _number(row["scur"]),
                _number(row["slim"]),
                waiting.get(row["pxname"], 0),
            )


def _state(status: str) -> str:
    """Return the word for a status such as UP 1/3 (on its way down) or MAINT (via another); MAINT (resolution) means
    that its name has no address."""
    if status.startswith(("DRAIN", "MAINT")) and status != "MAINT (resolution)":
        return "drained"
    return "up" if status.startswith(("UP", "no check")) else "down"


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0
