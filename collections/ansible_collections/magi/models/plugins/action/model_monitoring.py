# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.magi.models.plugins.module_utils._config.monitoring import MONITORING_OPTIONS
from ansible_collections.magi.models.plugins.module_utils._models.drift import find_drift
from ansible_collections.magi.models.plugins.module_utils._models.model import Inventory, Model
from ansible_collections.magi.models.plugins.module_utils._services.timer import Timer
from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import HostAction
from ansible_collections.magi.models.plugins.plugin_utils._ansible.templates import plain_environment
from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import HostResult, host_result
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import Way
from ansible_collections.magi.models.plugins.plugin_utils._gateway.routes import unknown_hosts
from ansible_collections.magi.models.plugins.plugin_utils._observe.dashboards import dashboards
from ansible_collections.magi.models.plugins.plugin_utils._observe.probe import (
    CODE,
    FOUND,
    NAME,
    PROGRAM,
    SERVERS,
    addresses,
    asked,
    program,
)
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

COLLECTION = Path(__file__).parents[2]
OURS = {
    "home": ["prometheus.yml", "rules.yml", "targets/*-of-*.json", "grafana.yml", "dashboards/magi-*.json"],
    "textfile_dir": [FILE, *FOUND],
    "probe_home": PROGRAM,
}
"""The files in the folder that each of these settings names."""


def folder(path: str, ours: Sequence[str]) -> dict[str, Any]:
    """Return what the module needs of a folder, in which nothing of ours is to be."""
    return {"folder": path, "files": {}, "ours": list(ours), "keep": []}


class ActionModule(HostAction):
    """Make the files on the controller and give them to the module in one call."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _checked, given = self.validate_argument_spec(MONITORING_OPTIONS)
        variables = task_vars or {}
        name = variables["inventory_hostname"]
        present = given["state"] == "present"
        for setting in OURS:
            if given[setting] and not str(self._task.args.get(setting, "/")).startswith("/"):
                raise AnsibleActionFail(
                    f"observability_{setting} must be an absolute path; correct it in the inventory."
                )
        asks = given["probe"] and (name in given["hosts"] or not given["home"])
        if present and asks and not given["textfile_dir"]:
            raise AnsibleActionFail(
                "observability_probe needs the folder where node_exporter looks for its files: set "
                "observability_textfile_dir."
            )
        job: dict[str, dict[str, Any]] = {}
        found = Targets()
        if given["home"]:
            job["home"] = folder(given["home"], OURS["home"])
            if present:
                found = self.targets(name, Way(*self.reached_by(variables)), given)
                job["home"].update(self.prometheus(given, found))
        if given["textfile_dir"]:
            seen = given["hosts"].get(name) if present else None
            host = host_result(name, seen) if seen else None
            job["textfile_dir"] = folder(given["textfile_dir"], OURS["textfile_dir"])
            if host:
                job["textfile_dir"]["files"] = {FILE: textfile(host, find_drift(self.models(given)))}
            job.update(self.probe(host, given, variables, job["textfile_dir"]))
        on_host = {setting: given[setting] for setting in ("state", *OURS)}
        result.update(self.on_host("model_monitoring", {**on_host, "job": job}, task_vars))
        warnings = [*result.get("warnings", ()), *found.warnings]
        if job.get("units", {}).get("files") and not result.get("timed", True):
            warnings.append(
                f"Host {name}: without systemd, no timer asks its servers for a token (observability_probe); "
                "let cron run magi health --deep."
            )
        result["warnings"] = warnings
        return result

    def probe(
        self, host: HostResult | None, given: Mapping[str, Any], variables: Mapping[str, Any], told: dict[str, Any]
    ) -> dict[str, dict[str, Any]]:
        """Return the folders of the probe on ``host``, None: there is none. What it found stays in the folder ``told``
        while it is there."""
        program_folder = folder(given["probe_home"], PROGRAM)
        units = folder(Timer.folder, [f"{NAME}.service", f"{NAME}.timer"])
        if given["probe"] and host:
            told["keep"] = list(FOUND)
            if unknown_hosts([host]):
                return {}  # what it asks is known by the host alone
            instances = asked(host.served)
            code = {name: (COLLECTION / "plugins" / "module_utils" / name).read_text("utf-8") for name in CODE}
            program_folder["files"] = program(host.name, instances, code)
            renderer = plain_environment([str(COLLECTION / "roles" / "observability" / "templates")])
            renderer.filters.update(Timer.filters)
            values = {
                "python": self.interpreter(variables),
                "home": given["probe_home"],
                "servers": f"{given['probe_home']}/{SERVERS}",
                **{name: f"{given['textfile_dir']}/{file}" for name, file in zip(("result", "unfinished"), FOUND)},
                "keys": [(item.name, item.api_key_file) for item in instances if item.api_key_file],
                "addresses": addresses(instances),
                "interval": given["probe_interval"],
            }
            try:
                units["files"] = {name: renderer.get_template(f"{name}.j2").render(values) for name in units["ours"]}
            except ValueError as error:
                raise AnsibleActionFail(f"The units of the functional probe can't be written: {error}.") from None
        return {"probe_home": program_folder, "units": units}

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
