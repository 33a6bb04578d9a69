# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A length of time as people write it. Pure."""

from __future__ import annotations

import re

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST = 24 * 86400
"""Seconds; llama-server counts idle milliseconds in 32 bits."""


def seconds_of(text: str) -> int:
    """Return the seconds of ``10m``: a whole number of seconds, or with s, m, h or d, from 1 second to LONGEST.

    Raises ValueError, which says what ``text`` should be.
    """
    found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text.strip(), re.ASCII)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 1 <= seconds <= LONGEST:
        raise ValueError("a time from 1s to 24d, such as 10m (s, m, h and d; a bare number is seconds)")
    return seconds
