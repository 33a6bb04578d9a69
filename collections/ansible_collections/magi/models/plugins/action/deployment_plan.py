# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._base.text import counted, printable
from ansible_collections.magi.models.plugins.module_utils._config.profile import Profile
from ansible_collections.magi.models.plugins.module_utils._host.values import Host
from ansible_collections.magi.models.plugins.module_utils._llama.need import Told
from ansible_collections.magi.models.plugins.module_utils._models.model import Inventory
from ansible_collections.magi.models.plugins.module_utils._plan.build import build_plan
from ansible_collections.magi.models.plugins.module_utils._plan.ledger import account_lines
from ansible_collections.magi.models.plugins.module_utils._plan.need import work
from ansible_collections.magi.models.plugins.module_utils._plan.refusal import DoesNotFit
from ansible_collections.magi.models.plugins.module_utils._plan.restore import restored_plan
from ansible_collections.magi.models.plugins.module_utils._plan.values import (
    AskedForError,
    Plan,
    PlanError,
    Remembered,
    Settings,
    Share,
)
from ansible_collections.magi.models.plugins.module_utils._plan.worker import NO_RPC, Rpc
from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import ControllerAction, HostAction

_ASKED = 3
"""Of how many instances that don't fit the host is asked which context would."""
_SHOWN = (ActionKind.START, ActionKind.RESTART, ActionKind.STOP, ActionKind.KEEP)


def plan_lines(plan: Plan) -> list[str]:
    """Return the plan for people: what is enabled, and each action that changes something."""
    kinds = [*_SHOWN, *([ActionKind.QUARANTINE] if plan.names(ActionKind.QUARANTINE) else [])]
    actions = ", ".join(f"{kind} {len(plan.names(kind))}" for kind in kinds)
    lines = [
        f"{plan.host}: {counted(plan.models_discovered, 'model')} discovered, {plan.models_enabled} enabled: {actions}"
    ]
    lines += [
        f"  {a.action} {a.instance}: {printable(a.reason)}" for a in plan.actions if a.action is not ActionKind.KEEP
    ]
    return lines + [f"  note: {printable(note)}" for note in plan.notes]


class ActionModule(ControllerAction, HostAction):
    """Decide what a host should run; see the module of the same name."""

    _requires_connection = True

    SPEC = {
        **{name: {"type": "dict", "required": True} for name in ("registry", "host", "settings")},
        "profile": {"type": "dict"},
        "undone": {"type": "float"},
        "gateways": {"type": "list", "elements": "str", "default": []},
        "placement": {"type": "dict"},
    }
    ERRORS = (PlanError,)

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            return super().run(tmp, task_vars)
        except AnsibleActionFail:
            claim = (self._task.args.get("registry") or {}).get("claim")
            if claim:
                self.end_claim(self._task.args["host"]["home"], claim, task_vars)
            raise

    def decide(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        registry = arguments["registry"]
        if arguments["profile"] is None and arguments["undone"] is None:
            raise AnsibleActionFail("deployment_plan needs a profile, or with undone what a rollback takes back.")
        placement = arguments["placement"] or {}
        if arguments["placement"] is None and any(
            entry["rpc"] for entry in (arguments["profile"] or {}).get("entries", ())
        ):
            raise AnsibleActionFail(
                "A profile with rpc needs a placement, from deployment_placement with the results of all hosts."
            )
        if placement.get("refused"):
            raise AnsibleActionFail(placement["refused"])
        needs = registry.get("needs")
        given = {
            "host_name": task_vars["inventory_hostname"],
            "inventory": Inventory.from_dict(registry),
            "host": Host.from_dict(arguments["host"]),
            "settings": Settings.of({**arguments["settings"], "beside": bool(arguments["gateways"])}),
        }
        try:
            if arguments["undone"] is not None:
                history = tuple(map(Remembered.from_dict, registry["history"]))
                plan = restored_plan(**given, history=history, undone=arguments["undone"])
            else:
                plan = build_plan(
                    **given,
                    profile=Profile.from_dict(arguments["profile"]),
                    scan_paths=registry["scan_paths"],
                    lost=registry.get("lost", ()),
                    needs=None if needs is None else {key: Told.of(plain) for key, plain in needs.items()},
                    shares=[
                        None if share is None else {model: Share(**item) for model, item in share.items()}
                        for share in placement.get("shares", ())
                    ],
                    rpc=Rpc.from_dict(placement["rpc"]) if placement.get("rpc") else NO_RPC,
                )
                plan = replace(plan, notes=(*plan.notes, *placement.get("notes", ())))
        except DoesNotFit as error:
            raise error.with_contexts(self._contexts(error, arguments["host"], task_vars)) from None
        except AskedForError as error:
            raise AnsibleActionFail(str(error), result={"wrong": "profile"}) from None
        self.show([*plan_lines(plan), *(f"  {line}" for line in account_lines(plan.memory))])
        return {"plan": plan.to_dict(), "warnings": [printable(item) for item in (*plan.degraded, *plan.warnings)]}

    def _contexts(self, error: DoesNotFit, host: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, int]:
        """Return the contexts that would fit, by the key of the question: the host's llama-fit-params finds them."""
        asked = {item.question.key: item for item in error.lacking if not (item.estimated or item.largest)}
        questions = [
            {
                "variables": dict(item.question.variables),
                "arguments": list(item.question.arguments),
                "below": item.context,
                "room": item.room(work(item.told.rows)),
            }
            for item in [*asked.values()][:_ASKED]
        ]
        if not questions:
            return {}
        arguments = {"path": host["binary"]["path"], "version": host["binary"]["version"], "questions": questions}
        found = self.on_host("llama_context_info", arguments, dict(task_vars))
        return dict(zip(asked, found.get("contexts", ())))
