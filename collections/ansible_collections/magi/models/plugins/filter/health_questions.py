# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._host.values import Host
from ansible_collections.magi.models.plugins.plugin_utils._fleet.questions import questions
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import Way


def health_questions(
    host: Mapping[str, Any],
    way: Mapping[str, str],
    health_from: str = "auto",
    names: Iterable[str] | None = None,
    each: bool = True,
) -> list[dict[str, str]]:
    """Return where to ask the instances of a host for their health; see the filter's documentation."""
    chosen = None if names is None else {*names}
    return [item.to_dict() for item in questions(Host.from_dict(host), Way(**way), health_from, chosen, each=each)]


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"health_questions": health_questions}
