# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.magi.models.plugins.module_utils._config.monitoring import MONITORING_OPTIONS
from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import HostAction
from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import host_result
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import Way
from ansible_collections.magi.models.plugins.plugin_utils._observe.prometheus import prometheus
from ansible_collections.magi.models.plugins.plugin_utils._observe.rules import LimitError, Limits, rules
from ansible_collections.magi.models.plugins.plugin_utils._observe.targets import (
    Targets,
    gateway_exporters,
    host_exporters,
    targets,
)


class ActionModule(HostAction):
    """Make the files on the controller and give them to the module in one call."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _checked, given = self.validate_argument_spec(MONITORING_OPTIONS)
        variables = task_vars or {}
        on_host = {name: given[name] for name in ("state", "home")}
        if not str(self._task.args["home"]).startswith("/"):
            raise AnsibleActionFail("observability_home must be an absolute path; correct it in the inventory.")
        if given["state"] == "absent":
            return {**result, **self.on_host("model_monitoring", on_host, task_vars)}
        try:
            limits = Limits.of(given["limits"])
        except LimitError as error:
            raise AnsibleActionFail(str(error)) from None
        way = Way(*self.reached_by(variables))
        found = self.targets(variables["inventory_hostname"], way, given)
        home = given["home"]
        files = {
            "prometheus.yml": prometheus(home, given["interval"], given["key_file"], given["alertmanagers"]),
            "rules.yml": rules(limits, given["runbooks"]),
            **{f"targets/{name}": content for name, content in found.files.items()},
        }
        job = {"files": files, "keep": [f"targets/{name}" for name in found.keep]}
        result.update(self.on_host("model_monitoring", {**on_host, "job": job}, task_vars))
        result["warnings"] = [*result.get("warnings", ()), *found.warnings]
        return result

    def targets(self, monitor: str, way: Way, given: Mapping[str, Any]) -> Targets:
        hosts = [host_result(*item) for item in given["hosts"].items()]
        gateways, lost = gateway_exporters(given["gateways"])
        ways = {
            **dict.fromkeys(given["gateways"]),
            **{item.host: item.way for item in gateways},
            **{item.name: item.way if item.plan else None for item in hosts},
            monitor: way,
        }
        nodes, gone = host_exporters(ways, given["node_port"])
        return targets(monitor, way, hosts, [*gateways, *nodes], [*lost, *gone], has_key=bool(given["key_file"]))
