# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import ControllerAction
from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import host_result
from ansible_collections.magi.models.plugins.plugin_utils._fleet.rollout import Rollout, held_back


class ActionModule(ControllerAction):
    """Decide whether a batch is held back; see the module of the same name."""

    SPEC = {
        "hosts": {"type": "dict", "default": {}},
        "order": {"type": "list", "elements": "str", "required": True},
        "batches": {"type": "list", "elements": "int", "required": True},
        "max_fail_percentage": {"type": "int", "default": 0},
    }

    def decide(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        rollout = Rollout(tuple(arguments["order"]), tuple(arguments["batches"]))
        before = rollout.before(task_vars["inventory_hostname"])
        results = [host_result(name, arguments["hosts"][name]) for name in before]
        return {"held_back": held_back(results, arguments["max_fail_percentage"])}
