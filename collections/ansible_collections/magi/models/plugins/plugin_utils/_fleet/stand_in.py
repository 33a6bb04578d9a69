# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""An instance that stands in for another while that restarts, with what that restarts with. Pure.

It is in no plan: the deployment starts it before the restart and ends it afterwards. What is left of one is an instance
like any other that no plan wants, so the next deployment ends it.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._plan.values import STANDS_IN, Action, Instance, Plan


def stand_in(instance: Instance, port: int, taken: Collection[str]) -> Instance:
    """Return what stands in for ``instance`` on a ``port`` of its own, with a name that is not ``taken``."""
    numbered = (f"{instance.name}-stand-in-{number}" for number in itertools.count(1))
    name = next(name for name in numbered if name not in taken)
    environment = {
        **instance.environment,
        # It goes on to say the first of its names, as they are sorted.
        "LLAMA_ARG_ALIAS": f"{instance.environment['LLAMA_ARG_ALIAS']},{name}",
        "LLAMA_ARG_PORT": str(port),
        "MAGI_INSTANCE": name,
        STANDS_IN: instance.name,
    }
    return replace(instance, name=name, port=port, environment=environment)


def stand_ins_of(host: str, seen: Mapping[str, Any]) -> list[Instance]:
    """Return what stands in for something on a host until it is ended, from the results of the host's tasks."""
    back = ((seen.get("planned") or {}).get("plan") or {}).get("restores") is not None
    if back or seen.get("relieved"):
        return []
    given = (seen.get("rollout") or {}).get("stand_ins") or {}
    return [Instance.from_dict(item) for item in given.get(host, ())]


def with_stand_ins(plan: Plan, instances: Iterable[Instance]) -> Plan:
    """Return the plan with the start of these ``instances``."""
    made = tuple(instances)
    starts = (Action(item.name, ActionKind.START, f"stands in for {item.environment[STANDS_IN]}") for item in made)
    return replace(plan, instances=(*plan.instances, *made), actions=(*plan.actions, *starts))
