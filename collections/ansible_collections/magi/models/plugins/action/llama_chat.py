# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs the module llama_chat as an async job and shows the answer as it is written."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.common.validation import check_type_dict
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.magi.models.plugins.module_utils._plan.pool import models_of, names_of
from ansible_collections.magi.models.plugins.plugin_utils._ansible.async_job import AsyncJob

JOB_LIMIT = 3600  # seconds
POLL = 0.2  # seconds
LOST = 15  # seconds without a word, after which we ask the job itself


def serving(name: str, hosts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the hosts on which the instance answers, or a pool that has a model of that name, according to the results
    of the module model_host_info. A pool's own name counts: the module says what to ask for instead."""
    found = []
    for host, looked in hosts.items():
        for item in (looked.get("host") or {}).get("instances") or ():
            members = models_of(item["environment"])
            known = {own for each in members for own in names_of(each)} if members else {item["name"]}
            answers = {*(item["model_ids"] or ())}
            if name in known & answers or (members and answers and name == item["name"]):
                found.append(host)
                break
    return found


class ActionModule(ActionBase):
    """Start the job, show each line of its stream as it is written, return the module's result."""

    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        hosts = arguments.pop("hosts", None)
        if hosts:
            result["serving"] = serving(arguments["name"], check_type_dict(hosts))
            if task_vars["inventory_hostname"] not in result["serving"][:1]:
                return {**result, "skipped": True}
        if self._task.check_mode:
            return {**result, "skipped": True}
        job = AsyncJob(self, "chat", arguments, JOB_LIMIT, task_vars)
        if job.refused:
            return {**result, **job.refused}
        self._follow(job)
        result.update(job.end(POLL))  # its stream ends just before it does
        if arguments.get("gateway") and result.get("failed"):
            said = result.get("msg") or "it could not be asked; run with -vvv to see why."
            result["msg"] = f"Gateway {task_vars['inventory_hostname']}: {said}"
        return result

    def _follow(self, job: AsyncJob) -> None:
        """Show what the module writes into the file until it says that it ends, or the job ends without saying so."""
        offset, heard = 1, time.monotonic()
        while True:
            # Whole lines of ASCII: a character is a byte, and a half-written line is read next time.
            text = job.read(offset)
            # Where sudo asks for a password, the connection has a terminal, which adds an empty line.
            lines = [line for line in text[: text.rfind("\n") + 1].splitlines() if line]
            offset += sum(len(line) + 1 for line in lines)
            for line in lines:
                if "end" in json.loads(line):
                    return
                Display().display(line)
            if lines:
                heard = time.monotonic()
            elif time.monotonic() - heard > LOST:
                if job.status().get("finished"):
                    return
                heard = time.monotonic()
            time.sleep(POLL)
