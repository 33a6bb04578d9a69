# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._base.text import counted
from ansible_collections.magi.models.plugins.module_utils._haproxy.options import HANDOVER_OPTIONS
from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import HostAction
from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import (
    HostResult,
    actions_of_all,
    host_result,
    serving,
)
from ansible_collections.magi.models.plugins.plugin_utils._fleet.stand_in import stand_ins_of
from ansible_collections.magi.models.plugins.plugin_utils._gateway.canary import Clients, by_server, undecided
from ansible_collections.magi.models.plugins.plugin_utils._gateway.handover import (
    Handover,
    arriving,
    ending,
    leaving,
    meeting,
    stopped,
    unmet,
)
from ansible_collections.magi.models.plugins.plugin_utils._gateway.haproxy import proxy_name
from ansible_collections.magi.models.plugins.plugin_utils._gateway.routes import Server


class ActionModule(HostAction):
    """Decide on the controller what the gateway is told; nothing to say costs no call."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _checked, given = self.validate_argument_spec(HANDOVER_OPTIONS)
        hosts = {name: host_result(name, seen) for name, seen in given["hosts"].items()}
        keep = {name: given["gateway"][name] for name in ("home", "manager")}
        if given["step"] == "counted":
            return {**result, **self.counted(given, hosts, keep, task_vars)}
        if given["step"] in ("stopping", "stopped"):
            known = self.on_host_or_lost("model_gateway", {"state": "remembered", **keep}, task_vars)
            if known.get("failed") or known.get("unreachable"):
                return {**result, **self.untold(known, task_vars)}
            servers = [Server.from_dict(item) for item in known["servers"]]
            named = given["instances"]
            ends = {x.whose for x in servers if x.host in given["batch"] and (named is None or x.instance in named)}
            job = (ending if given["step"] == "stopping" else stopped)(servers, ends)
            return {**result, **self.told(given, job, keep, task_vars)}
        servers = [Server.from_dict(item) for item in given["gateway"]["servers"]]
        actions = actions_of_all(hosts.values())
        batch = [name for name in given["batch"] if name in hosts and not hosts[name].trouble]
        stand_ins = {(name, item.name) for name in batch for item in stand_ins_of(name, given["hosts"][name])}
        if given["step"] in ("meeting", "leaving"):
            done = [name for name, item in hosts.items() if item.results]
            ready = {(name, instance) for name, seen in given["hosts"].items() for instance in serving(seen)}
            job = leaving(servers, {**actions, **dict.fromkeys(stand_ins, ActionKind.START)}, batch, done, ready)
            job = meeting(job) if given["step"] == "meeting" else replace(job, comes=())
        elif given["step"] == "relieving":
            job = ending(servers, stand_ins)
        else:
            ready = {(name, instance) for name in batch for instance in serving(given["hosts"][name])}
            job = arriving(servers, actions, ready)
        told = self.told(given, job, keep, task_vars)
        return {**result, **(self.missed(told, servers) if told.get("missed") else told)}

    def missed(self, told: Mapping[str, Any], servers: Sequence[Server]) -> dict[str, Any]:
        """Return the result with what is to be said of servers that are not up for the gateway."""
        said = f"gateway {self._task.delegate_to} gets no answer from {unmet(servers, told['missed'])}"
        if not told["refuses"]:
            return {**told, **_warned(f"A {said}, so it sends no requests there; open the way to that port.")}
        why = "which is to serve while others go, so nothing was ended"
        return {**told, "refused": f"{said}, {why}; open the way to that port (a firewall?), or mend it, and run again"}

    def counted(
        self,
        given: Mapping[str, Any],
        hosts: Mapping[str, HostResult],
        gateway: Mapping[str, str],
        task_vars: dict[str, Any] | None,
    ) -> dict[str, Any]:
        """Return what each server has done, and where too few answers end a watch, what it has done later."""
        ask = {"step": "counted", "gateway": gateway}
        found = self.on_host_or_lost("model_gateway_handover", ask, task_vars)
        if given["before"] is None or not found.get("counts"):
            return found
        clients = Clients(by_server(given["before"], hosts.values()), by_server(found["counts"], hosts.values()))
        first = [hosts[name] for name in given["batch"] if name in hosts]
        more = undecided(first, [item for name, item in hosts.items() if name not in given["batch"]], clients)
        if not more:
            return found
        answers = {proxy_name(*whose): number for whose, number in more.items()}
        ask.update(seconds=given["seconds"], job={"answers": answers})
        later = self.on_host_or_lost("model_gateway_handover", ask, task_vars)
        return {**found, "later": later.get("counts", []), "waited": later.get("waited", 0)}

    def told(
        self, given: Mapping[str, Any], job: Handover, gateway: Mapping[str, str], task_vars: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Tell the gateway its job; return the result."""
        if not job:
            return {"changed": False, "skipped": True, "left": 0}
        arguments = {"step": given["step"], "gateway": gateway, "seconds": given["seconds"], "job": job.to_dict()}
        told = self.on_host_or_lost("model_gateway_handover", arguments, task_vars)
        if told.get("failed") or told.get("unreachable"):
            return self.untold(told, task_vars)
        if told["left"]:
            count = counted(told["left"], "request") if told["left"] > 0 else "HAProxy did not say how many requests"
            return {**told, **_warned(f"After {given['seconds']} s, a gateway's servers that go still had: {count}.")}
        return told

    def untold(self, why: Mapping[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Return the result where the gateway could not be told; that stops nothing."""
        host = (task_vars or {}).get("inventory_hostname", "")
        said = " ".join(str(why.get("msg", "no word why")).split()).removeprefix(f"Host {host}: ").rstrip(".")
        gateway = self._task.delegate_to or host
        return {"left": -1, **_warned(f"Gateway {gateway} could not be told what goes and comes: {said}.")}


def _warned(sentence: str) -> dict[str, Any]:
    """Return a warning: Ansible takes its own out of what magi sees of the result."""
    return {"warnings": [sentence], "warned": sentence}
