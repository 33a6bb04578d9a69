# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import HostAction
from ansible_collections.magi.models.plugins.plugin_utils._ansible.run import gone, identity, job


class ActionModule(HostAction):
    """Read models and host; if asked to, first end what a killed deployment still does there, so that a plan made from
    the result holds."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if arguments.get("claim"):
            arguments["claim"] = {**arguments["claim"], "seconds": int(arguments["claim"]["seconds"]), **identity()}
        found = self._read(arguments, task_vars)
        if not arguments.get("fence") or self._task.check_mode:
            return {**result, **found}
        holder = found.get("host", {}).get("at_work")
        holder = holder if holder and gone(holder) else None
        claims = [claim for claim in found.get("claims", ()) if not claim["ended"] and gone(claim)]
        if not holder and not claims:
            return {**result, **found}
        fence = {"state": "fenced", "home": arguments["host"]["home"], "job": job(holder=holder, claims=claims)}
        ended = self.on_host("llama_instances", fence, task_vars)
        if ended.get("failed"):
            if found.get("claim"):
                self.end_claim(arguments["host"]["home"], found["claim"], task_vars)
            return {**result, **ended}
        found = self._read(arguments, task_vars)
        if not holder:  # it had not begun
            return {**result, **found}
        said = (
            f"{holder['deployment']} was killed; its work on this host has been ended, and this run goes on from there."
        )
        return {**result, **found, "changed": True, "warnings": [*found.get("warnings", []), said]}

    def _read(self, arguments: Mapping[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        found = self.on_host("model_registry", arguments, task_vars)
        return {**found, "claimed_at": time.time()} if found.get("claim") else found
