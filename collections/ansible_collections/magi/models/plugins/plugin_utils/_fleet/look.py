# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is known of the hosts of a fleet when it is decided what runs where. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._host.values import Host
from ansible_collections.magi.models.plugins.module_utils._llama.need import Told
from ansible_collections.magi.models.plugins.module_utils._models.model import Inventory
from ansible_collections.magi.models.plugins.module_utils._plan.values import Settings


@dataclass(frozen=True)
class Look:
    """What was found on a host."""

    inventory: Inventory
    host: Host
    settings: Settings
    scan_paths: Sequence[str]
    needs: Mapping[str, Told] | None

    @classmethod
    def of(cls, registry: Mapping[str, Any], settings: Mapping[str, Any]) -> Look:
        """Return it from a result of the module model_registry, and the settings of the host."""
        needs = registry.get("needs")
        return cls(
            Inventory.from_dict(registry),
            Host.from_dict(registry["host"]),
            Settings.of(settings),
            registry["scan_paths"],
            None if needs is None else {key: Told.of(plain) for key, plain in needs.items()},
        )


@dataclass(frozen=True)
class Fleet:
    """All hosts that a profile may be for, and what is known of them."""

    hosts: tuple[str, ...]
    """Those of the inventory, in its order."""
    looks: Mapping[str, Look]
    allowed: Sequence[Collection[str] | None]
    """By entry of the profile, the hosts that its pattern matches; None: all."""
    away: Collection[str] = ()
    """Those that can't be reached."""
    left_out: Collection[str] = ()
    """Those that --limit leaves out, so that nobody looked."""
    addresses: Mapping[str, str] = field(default_factory=dict)
    """By host, the address at which others reach its workers; empty where that is not known."""


def allowed_hosts(fleet: Fleet, index: int) -> list[str]:
    """Return the hosts that an entry of the profile, by its index, is for."""
    allowed = fleet.allowed[index]
    return [name for name in fleet.hosts if allowed is None or name in allowed]
