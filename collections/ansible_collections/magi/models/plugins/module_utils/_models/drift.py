# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Drift: one id for different models on different hosts. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._models.model import Model


@dataclass(frozen=True)
class Variant:
    """The model that some hosts have under an id."""

    size_bytes: int
    fingerprint: str
    sha256: str | None  # if all hosts that have the model know it
    hosts: tuple[str, ...]


@dataclass(frozen=True)
class Drift:
    """An id and its variants, the one that most hosts have first."""

    id: str
    variants: tuple[Variant, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {"id": self.id, "variants": [{**vars(item), "hosts": list(item.hosts)} for item in self.variants]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Drift:
        """The inverse of ``to_dict``."""
        return cls(plain["id"], tuple(Variant(**{**item, "hosts": tuple(item["hosts"])}) for item in plain["variants"]))


def find_drift(models: Mapping[str, Sequence[Model]]) -> list[Drift]:
    """The drift among the models of all hosts, by id.

    Models differ by size or header fingerprint, or by SHA-256 if all hosts that have the model know it.
    """
    by_id: dict[str, dict[str, Model]] = defaultdict(dict)
    for host, found in models.items():
        for model in found:
            by_id[model.id][host] = model
    drifted = []
    for model_id, on_hosts in sorted(by_id.items()):
        comparable = all(model.sha256 for model in on_hosts.values())
        variants: dict[tuple[int, str, str | None], list[str]] = defaultdict(list)
        for host, model in sorted(on_hosts.items()):
            variants[model.size_bytes, model.fingerprint, model.sha256 if comparable else None].append(host)
        if len(variants) > 1:
            ordered = sorted(variants.items(), key=lambda item: (-len(item[1]), item[1]))
            drifted.append(Drift(model_id, tuple(Variant(*key, tuple(hosts)) for key, hosts in ordered)))
    return drifted


def drift_lines(drifted: Iterable[Drift]) -> list[str]:
    """Lines for people: each id, and the hosts by content."""
    lines = []
    for item in drifted:
        lines.append(f"Drift: {item.id} is not the same on all hosts:")
        lines += [
            f"  {', '.join(variant.hosts)}: {variant.size_bytes} bytes, header {variant.fingerprint[:12]}"
            for variant in item.variants
        ]
        lines.append("")
    return lines
