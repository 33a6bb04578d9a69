# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a scan found, shown to people: the table of the models, and how two looks at a host differ. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.magi.models.plugins.module_utils._base.table import text_table
from ansible_collections.magi.models.plugins.module_utils._models.model import Inventory


def inventory_lines(inventory: Inventory) -> list[str]:
    """The models in columns, then what was set aside and why."""
    rows = [
        (
            model.id,
            model.tier,
            model.task,
            _scaled(model.size_bytes, 1024, ("B", "KiB", "MiB", "GiB", "TiB")),
            _scaled(model.parameter_count, 1000, ("", "K", "M", "B", "T")),
            model.context_length or "-",
            model.path,
        )
        for model in inventory.models
    ]
    head = ("id", "tier", "task", "size", "parameters", "context", "path")
    lines = text_table(head, rows, numbers={"size", "parameters", "context"})
    aside = _reasons(inventory)
    return lines + (["", "Set aside:"] + [f"  {reason}" for reason in aside] if aside else [])


def _reasons(inventory: Inventory) -> list[str]:
    return [item.reason for item in inventory.companions] + [item.reason for item in inventory.rejected]


def difference(before: Inventory | None, after: Inventory) -> dict[str, str]:
    """The models before and after, one line each, in order of id, for Ansible's diff mode."""
    return {"before": _text_of(before or Inventory()), "after": _text_of(after)}


def _text_of(inventory: Inventory) -> str:
    shown = [
        f"{model.id}: {model.path} ({model.size_bytes} bytes, {model.fingerprint[:12]})"
        + (f" mmproj {model.mmproj.path}" if model.mmproj else "")
        for model in inventory.models
    ]
    shown += [f"set aside: {reason}" for reason in _reasons(inventory)]
    return "".join(f"{line}\n" for line in shown)


def _scaled(number: float, base: int, units: Sequence[str]) -> str:
    """``number`` with the largest unit that leaves at least 1 of it."""
    power = 0
    while number >= base and power < len(units) - 1:
        number, power = number / base, power + 1
    return (f"{number:.1f} " if power else f"{number} ") + units[power]
