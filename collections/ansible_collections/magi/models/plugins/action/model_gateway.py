# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jinja2
from ansible.errors import AnsibleActionFail
from ansible_collections.magi.models.plugins.module_utils._base.managers import MANAGERS
from ansible_collections.magi.models.plugins.module_utils._haproxy.choice import gateway_service
from ansible_collections.magi.models.plugins.module_utils._haproxy.options import GATEWAY_OPTIONS
from ansible_collections.magi.models.plugins.module_utils._haproxy.sealed import SECRETS
from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import HostAction
from ansible_collections.magi.models.plugins.plugin_utils._ansible.templates import plain_environment
from ansible_collections.magi.models.plugins.plugin_utils._fleet.gateway_health import gateway_questions
from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import (
    actions_of_all,
    host_result,
    launched_models,
)
from ansible_collections.magi.models.plugins.plugin_utils._fleet.stand_in import stand_ins_of, with_stand_ins
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import Way
from ansible_collections.magi.models.plugins.plugin_utils._gateway.haproxy import configuration
from ansible_collections.magi.models.plugins.plugin_utils._gateway.routes import (
    Server,
    meanwhile,
    reached,
    routes,
    shared_aliases,
    unknown_hosts,
    unlocked,
)
from ansible_collections.magi.models.plugins.plugin_utils._gateway.settings import Gateway, GatewayError

ROLES = Path(__file__).parents[2] / "roles"
OURS = ("hosts", "templates_dir", "health_from")
"""The options that stay on the controller."""


class ActionModule(HostAction):
    """Render the configuration on the controller and give it to the module in one call."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _checked, given = self.validate_argument_spec(GATEWAY_OPTIONS)
        on_host = {key: value for key, value in self._task.args.items() if key not in OURS}
        if given["state"] == "remembered":
            return {**result, **self.remembered(on_host, task_vars)}
        if given["state"] not in ("present", "prepared"):
            return {**result, **self.on_host("model_gateway", on_host, task_vars)}
        if not str(self._task.args["home"]).startswith("/"):
            raise AnsibleActionFail("model_gateway_home must be an absolute path; correct it in the inventory.")
        variables = task_vars or {}
        name, way = variables["inventory_hostname"], Way(*self.reached_by(variables))
        hosts = [host_result(*item) for item in given["hosts"].items()]
        if given["state"] == "prepared":
            hosts = [
                replace(item, plan=item.plan and with_stand_ins(item.plan, stand_ins_of(item.name, seen)))
                for item, seen in zip(hosts, given["hosts"].values())
            ]
        rollout = next((seen["rollout"] for seen in given["hosts"].values() if seen.get("rollout")), {})
        began_at, undone = rollout.get("began_at", 0), rollout.get("undone", 0)
        known: list[Server] = []
        if given["state"] == "prepared" or unknown_hosts(hosts) or undone:
            asked = self.on_host("model_gateway", {**on_host, "state": "remembered"}, task_vars)
            if asked.get("failed") or asked.get("unreachable"):
                return {**result, **asked}
            known = [Server.from_dict(item) for item in asked["servers"]]
            earlier = [made for made in asked["history"] if made["began_at"] < undone]
            if earlier:
                began_at = earlier[-1]["began_at"]
                given, on_host = ({**where, **earlier[-1]["settings"]} for where in (given, on_host))
        try:
            gateway = Gateway.of(given)
        except GatewayError as error:
            raise AnsibleActionFail(str(error)) from None
        found = reached(name, way, hosts, known)
        servers = found.servers
        if given["state"] == "prepared":
            servers = meanwhile(known, servers, actions_of_all(hosts))
        try:
            job = {
                **self.job(gateway, servers, given),
                "began_at": began_at,
                "undone": undone,
                "settings": asdict(gateway),
            }
        except (ValueError, jinja2.TemplateError) as error:
            raise AnsibleActionFail(f"Host {name}: a file of the gateway can't be written: {error}.") from None
        url, url_from = way.url(gateway.address, gateway.port, tls=bool(gateway.tls_certificate))
        result.update(self.on_host("model_gateway", {**on_host, "job": job}, task_vars))
        result["warnings"] = [
            *result.get("warnings", ()),
            *found.warnings,
            *shared_aliases(found.servers),
            *unlocked(gateway, found.servers),
        ]
        result["gateway"] = {
            "url": f"{url}/v1",
            "url_from": url_from,
            "asks_key": bool(gateway.keys_file),
            "routes": [
                {"names": list(item.names), "servers": [{"host": s.host, "instance": s.instance} for s in item.servers]}
                for item in routes(servers)
            ],
            "servers": [item.to_dict() for item in servers],
            "home": given["home"],
            "manager": given["manager"],
            "metrics": {"address": gateway.metrics_address, "port": gateway.metrics_port, "way": asdict(way)},
        }
        done = not (self._task.check_mode or any(result.get(key) for key in ("failed", "unreachable", "missing")))
        routed = {item.model_id for item in found.servers}
        asked = [name for name in launched_models(hosts) if name in routed] if done else []
        result["questions"] = gateway_questions(
            way,
            gateway.address,
            gateway.port,
            asked,
            given["health_from"],
            tls=bool(gateway.tls_certificate),
            socket=result.get("keyless", ""),
        )
        return result

    def remembered(self, on_host: Mapping[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Return what a gateway remembers; nothing, with a warning, of one that is not reached."""
        found = self.on_host_or_lost("model_gateway", on_host, task_vars)
        if not found.get("unreachable"):
            return found
        said = " ".join(str(found["msg"]).split()).rstrip(".")
        warning = f"Gateway {self._task.delegate_to} could not be asked what it remembers: {said}."
        return {"changed": False, "servers": [], "history": [], "settled_at": 0, "warnings": [warning]}

    def job(self, gateway: Gateway, servers: Sequence[Server], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the module needs. Which service manager a host has, only the host knows."""
        folders = [str(ROLES / role / "templates") for role in ("gateway", "model_server")]
        if given["templates_dir"]:
            folders.insert(0, str(given["templates_dir"]))
        home = str(given["home"])
        service_files = {}
        places = {}
        for manager in MANAGERS if given["manager"] == "auto" else (given["manager"],):
            service = gateway_service(manager, home)
            places[manager] = (service.sockets, service.secrets)
            renderer = plain_environment(folders)
            renderer.filters.update(service.filters)
            values = {
                "home": home,
                "haproxy_path": given["haproxy_path"],
                "sockets": service.sockets,
                "secrets": [f"{home}/{SECRETS}/{name}" for name in gateway.secrets],
                "secrets_folder": service.secrets,
                **service.values(),
            }
            service_files[manager] = [
                {
                    "path": template.destination.format(home=home),
                    "content": renderer.get_template(template.source).render(values),
                    "mode": template.mode,
                }
                for template in service.templates
            ]
        made = {
            manager: configuration(gateway, routes(servers), servers, plain_environment(folders), *place)
            for manager, place in places.items()
        }
        return {
            "files": made,
            "service_files": service_files,
            "addresses": list(gateway.addresses),
        }
