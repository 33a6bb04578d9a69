# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any


def registered(hosts: Iterable[str], hostvars: Any, variable: str | None = None, /, **variables: str) -> str:
    """Return what tasks registered on ``hosts``, as JSON; see the filter's documentation.

    Ansible would template each string in a structure: 4 s for 50 hosts with 100 models, instead of 0.1. This is one
    string, the result of a template, and Ansible templates no result again. So what comes from hosts stays plain data.
    """
    found = {}
    for host in hosts:
        seen: Mapping[str, Any] = hostvars.raw_get(host)
        found[host] = (
            seen.get(variable) or {}
            if variable
            else {key: seen[name] for key, name in variables.items() if name in seen}
        )
    return json.dumps(found, default=str)  # warnings and exceptions are Ansible's objects


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"registered": registered}
