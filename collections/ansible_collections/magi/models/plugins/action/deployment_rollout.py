# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import ControllerAction
from ansible_collections.magi.models.plugins.plugin_utils._fleet.rollout import roll_out


class ActionModule(ControllerAction):
    """Decide order and batches; see the module of the same name."""

    SPEC = {
        "hosts": {"type": "dict", "required": True},
        "serial": {"type": "list", "elements": "raw", "required": True},
    }

    def decide(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        serving = {
            name: any(item["pid"] for item in found["host"]["instances"]) for name, found in arguments["hosts"].items()
        }
        return roll_out(serving, arguments["serial"]).to_dict()
