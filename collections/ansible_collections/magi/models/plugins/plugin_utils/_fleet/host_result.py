# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From the results of a host's tasks to what its deployment came to. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind, State
from ansible_collections.magi.models.plugins.module_utils._host.values import Generation, Host
from ansible_collections.magi.models.plugins.module_utils._llama.cause import (
    Cause,
    find_cause,
    not_ready,
    quarantined,
)
from ansible_collections.magi.models.plugins.module_utils._plan.values import ActionResult, Instance, Plan, overtaken
from ansible_collections.magi.models.plugins.plugin_utils._fleet.questions import Answer, answers
from ansible_collections.magi.models.plugins.plugin_utils._fleet.reach import said_of, way_to_reach, way_to_root
from ansible_collections.magi.models.plugins.plugin_utils._fleet.readiness import is_ready, wrong_though_healthy
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import Way


@dataclass(frozen=True)
class HostResult:
    """The outcome for a host. ``plan`` is None if the run ended before there was one."""

    name: str
    plan: Plan | None = None
    results: Sequence[ActionResult] = ()
    """The actions that llama_instances returned."""
    after: Host | None = None
    max_startup_time: int = 0
    """Seconds."""
    generation: Generation | None = None
    """The state of the host after the deployment; None: no answer."""
    trouble: Cause | None = None
    """Why the host as a whole was not deployed: host_unreachable, host_failed or held_back."""
    worse: Cause | None = None
    """What a canary did worse: taken_back, or does_worse where that was not asked for."""
    answers: Mapping[str, Answer] = field(default_factory=dict)
    """By launched instance, what clients are told when they ask for its health."""
    way: Way = field(default_factory=Way)

    @property
    def served(self) -> tuple[Instance, ...]:
        """What serves there by its plan; nothing without one."""
        return self.plan.served if self.plan else ()


LAUNCHED = (ActionKind.START, ActionKind.RESTART)
TASKS = ("settings", "registry", "profile", "planned", "ended", "workers", "begun", "applied", "after", "relieved")
"""The tasks in which a host may fail, in order."""
_EARLIER = ("ended", "workers", "begun")


def trouble(name: str, seen: Mapping[str, Any]) -> Cause | None:
    """Return why a host was not deployed, from the results of its tasks, or None."""
    held = (seen.get("gate") or {}).get("held_back")
    if held:
        return Cause("held_back", held)
    refused = (seen.get("rollout") or {}).get("refused") or refused_by(seen.get("meeting"), seen.get("leaving"))
    if refused:
        return Cause("host_failed", refused)
    launched = (seen.get("applied") or {}).get("host")
    for result in (seen.get(task) or {} for task in TASKS if not (launched and task in _EARLIER)):
        said = said_of(name, result)
        if result.get("unreachable"):
            remedy = way_to_reach(said, "bring it back")
            return Cause("host_unreachable", f"it can't be reached ({said}); {remedy} and run again")
        if result.get("failed"):
            way = way_to_root(said)
            said = f"{said}; {way} and run again" if way else said
            return Cause("host_failed", said or "a task failed without a message; see the output above")
    if not (seen.get("planned") or {}).get("plan"):
        return Cause("host_failed", "it failed before its plan was made; see its own message above")
    return None


def refused_by(*told: Mapping[str, Any] | None) -> str:
    """Return why nothing is to end, from the results of the gateways that were told of it."""
    results = (item for task in told for item in (task or {}).get("results", ()))
    return next((item["refused"] for item in results if item.get("refused")), "")


def plan_of(name: str, seen: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the plan that a host has now, None without one: at first that of the instances which come first, unless
    they are taken back."""
    planned = (seen.get("planned") or {}).get("plan")
    first = ((seen.get("rollout") or {}).get("alone") or {}).get(name)
    return first if planned and first and planned["restores"] is None else planned


def host_result(name: str, seen: Mapping[str, Any]) -> HostResult:
    """Return the outcome for the host ``name``; ``seen`` are the results of its tasks by name (see
    the module deployment_report)."""
    problem = trouble(name, seen)
    planned = plan_of(name, seen)
    if not planned:
        return HostResult(name, trouble=problem)
    applied = seen.get("applied") or {}
    # Behind a canary that was taken back, an older look may be there, and the end of what stood in is older, too.
    done = [seen[task] for task in ("after", "applied", "relieved") if seen.get(task)]
    looks = [item["host"] for item in done if item.get("host")]
    generations = [Generation(**item["generation"]) for item in done if item.get("generation")]
    after = max(looks, key=lambda host: host["looked_at"], default=None)
    # What came first was launched by an earlier call.
    first = {item["instance"]: item for item in (seen.get("canary") or {}).get("launched", {}).get(name, ())}
    actions = [
        first.get(item["instance"], item) if item["action"] == ActionKind.KEEP else item
        for item in applied.get("actions") or ()
    ]
    result = HostResult(
        name,
        Plan.from_dict(planned),
        tuple(map(ActionResult.from_dict, actions)),
        Host.from_dict(after) if after else None,
        int(seen["settings"]["settings"]["max_startup_time"]),
        max(generations, key=lambda item: item.number, default=None),
        problem,
        None,
        answers((seen.get("asked") or {}).get("results") or ()),
        Way(**seen["settings"]["way"]),
    )
    return replace(result, worse=_worse(result, seen.get("canary") or {}))


def _worse(result: HostResult, canary: Mapping[str, Any]) -> Cause | None:
    """Return what a canary did worse, and whether that was taken back."""
    said = canary.get("worse") or {}
    if result.name not in (*said, *canary.get("take_back", ())):
        return None
    why = said.get(result.name) or f"canary {next(iter(said))} does worse"
    if result.name not in canary["take_back"]:
        return Cause("does_worse", f"{why}; it stays, as auto_revert is false: magi rollback takes it back")
    plan = result.plan
    back = plan and plan.restores is not None and not result.trouble
    if plan and back and not any(cause_of(item, result) for item in plan.instances):
        return Cause("taken_back", f"{why}; what it ran before is back: see what is wrong, then run again")
    return Cause("does_worse", f"{why}; it could not be taken back: mend the host, then run magi rollback")


def actions_of_all(hosts: Iterable[HostResult]) -> dict[tuple[str, str], ActionKind]:
    """Return what the deployment does with each instance, by host and instance, where a host has a plan."""
    return {(item.name, a.instance): a.action for item in hosts if item.plan for a in item.plan.actions}


def serving(seen: Mapping[str, Any]) -> list[str]:
    """Return the instances of a host that served when one of its tasks last looked."""
    for result in (seen.get(task) or {} for task in ("after", "applied", "begun_after", "begun")):
        if result.get("host"):
            host = Host.from_dict(result["host"])
            return [item.name for item in host.instances if item.pid and is_ready(item, host)]
    return []


def launched_models(hosts: Sequence[HostResult]) -> list[str]:
    """Return the ids of the models of which this deployment launched a server that is ready."""
    found: dict[str, None] = {}
    for result in hosts:
        launched = {item.instance for item in result.results if item.launched and item.action.action in LAUNCHED}
        for instance in result.plan.instances if result.plan else ():
            if instance.name in launched and cause_of(instance, result) is None:
                found.update(dict.fromkeys(part.model_id for part in instance.each))
    return list(found)


def cause_of(instance: Instance, result: HostResult) -> Cause | None:
    """Return why the instance is not ready, or None if it is: it is the one that answers, on the device that it should
    use, and it answers healthy, to its clients, too, where they were asked."""
    outcome = next((item for item in result.results if item.instance == instance.name), None)
    if outcome and outcome.cause:
        return outcome.cause
    if result.after is None:
        return result.trouble or Cause("host_failed", "the host could not be asked; run again")
    now = next((item for item in result.after.instances if item.name == instance.name), None)
    if now and now.pid and is_ready(now, result.after):
        answer = result.answers.get(instance.name)
        return answer.cause if answer else None
    if result.generation and not result.after.generation.same(result.generation):
        return overtaken(result.after.generation)
    if result.trouble:  # nothing was launched, so nobody waited: what serves, serves
        return result.trouble
    if now is None or now.state in (State.FAILED, State.STOPPED, State.BACKOFF):
        cause = find_cause(
            now.log if now else (), now.exit_status if now else None, instance.resources.get("memory_max")
        )
        return quarantined(cause) if outcome and outcome.action.action is ActionKind.QUARANTINE else cause
    if now.health != 200:
        seconds = result.after.looked_at - now.started_at if now.started_at else result.max_startup_time
        return not_ready(seconds, now.health or 0)
    return wrong_though_healthy(now, result.after)
