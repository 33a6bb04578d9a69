# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a gateway's log says of its requests, a JSON object for each (haproxy.cfg.j2, log-format). Pure."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable


def first_tokens(lines: Iterable[str], since: float) -> dict[str, list[int]]:
    """Return by server (host::instance) how many milliseconds passed, with the wait for a slot, until the answer to
    each request that ended after ``since`` (seconds since the epoch) began. What got no answer does not count."""
    begin = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since))
    found: dict[str, list[int]] = {}
    for line in lines:
        try:
            item = json.loads(line)
            good = item["time"] >= begin and item["status"] == 200 and item["server"]
            times = item["queue_ms"], item["first_byte_ms"]
            if good and min(times) >= 0:
                found.setdefault(str(item["server"]), []).append(sum(times))
        except (ValueError, TypeError, KeyError, RecursionError):  # HAProxy's own words
            continue
    return found
