# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._host.values import Host
from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import ControllerAction
from ansible_collections.magi.models.plugins.plugin_utils._fleet.status import build_status, status_lines
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import Way


class ActionModule(ControllerAction):
    """Show what runs on all hosts; see the module of the same name."""

    SPEC = {"hosts": {"type": "dict", "required": True}}

    def decide(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        looked = {name: (seen.get("looked") or {}).get("host") for name, seen in arguments["hosts"].items()}
        status = build_status(
            {name: Host.from_dict(host) if host else None for name, host in looked.items()},
            {name: Way(**arguments["hosts"][name]["settings"]["way"]) for name, host in looked.items() if host},
        )
        self.show(["", *status_lines(status), ""])
        return {"status": status}
