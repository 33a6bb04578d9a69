# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs the module llama_logs_info, repeatedly to follow a log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.magi.models.plugins.module_utils._base.text import printable

POLL = 1  # seconds
WINDOW = 1000  # lines to read each time; if more come within a second, only the last are shown


def fresh(before: Sequence[str], after: Sequence[str]) -> Sequence[str]:
    """Return the lines of ``after`` that follow those of ``before``: two looks at the end of one log, which overlap
    unless the log began again. The first line of a look may be cut."""
    for overlap in range(min(len(before), len(after)), 0, -1):
        seen = before[-overlap:]
        if list(seen[1:]) == list(after[1:overlap]) and seen[0].endswith(after[0]):
            return after[overlap:]
    return after


class ActionModule(ActionBase):
    """Read and show the log of an instance and, to follow it, keep showing new lines.

    This works over each of Ansible's connections; the output of a command that runs on would come only at its end.
    """

    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        lines, follow = int(self._task.args.get("lines", 100)), self._task.args.get("follow")
        seen = self._read(task_vars, max(lines, WINDOW) if follow else lines)
        new = (seen.get("log") or [])[-lines:] if lines else []
        while True:
            self._show(task_vars, new)
            if not follow or seen.get("failed") or seen.get("log") is None:
                return {**result, **seen}
            time.sleep(POLL)
            before, seen = seen["log"], self._read(task_vars, WINDOW)
            new = fresh(before, seen.get("log") or [])

    def _read(self, task_vars: dict[str, Any] | None, lines: int) -> dict[str, Any]:
        arguments = {**self._task.args, "lines": lines}
        return self._execute_module("magi.models.llama_logs_info", module_args=arguments, task_vars=task_vars)

    def _show(self, task_vars: dict[str, Any] | None, lines: Sequence[str]) -> None:
        host = (task_vars or {})["inventory_hostname"]
        for line in lines:
            Display().display(f"{host} | {printable(line.expandtabs())}")
