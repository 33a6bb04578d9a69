# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs the module model_activity_info, to follow it as an async job."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.utils.display import Display
from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import HostAction
from ansible_collections.magi.models.plugins.plugin_utils._ansible.async_job import AsyncJob

JOB_LIMIT = 7 * 86400  # seconds
LOST = 15  # seconds without a look, after which the job is begun again
AGAIN = 5  # seconds after which a lost host is tried again


class JobRefusedError(RuntimeError):
    """The module could not begin."""


class ActionModule(HostAction):
    """Return what the module sees; to follow it, show what each look saw as a line of JSON with host and activity, or
    problem where the host is lost."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        arguments = {**self._task.args, "follow": False}
        if not boolean(self._task.args.get("follow", False)):
            return {**result, **self.on_host("model_activity_info", arguments, task_vars)}
        while True:
            try:
                for activity in self._followed(arguments, task_vars):
                    self._show(task_vars, "activity", activity)
            except (AnsibleConnectionFailure, JobRefusedError) as error:
                self._show(task_vars, "problem", str(error))
            time.sleep(AGAIN)

    def _followed(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
        """Yield what each look of a job sees, until there are none any more."""
        job = AsyncJob(self, "activity", arguments, JOB_LIMIT, task_vars)
        if job.refused:
            raise JobRefusedError(str(job.refused.get("msg")))
        interval = float(arguments.get("interval", 1))
        before: dict[str, Any] = {}
        due = heard = time.monotonic()
        while time.monotonic() - heard < LOST + interval:
            item = before
            with contextlib.suppress(ValueError):  # the job is about to write it: it is read next time
                item = json.loads(job.read())
            if item != before:
                before, heard = item, time.monotonic()
                yield item["activity"]
            due = max(due + interval, time.monotonic())
            time.sleep(max(0, due - time.monotonic()))
        if job.status().get("finished") and (done := job.end(0)).get("failed"):
            raise JobRefusedError(str(done.get("msg")))

    def _show(self, task_vars: dict[str, Any] | None, key: str, what: Any) -> None:
        Display().display(json.dumps({"host": (task_vars or {})["inventory_hostname"], key: what}))
