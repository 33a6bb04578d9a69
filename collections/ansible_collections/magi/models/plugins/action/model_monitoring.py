# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.magi.models.plugins.module_utils._config.monitoring import MONITORING_OPTIONS
from ansible_collections.magi.models.plugins.module_utils._models.drift import find_drift
from ansible_collections.magi.models.plugins.module_utils._models.model import Inventory, Model
from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import HostAction
from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import host_result
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import Way
from ansible_collections.magi.models.plugins.plugin_utils._observe.dashboards import dashboards
from ansible_collections.magi.models.plugins.plugin_utils._observe.prometheus import prometheus
from ansible_collections.magi.models.plugins.plugin_utils._observe.rules import LimitError, Limits, rules
from ansible_collections.magi.models.plugins.plugin_utils._observe.targets import (
    Targets,
    gateway_exporters,
    gpu_exporters,
    host_exporters,
    targets,
)
from ansible_collections.magi.models.plugins.plugin_utils._observe.textfile import FILE, textfile

OURS = {
    "home": ["prometheus.yml", "rules.yml", "targets/*-of-*.json", "grafana.yml", "dashboards/magi-*.json"],
    "textfile_dir": [FILE],
}
"""The files in the folder that each of these settings names."""


class ActionModule(HostAction):
    """Make the files on the controller and give them to the module in one call."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _checked, given = self.validate_argument_spec(MONITORING_OPTIONS)
        variables = task_vars or {}
        name = variables["inventory_hostname"]
        present = given["state"] == "present"
        for setting in OURS:
            if given[setting] and not str(self._task.args[setting]).startswith("/"):
                raise AnsibleActionFail(
                    f"observability_{setting} must be an absolute path; correct it in the inventory."
                )
        job: dict[str, dict[str, Any]] = {
            setting: {"files": {}, "ours": ours, "keep": []} for setting, ours in OURS.items() if given[setting]
        }
        found = Targets()
        if present and given["home"]:
            found = self.targets(name, Way(*self.reached_by(variables)), given)
            job["home"].update(self.prometheus(given, found))
        if present and given["textfile_dir"]:
            seen = given["hosts"].get(name)
            drifted = find_drift(self.models(given)) if seen else []
            job["textfile_dir"]["files"] = {FILE: textfile(host_result(name, seen), drifted)} if seen else {}
        on_host = {setting: given[setting] for setting in ("state", *OURS)}
        result.update(self.on_host("model_monitoring", {**on_host, "job": job}, task_vars))
        result["warnings"] = [*result.get("warnings", ()), *found.warnings]
        return result

    def prometheus(self, given: Mapping[str, Any], found: Targets) -> dict[str, Any]:
        """Return the files for Prometheus, and which of those that are there stay."""
        home = given["home"]
        try:
            limits = Limits.of(given["limits"])
        except LimitError as error:
            raise AnsibleActionFail(str(error)) from None
        return {
            "files": {
                "prometheus.yml": prometheus(home, given["interval"], given["key_file"], given["alertmanagers"]),
                "rules.yml": rules(limits, given["runbooks"]),
                **dashboards(home),
                **{f"targets/{name}": content for name, content in found.files.items()},
            },
            "keep": [f"targets/{name}" for name in found.keep],
        }

    def models(self, given: Mapping[str, Any]) -> dict[str, Sequence[Model]]:
        """Return the models of each host that this run knows."""
        found = {name: seen.get("registry") or {} for name, seen in given["hosts"].items()}
        return {name: Inventory.from_dict(result).models for name, result in found.items() if "models" in result}

    def targets(self, monitor: str, way: Way, given: Mapping[str, Any]) -> Targets:
        hosts = [host_result(*item) for item in given["hosts"].items()]
        gateways, lost = gateway_exporters(given["gateways"])
        ways = {
            **dict.fromkeys(given["gateways"]),
            **{item.host: item.way for item in gateways},
            **{item.name: item.way if item.plan else None for item in hosts},
            monitor: way,
        }
        nodes, gone = host_exporters(ways, given["node_address"], given["node_port"])
        devices, left = gpu_exporters(ways, given["gpu_exporters"])
        exporters, unknown = [*gateways, *nodes, *devices], [*lost, *gone, *left]
        return targets(monitor, way, hosts, exporters, unknown, has_key=bool(given["key_file"]))
