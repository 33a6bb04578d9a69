# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A profile: which models are enabled, how many instances of each, and with which options."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator


class ProfileError(ValueError):
    """A profile can't be used; the message names it, the entry, what is wrong and the remedy."""


@dataclass(frozen=True)
class Entry:
    """One line of ``enabled_models``: a selector (a tier, a glob over ids or an exact id) and its settings."""

    kind: str
    """``tier``, ``glob`` or ``model``."""
    pattern: str
    instances: int = 1
    port: int | None = None
    """Fixed port of the first instance."""
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"tier {self.pattern}" if self.kind == "tier" else self.pattern

    def matches(self, model_id: str, tier: str) -> bool:
        if self.kind == "tier":
            return tier == self.pattern
        return fnmatch.fnmatchcase(model_id, self.pattern)


@dataclass(frozen=True)
class Profile:
    name: str
    description: str
    entries: tuple[Entry, ...]
    options: Mapping[str, Any]
    strict: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Profile:
        entries = tuple(Entry(**entry) for entry in data["entries"])
        return cls(data["name"], data["description"], entries, data["options"], data["strict"])


_PROFILE = {
    "name": {"type": "str"},
    "description": {"type": "str", "default": ""},
    "enabled_models": {"type": "list", "elements": "raw", "required": True},
    "options": {"type": "dict", "default": {}},
    "strict": {"type": "bool", "default": False},
}
_ENTRY = {
    "model": {"type": "str"},
    "tier": {"type": "str"},
    "instances": {"type": "int", "default": 1},
    "port": {"type": "int"},
    "options": {"type": "dict", "default": {}},
}


def _validated(what: str, data: Any, spec: Mapping[str, Any], **constraints: Any) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise ProfileError(f"{what} must be a mapping, not {type(data).__name__}.")
    result = ArgumentSpecValidator(spec, **constraints).validate(dict(data))
    if result.error_messages:
        raise ProfileError(f"{what}: {'; '.join(result.error_messages)}.")
    return result.validated_parameters


def _entry(what: str, data: Any) -> Entry:
    if isinstance(data, str):
        data = {"model": data}
    valid = _validated(what, data, _ENTRY, mutually_exclusive=[("model", "tier")], required_one_of=[("model", "tier")])
    instances, port = valid["instances"], valid["port"]
    if instances < 1:
        raise ProfileError(f"{what}: instances must be 1 or more, not {instances}.")
    if port is not None and not 1 <= port <= 65535:
        raise ProfileError(f"{what}: port must be from 1 to 65535, not {port}.")
    pattern = valid["tier"] or valid["model"]
    if not pattern:
        raise ProfileError(f"{what}: the selector is empty; give a model id, a glob or a tier.")
    kind = "tier" if valid["tier"] else "glob" if any(c in pattern for c in "*?[") else "model"
    if port is not None and kind != "model":
        raise ProfileError(f"{what}: port needs an exact model id, since {pattern!r} may match several models.")
    return Entry(kind, pattern.upper() if kind == "tier" else pattern, instances, port, valid["options"] or {})


def parse_profile(name: str, data: Any) -> Profile:
    """Return the profile ``name`` from ``data``, the YAML document of its file.

    Raises ProfileError naming the profile, the entry (counted from 1) and what is wrong.
    """
    what = f"Profile {name}"
    valid = _validated(what, data, _PROFILE)
    if valid["name"] not in (None, name):
        raise ProfileError(f"{what}: its file says name: {valid['name']}; make the two equal.")
    entries = tuple(_entry(f"{what}, entry {number}", entry) for number, entry in enumerate(valid["enabled_models"], 1))
    if not entries:
        raise ProfileError(f'{what}: enabled_models is empty; enable a model, or "*" for all.')
    return Profile(name, valid["description"] or "", entries, valid["options"] or {}, valid["strict"])
