# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._config.profile import Canary
from ansible_collections.magi.models.plugins.module_utils._host.values import WORKER, Host
from ansible_collections.magi.models.plugins.module_utils._plan.values import Plan
from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import ControllerAction
from ansible_collections.magi.models.plugins.plugin_utils._fleet.phases import Before, apart, phases, phases_lines
from ansible_collections.magi.models.plugins.plugin_utils._fleet.precedence import Seen, precedence
from ansible_collections.magi.models.plugins.plugin_utils._fleet.rollout import roll_out
from ansible_collections.magi.models.plugins.plugin_utils._gateway.canary import alone, canaries, first_instances


class ActionModule(ControllerAction):
    """Decide order and batches; see the module of the same name."""

    SPEC = {
        "hosts": {"type": "dict", "required": True},
        "among": {"type": "list", "elements": "str"},
        "serial": {"type": "list", "elements": "raw", "required": True},
        "plans": {"type": "dict", "default": {}},
        "gateways": {"type": "list", "elements": "str", "default": []},
        "undone": {"type": "float", "default": 0},
        "canary": {"type": "dict"},
        "by_instance": {"type": "bool", "default": False},
        "began_at": {"type": "float", "default": 0},
    }

    def decide(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        hosts = arguments["hosts"]
        among = hosts if arguments["among"] is None else arguments["among"]
        serving = {name: any(item["pid"] for item in hosts[name]["host"]["instances"]) for name in among}
        decided = precedence({name: Seen.of(found) for name, found in hosts.items() if found.get("claim")}, time.time())
        serial = ["100%"] if decided.refused else arguments["serial"]
        behind = arguments["gateways"] and not decided.refused and _something_goes(arguments["plans"])
        canary = Canary(**arguments["canary"]) if arguments["canary"] and not decided.refused else None
        has_workers = not decided.refused and _workers(hosts, arguments["plans"])
        plans = _plans(arguments["plans"]) if behind or canary or has_workers else {}
        workers = _first(before(hosts, plans)) if has_workers else {}
        # What a server had of workers on other hosts is not taken back with it.
        ours = {name: plans[name] for name in among if name in plans}
        tried = {name: plan for name, plan in ours.items() if name not in workers.get("workers_on", ())}
        first = canaries(tried, canary) if canary else ()
        only = self._only(hosts, tried, canary) if canary and first and len(among) == 1 else {}
        if not arguments["by_instance"]:
            only = {}
        known = before(hosts, {**ours, **only}) if behind else {}
        rollout = roll_out(serving, serial, apart(known), first)
        found = phases(known, rollout.parts())
        self.show([*workers.pop("lines", ()), *phases_lines(found)])
        # Another controller's clock may be ahead of ours.
        looked = [found["host"] for found in hosts.values() if found.get("host")]
        latest = max((host["generation"].get("began_at", 0) for host in looked), default=0)
        return {
            **rollout.to_dict(),
            **decided.to_dict(),
            **asdict(found),
            "ends": {},
            "workers": {},
            "workers_on": [],
            **workers,
            "canary": list(first),
            "alone": {name: plan.to_dict() for name, plan in only.items()},
            "follows": arguments["began_at"] > 0,
            "bake": canary.bake if canary else 0,
            "auto_revert": bool(canary and canary.auto_revert),
            "began_at": arguments["began_at"] or max(time.time(), latest + 0.001),
            "undone": arguments["undone"],
        }

    def _only(self, hosts: Mapping[str, Any], plans: Mapping[str, Plan], canary: Canary) -> dict[str, Plan]:
        """Return the part of the only host's plan that comes first; nothing where all of it comes at once."""
        ((name, plan),) = plans.items()
        host = Host.from_dict(hosts[name]["host"])
        first = first_instances(plan, host, canary)
        if first:
            self.show([f"{name}: {', '.join(first)} first, watched for {canary.bake} s; then what else changes"])
        return {name: alone(plan, host, first)} if first else {}


def _plans(planned: Mapping[str, Any]) -> dict[str, Plan]:
    """Return by host its plan, where there is one."""
    return {name: Plan.from_dict(item["plan"]) for name, item in planned.items() if item.get("plan")}


def _workers(hosts: Mapping[str, Any], plans: Mapping[str, Any]) -> bool:
    """Whether a host has workers, or is to have some."""
    return any((planned.get("plan") or {}).get("workers") for planned in plans.values()) or any(
        WORKER in item["environment"]
        for name in plans
        for item in ((hosts.get(name) or {}).get("host") or {}).get("instances", ())
    )


def _first(known: Mapping[str, Before]) -> dict[str, Any]:
    # Each worker of Ansible's imports its action anew, and few deployments need these.
    from ansible_collections.magi.models.plugins.plugin_utils._fleet.workers import workers_first, workers_lines

    found = workers_first({name: (item.plan, item.host) for name, item in known.items()})
    return {**asdict(found), "workers_on": list(found.hosts), "lines": workers_lines(found)}


def _something_goes(plans: Mapping[str, Any]) -> bool:
    actions = (
        action["action"] for planned in plans.values() for action in (planned.get("plan") or {}).get("actions", ())
    )
    return any(kind in (ActionKind.RESTART, ActionKind.STOP) for kind in actions)


def before(hosts: Mapping[str, Any], plans: Mapping[str, Plan]) -> dict[str, Before]:
    """Return what is known of each host that has a plan, from the results of its tasks."""
    return {name: Before(plan, Host.from_dict(hosts[name]["host"])) for name, plan in plans.items() if name in hosts}
