# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
from ansible.errors import AnsibleActionFail
from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._config.timing import TIMING
from ansible_collections.magi.models.plugins.module_utils._plan.values import STANDS_IN, Action, Instance, Plan
from ansible_collections.magi.models.plugins.module_utils._services.choice import chosen
from ansible_collections.magi.models.plugins.module_utils._services.manager import ServiceManager
from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import HostAction
from ansible_collections.magi.models.plugins.plugin_utils._ansible.run import job
from ansible_collections.magi.models.plugins.plugin_utils._ansible.templates import plain_environment
from ansible_collections.magi.models.plugins.plugin_utils._fleet.stand_in import with_stand_ins

ROLE_TEMPLATES = Path(__file__).parents[2] / "roles" / "model_server" / "templates"


def render(
    plan: Plan, manager: ServiceManager, folders: Sequence[str], values: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the files of a plan: path, content, mode, per_instance. A template that renders to nothing makes no file.

    Each template comes from the first of ``folders`` that has it. Raises ValueError for a value that a file can't hold.
    """
    environment = plain_environment(folders)
    environment.filters.update(manager.filters)
    values = {**values, **manager.values()}
    instances = [
        replace(item, environment=manager.environment(item.name, item.environment))
        for item in (*plan.instances, *plan.workers)
    ]
    files = []
    for template in manager.templates:
        source = environment.get_template(template.source)
        for instance in instances if template.per_instance else (None,):
            content = source.render(plan=plan, instance=instance, home=plan.home, **values)
            if content.strip():
                path = template.destination.format(home=plan.home, name=instance.name if instance else "")
                files.append(
                    {"path": path, "content": content, "mode": template.mode, "per_instance": template.per_instance}
                )
    return files


def part_of(
    plan: Plan,
    beside: Sequence[str] | None,
    begun: Collection[str],
    stand_ins: Sequence[Instance] = (),
    *,
    relieves: bool = False,
    ends: bool = False,
) -> Plan:
    """Return the part of a plan for one call: the instances ``beside`` alone, or all, of which those ``begun`` run.

    With ``ends``, those ``beside`` end, and start again in a later call. What stands in for others (``stand_ins``)
    starts beside, then is left as it is; or it ends, if the call ``relieves`` it.
    """
    if beside is not None:
        plan = with_stand_ins(plan, stand_ins)
        actions = (item for item in plan.actions if item.instance in beside)
        return replace(
            plan,
            instances=tuple(item for item in plan.instances if item.name in beside and not ends),
            workers=tuple(item for item in plan.workers if item.name in beside),
            actions=tuple(replace(item, action=ActionKind.STOP) if ends else item for item in actions),
        )
    actions = (
        Action(item.instance, ActionKind.KEEP, "started beside the old ones") if item.instance in begun else item
        for item in plan.actions
    )
    theirs = ActionKind.STOP if relieves else ActionKind.KEEP
    standing = (Action(item.name, theirs, f"stands in for {item.environment[STANDS_IN]}") for item in stand_ins)
    return replace(plan, actions=(*actions, *standing))


def joined(
    before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]], *, all_done: bool
) -> list[Mapping[str, Any]]:
    """Return the results of a call's actions, joined with those of the calls before it, all by instance: what started
    then did that, and what ended cut its requests then. ``all_done``: with this call, each action of the plan is."""

    def result(name: str) -> Mapping[str, Any]:
        then, here = before.get(name), now.get(name)
        if then is None or here is None:
            return then or here or {}
        goes_on = then["action"] == ActionKind.STOP and here["action"] != ActionKind.KEEP
        return {**here, "cut": then["cut"]} if goes_on else then

    return [result(name) for name in (now if all_done else {**before, **now})]


def seconds(arguments: Mapping[str, Any], name: str) -> int:
    """Return an option that the task shares with the module, or the module's default."""
    return int(arguments.get(name) or TIMING[name]["default"])


def values(plan: Plan, arguments: Mapping[str, Any], model_folders: Sequence[str]) -> dict[str, Any]:
    """Return the templates' values beyond the plan and its instances, from the arguments of the task."""
    return {
        "llama_server_path": plan.llama_server_path,
        "stop_timeout": seconds(arguments, "stop_timeout"),
        "max_startup_time": seconds(arguments, "max_startup_time"),
        "model_folders": model_folders,
        "gpu": plan.gpu,
        "gpu_groups": plan.gpu_groups,
    }


class ActionModule(HostAction):
    """Render a plan's files on the controller and give them all to the module in one call."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        templates_dir = arguments.pop("templates_dir", None)
        model_folders = arguments.pop("model_folders", None) or []
        held_back = arguments.pop("held_back", "")
        claim = arguments.pop("claim", None)
        unreached = arguments.pop("unreached", [])
        beside = arguments.pop("beside", None)
        stand_ins = [Instance.from_dict(item) for item in arguments.pop("stand_ins", None) or ()]
        relieves = bool(arguments.pop("relieves", False))
        ends = bool(arguments.pop("ends", False))
        began_at = float(arguments.pop("began_at", None) or time.time())
        before = {item["instance"]: item for item in (arguments.get("begun") or {}).get("actions", ())}
        # What has ended is not there, and the rest of the plan makes that final, or starts it again.
        begun = {name: item for name, item in before.items() if relieves or item["action"] != ActionKind.STOP}
        generation = (arguments.pop("begun", None) or {}).get("generation")
        work = job()
        if held_back:
            return self._held_back(arguments["plan"]["home"], claim, task_vars)
        if arguments.get("state", "present") == "present":
            if not arguments.get("plan"):
                raise AnsibleActionFail("llama_instances needs a plan; give it one from deployment_plan.")
            given = arguments.pop("plan")
            if beside is None and not begun:
                stand_ins = []
            plan = part_of(Plan.from_dict(given), beside, begun, stand_ins, relieves=relieves, ends=ends)
            try:
                files = (
                    []
                    if plan.restores is not None
                    else render(
                        plan,
                        chosen(plan.manager, plan.home),
                        [*([str(templates_dir)] if templates_dir else []), str(ROLE_TEMPLATES)],
                        values(plan, arguments, model_folders),
                    )
                )
            except (ValueError, jinja2.TemplateError) as error:
                if claim:
                    self.end_claim(plan.home, claim, task_vars)
                raise AnsibleActionFail(f"Host {plan.host}: a service file can't be written: {error}.") from None
            arguments.update(home=plan.home, manager=plan.manager)
            work = job(
                files=files,
                instances=[
                    {"name": i.name, "address": i.address, "port": i.port, "api_key_file": i.api_key_file}
                    for i in (*plan.instances, *plan.workers)
                ],
                actions=[item.to_dict() for item in plan.actions],
                generation=generation or given["generation"],
                profile=plan.profile,
                claim=claim,
                unreached=unreached,
                beside=beside is not None,
                followed=beside is not None or bool(stand_ins and not relieves),
                began_at=began_at if plan.restores is None else plan.restores,
                restores=plan.restores,
                plan=plan.remembered().to_dict(),
            )
        result.update(self.on_host("llama_instances", {**arguments, "job": work}, task_vars))
        if before and "actions" in result:
            theirs = {item.name for item in stand_ins} if beside is None else set()
            done = {item["instance"]: item for item in result["actions"] if item["instance"] not in theirs}
            result["actions"] = joined(before, done, all_done=beside is None)
        result["deadline"] = time.time() + seconds(arguments, "max_startup_time") - result.pop("waited", 0)
        return result

    def _held_back(
        self, home: str, claim: Mapping[str, Any] | None, task_vars: dict[str, Any] | None
    ) -> dict[str, Any]:
        ended = self.end_claim(home, claim, task_vars) if claim else {}
        return ended if ended.get("failed") or ended.get("unreachable") else {"skipped": True, "changed": False}
