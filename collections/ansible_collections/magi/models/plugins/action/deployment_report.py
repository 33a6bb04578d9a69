# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._files import FileWriteError, write_atomic
from ansible_collections.magi.models.plugins.module_utils._host import Host
from ansible_collections.magi.models.plugins.module_utils._plan import Plan
from ansible_collections.magi.models.plugins.module_utils._report import (
    HostResult,
    build_report,
    failure,
    summary_lines,
)
from ansible_collections.magi.models.plugins.plugin_utils._controller_action import ControllerAction


def host_result(name: str, seen: Mapping[str, Any]) -> HostResult:
    """Return what the role's verbs registered for a host."""
    planned = (seen.get("__model_server_planned") or {}).get("plan")
    if not planned:
        return HostResult(name, error=f"Host {name}: unreachable, or failed before its plan was made.")
    after = (seen.get("__model_server_after") or {}).get("host")
    results = (seen.get("__model_server_health") or {}).get("results") or []
    return HostResult(
        name,
        Plan.from_dict(planned),
        (seen.get("__model_server_applied") or {}).get("actions") or (),
        {item["item"]["name"]: int(item.get("status") or 0) for item in results if "item" in item},
        Host.from_dict(after) if after else None,
        int(seen["__model_server"]["max_startup_time"]),
    )


def curl(url: str) -> str:
    """Return a command that makes the server of ``url`` answer a question."""
    question = json.dumps({"messages": [{"role": "user", "content": "What is the capital of France?"}]})
    return f"curl -s {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{question}'"


class ActionModule(ControllerAction):
    """Gather, show and write the report; see the module of the same name."""

    SPEC = {"path": {"type": "path"}, "hosts": {"type": "list", "elements": "str", "required": True}}
    ERRORS = (FileWriteError,)

    def decide(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        hosts = [host_result(name, task_vars["hostvars"][name]) for name in arguments["hosts"]]
        plans = [host.plan for host in hosts if host.plan]
        report = build_report(plans[0].profile if plans else "", hosts)
        lines = summary_lines(report)
        ready = next((server for server in report["servers"] if server["is_ready"]), None)
        if ready:
            url = next(i.url for plan in plans for i in plan.instances if i.name == ready["instance"])
            lines += ["", f"Try it on {ready['host']}:", f"  {curl(url)}"]
        self.show(["", *lines, ""])
        if arguments["path"]:
            write_atomic(arguments["path"], json.dumps(report, indent=2).encode() + b"\n", 0o644)
        problem = failure(
            report, strict=any(plan.strict for plan in plans), degraded=any(plan.degraded for plan in plans)
        )
        return {"report": report, **({"failed": True, "msg": problem} if problem else {})}
