# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._host.values import Host
from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import ControllerAction
from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import LAUNCHED, HostResult, host_result
from ansible_collections.magi.models.plugins.plugin_utils._fleet.reach import said_of
from ansible_collections.magi.models.plugins.plugin_utils._gateway.canary import Clients, Watched, by_server, worse


class ActionModule(ControllerAction):
    """Decide whether the first hosts do worse; see the module of the same name."""

    SPEC = {
        "hosts": {"type": "dict", "required": True},
        "batch": {"type": "list", "elements": "str", "required": True},
        "watched": {"type": "dict"},
        "before": {"type": "list", "elements": "dict", "default": []},
        "after": {"type": "list", "elements": "dict", "default": []},
        "bake": {"type": "int", "required": True},
        "auto_revert": {"type": "bool", "required": True},
    }

    def decide(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        results = {name: host_result(name, seen) for name, seen in arguments["hosts"].items()}
        batch = [name for name in arguments["batch"] if name in results]
        watched = arguments["watched"]
        hosts = {name: _watched(name, results[name], watched and watched.get(name, {})) for name in batch}
        others = [item for name, item in results.items() if name not in batch]
        gateways = [
            Clients(
                *(by_server(counts or (), results.values()) for counts in (before.get("counts"), after.get("counts"))),
                by_server(after.get("later") or (), results.values()),
                after.get("waited") or 0,
            )
            for before, after in zip(arguments["before"], arguments["after"])
        ]
        found = worse(hosts, others, gateways)
        back = arguments["auto_revert"] and bool(found)
        if found:
            what = "what they were given is taken back" if back else "it stays, as auto_revert is false"
            self.show([f"{name} does worse: {said}; {what}" for name, said in found.items()])
        launched = {
            name: [item.to_dict() for item in hosts[name].result.results if item.action.action in LAUNCHED]
            for name in batch
        }
        return {
            "worse": found,
            "take_back": batch if back else [],
            "launched": {} if found else launched,
            "bake": 0 if found else arguments["bake"],
        }


def _watched(name: str, result: HostResult, seen: Mapping[str, Any] | None) -> Watched:
    """Return what was seen of a host; ``seen`` is None before the watch."""
    if seen is None:
        return Watched(result)
    looked, tried = seen.get("looked") or {}, seen.get("tried") or {}
    if "host" in looked and "probes" in tried:
        return Watched(result, Host.from_dict(looked["host"]), tried["probes"])
    said = next((said_of(name, item) for item in (looked, tried) if item.get("msg")), "it gave no answer")
    return Watched(result, lost=f"it could not be watched ({said})")
