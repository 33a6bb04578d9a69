# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._host.values import Host
from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import ControllerAction
from ansible_collections.magi.models.plugins.plugin_utils._fleet.gateways import gateway_lines
from ansible_collections.magi.models.plugins.plugin_utils._fleet.health import (
    HostHealth,
    build_health,
    health_problems,
)
from ansible_collections.magi.models.plugins.plugin_utils._fleet.questions import answers
from ansible_collections.magi.models.plugins.plugin_utils._fleet.status import status_lines
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import Way


def examined(seen: Mapping[str, Any]) -> HostHealth:
    looked = (seen.get("looked") or {}).get("host")
    return HostHealth(
        Host.from_dict(looked) if looked else None,
        answers((seen.get("asked") or {}).get("results") or ()),
        (seen.get("probed") or {}).get("probes") or {},
        Way(**seen["settings"]["way"]) if looked else Way(),
    )


class ActionModule(ControllerAction):
    """Say which servers serve; see the module of the same name."""

    SPEC = {"hosts": {"type": "dict", "required": True}, "gateways": {"type": "dict", "default": {}}}

    def decide(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        hosts = {name: examined(seen) for name, seen in arguments["hosts"].items()}
        document = build_health(hosts, arguments["gateways"])
        through = gateway_lines(document.get("gateways", ()))
        self.show(["", *status_lines(document), *([""] if through else []), *through, ""])
        return {"health": document, "problems": health_problems(document, hosts)}
