# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What llama-server says of its work at /metrics. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SERIES = re.compile(r"^llamacpp:(\w+) (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Work:
    """What a server does, and has done since its start."""

    busy: int
    """Slots that work."""
    waiting: int
    """Requests that wait for a slot in the server itself."""
    steps: float
    """The slots that each batch so far was computed for, summed up: of a server that writes, its tokens. (It counts
    these, too, but only when an answer ends. Six digits are all that it prints of a number.)"""


def parse_work(text: str) -> Work | None:
    """Return the work from an answer of /metrics (llama.cpp tools/server/server-task.cpp, to_metrics); None if it is no
    such answer."""
    series = dict(_SERIES.findall(text))
    try:
        return Work(
            int(float(series["requests_processing"])),
            int(float(series["requests_deferred"])),
            float(series["n_decode_total"]) * float(series["n_busy_slots_per_decode"]),
        )
    except (KeyError, ValueError, OverflowError):
        return None
