"""How far a deployment is, from its events, for whatever shows it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from magi.events import Event, said

STEPS = {
    1: "Model discovery",
    2: "Loading profile",
    3: "Filtering enabled models",
    4: "Launching servers",
    5: "Health check",
}
READY, RUNNING, STARTING, WAITING, FAILED, LEFT = "ready", "running", "starting", "waiting", "failed", "left stopped"


@dataclass
class HostProgress:
    problem: str = ""
    instances: dict[str, str] = field(default_factory=dict)
    """State by instance, in the plan's order."""


@dataclass
class Progress:
    """What is known of a deployment so far."""

    step: int = 0
    hosts: dict[str, HostProgress] = field(default_factory=dict)
    verb: str = ""
    """The name of the running task, if it belongs to no step."""

    def host(self, name: str) -> HostProgress:
        return self.hosts.setdefault(name, HostProgress())

    def add(self, event: Event) -> None:
        """Take in what happened."""
        if event.kind == "task":
            self.step = max(self.step, event.step or 0)
            self.verb = "" if event.step else event.task.rpartition(" : ")[2]
        if not event.host:
            return
        host = self.host(event.host)
        if event.kind in ("failed", "unreachable") and not event.ignored and event.task != "Verdict":
            host.problem = said(event.result).removeprefix(f"Host {event.host}: ")
        if event.kind == "start" and event.action.endswith("llama_instances"):
            host.instances.update({name: STARTING for name, state in host.instances.items() if state == WAITING})
        if event.kind == "ok":
            self._result(host, event.result)
        report = event.result.get("report")
        if report:
            for server in (*report["servers"], *report.get("workers", ())):
                state = READY if server["is_ready"] else FAILED
                self.host(server["host"]).instances[server["instance"]] = state

    def _result(self, host: HostProgress, result: Mapping[str, object]) -> None:
        from magi.domain import ActionKind

        plan, actions = result.get("plan"), result.get("actions")
        if isinstance(plan, Mapping):
            kept = {item["instance"]: item["action"] for item in plan["actions"]}
            states = {ActionKind.KEEP: RUNNING, ActionKind.QUARANTINE: LEFT}
            host.instances = {
                item["name"]: states.get(kept.get(item["name"], ""), WAITING)
                for item in (*plan["instances"], *plan.get("workers", ()))
            }
        if isinstance(actions, list):
            for item in actions:
                name = item["instance"]
                if name in host.instances and item["action"] in (ActionKind.START, ActionKind.RESTART, ActionKind.KEEP):
                    host.instances[name] = FAILED if item["cause"] else READY if item.get("ready") else RUNNING
        seen = result.get("host")
        for item in seen["instances"] if isinstance(seen, Mapping) else ():
            if item["name"] in host.instances and item["health"] == 200:
                host.instances[item["name"]] = READY
