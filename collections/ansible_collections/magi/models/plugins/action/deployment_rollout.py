# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import ControllerAction
from ansible_collections.magi.models.plugins.plugin_utils._fleet.precedence import Seen, precedence
from ansible_collections.magi.models.plugins.plugin_utils._fleet.rollout import roll_out


class ActionModule(ControllerAction):
    """Decide order and batches; see the module of the same name."""

    SPEC = {
        "hosts": {"type": "dict", "required": True},
        "among": {"type": "list", "elements": "str"},
        "serial": {"type": "list", "elements": "raw", "required": True},
    }

    def decide(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        hosts = arguments["hosts"]
        among = hosts if arguments["among"] is None else arguments["among"]
        serving = {name: any(item["pid"] for item in hosts[name]["host"]["instances"]) for name in among}
        decided = precedence({name: Seen.of(found) for name, found in hosts.items() if found.get("claim")}, time.time())
        serial = ["100%"] if decided.refused else arguments["serial"]
        return {**roll_out(serving, serial).to_dict(), **decided.to_dict()}
