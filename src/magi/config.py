"""The merged settings of each host, and the source of each value. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from magi.domain import SECRET

REDACTED = "…"
# These name a file with a secret, and are no secret themselves.
_FILE = re.compile(r"_?(?:FILE|PATH)$", re.IGNORECASE)


@dataclass(frozen=True)
class Value:
    value: Any
    """Secrets redacted."""
    source: str
    """``-e``, ``environment``, ``.env``, ``inventory`` or ``default``."""
    name: str
    """The variable that it came from: an environment variable, or one of Ansible's."""


@dataclass(frozen=True)
class Row:
    """One setting, and the hosts that have it so."""

    setting: str
    value: Value
    hosts: tuple[str, ...]
    everywhere: bool


def config(results: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, dict[str, Value]]:
    """Return the settings by host and name from ``results``, pairs of host and result of the module settings_info."""
    hosts = {}
    for host, result in results:
        origins = result.get("origins")
        if origins is not None:
            hosts[host] = {
                setting: _value(setting, result["settings"][setting], origin)
                for setting, origin in sorted(origins.items())
            }
    return hosts


def _value(setting: str, value: Any, origin: str) -> Value:
    source, _space, name = origin.partition(" ")
    return Value(redacted(value, setting), source, name)


def redacted(value: Any, key: str = "") -> Any:
    """Return ``value`` without secrets, which its key, or that of a part, gives away."""
    if isinstance(value, Mapping):
        return {name: redacted(part, str(name)) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(part, key) for part in value]
    secret = SECRET.search(key) and not _FILE.search(key)
    return REDACTED if secret and value not in (None, "") else value


def rows(hosts: Mapping[str, Mapping[str, Value]]) -> list[Row]:
    """Return one row for each setting, and one more for each group of hosts with another value."""
    found = []
    for setting in sorted({setting for values in hosts.values() for setting in values}):
        groups: list[tuple[Value, list[str]]] = []
        for host, values in hosts.items():
            if setting in values:
                same = next((group for group in groups if group[0] == values[setting]), None)
                if same:
                    same[1].append(host)
                else:
                    groups.append((values[setting], [host]))
        found += [Row(setting, value, tuple(names), len(names) == len(hosts)) for value, names in groups]
    return found
