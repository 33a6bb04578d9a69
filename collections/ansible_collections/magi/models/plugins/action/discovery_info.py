# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._models.drift import drift_lines, find_drift
from ansible_collections.magi.models.plugins.module_utils._models.model import Inventory
from ansible_collections.magi.models.plugins.module_utils._models.show import inventory_lines
from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import ControllerAction


class ActionModule(ControllerAction):
    """Show the models of all hosts; see the module of the same name."""

    SPEC = {"hosts": {"type": "dict", "required": True}}

    def decide(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        hosts = arguments["hosts"]
        known = {name: Inventory.from_dict(result) for name, result in hosts.items() if "models" in result}
        lines = []
        for name in hosts:
            found = inventory_lines(known[name]) if name in known else ["not reachable, or it could not be scanned"]
            lines += ["", f"{name}:", *found]
        drifted = find_drift({name: inventory.models for name, inventory in known.items()})
        self.show([*lines, "", *drift_lines(drifted)])
        return {
            "models": {name: hosts[name]["models"] for name in known},
            "drift": [item.to_dict() for item in drifted],
        }
