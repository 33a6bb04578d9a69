# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from typing import Any

from ansible.utils.display import Display
from ansible_collections.magi.models.plugins.module_utils._haproxy.options import INFO_OPTIONS
from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import HostAction
from ansible_collections.magi.models.plugins.plugin_utils._fleet.gateway_health import gateway_questions
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import Way
from ansible_collections.magi.models.plugins.plugin_utils._gateway.show import asked_for, gateway_entry, routes_lines


class ActionModule(HostAction):
    """Show what the module of the same name found on the host."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _checked, given = self.validate_argument_spec(INFO_OPTIONS)
        result.update(self.on_host("model_gateway_info", self._task.args, task_vars))
        if "routed" in result:
            variables = task_vars or {}
            way = Way(*self.reached_by(variables))
            address, port, tls = given["address"], given["port"], bool(given["tls_certificate"])
            where = way.url(address, port, tls=tls)
            entry = result["gateway"] = gateway_entry(variables["inventory_hostname"], *where, result)
            names = [route["names"][0] for route in entry["routes"]]
            asker = given["health_from"]
            result["questions"] = (
                gateway_questions(way, address, port, names, asker, whole=True, tls=tls, socket=result["keyless"])
                if entry["is_ready"]
                else []
            )
            result["tasks"] = asked_for(entry, result["routed"])
            Display().display("\n".join(["", *routes_lines(entry), ""]))
        return result
