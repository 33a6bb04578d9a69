# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._host.values import Host
from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import ControllerAction, variables_of
from ansible_collections.magi.models.plugins.plugin_utils._fleet.status import build_status, status_lines


class ActionModule(ControllerAction):
    """Show what runs on all hosts, from what the verb status registered; see the module of the same name."""

    SPEC = {"hosts": {"type": "list", "elements": "str", "required": True}}

    def decide(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        seen = variables_of(arguments["hosts"], task_vars)
        found = {name: variables.get("__model_server_after") or {} for name, variables in seen.items()}
        status = build_status({name: Host.from_dict(x["host"]) if "host" in x else None for name, x in found.items()})
        self.show(["", *status_lines(status), ""])
        return {"status": status}
