# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from typing import Any

from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import HostAction
from ansible_collections.magi.models.plugins.plugin_utils._ansible.run import gone, job


class ActionModule(HostAction):
    """Read models and host; if asked to, first end what a killed deployment still does there, so that a plan made from
    the result holds."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        found = self.on_host("model_registry", arguments, task_vars)
        worker = found.get("host", {}).get("at_work")
        if not (worker and arguments.get("fence") and gone(worker)) or self._task.check_mode:
            return {**result, **found}
        fence = {"state": "fenced", "home": arguments["host"]["home"], "job": job(worker=worker)}
        ended = self.on_host("llama_instances", fence, task_vars)
        if ended.get("failed"):
            return {**result, **ended}
        found = self.on_host("model_registry", arguments, task_vars)
        said = (
            f"{worker['deployment']} was killed; its work on this host has been ended, and this run goes on from there."
        )
        return {**result, **found, "changed": True, "warnings": [*found.get("warnings", []), said]}
