# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The limits of an instance. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_RESOURCES = {
    "memory_max": (
        r"[1-9][0-9]{0,14}K?|[1-9][0-9]{0,6}[MGT]|[1-9][0-9]?%|100%",  # systemd ignores what 64 bits can't hold
        "bytes (K, M, G or T stand for powers of 1024), or a percentage",
    ),
    "cpu_quota": (r"[1-9][0-9]{0,6}%", "a percentage of one core, such as 150%"),
    "nice": (r"-?[0-9]|-?1[0-9]|-20", "a whole number from -20 to 19"),
}


def resources(value: Any) -> dict[str, str]:
    """Return an instance's limits in systemd's form (systemd.resource-control(5), Nice= in systemd.exec(5)).

    Raises ValueError, which says what ``value`` should be.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"a mapping of {', '.join(_RESOURCES)}")
    for name, given in value.items():
        if name not in _RESOURCES:
            raise ValueError(f"a mapping of {', '.join(_RESOURCES)} (it has {name!r})")
        pattern, what = _RESOURCES[name]
        if isinstance(given, bool) or not re.fullmatch(pattern, str(given)):
            raise ValueError(f"a mapping whose {name} is {what}")
    return {name: str(given) for name, given in sorted(value.items())}
