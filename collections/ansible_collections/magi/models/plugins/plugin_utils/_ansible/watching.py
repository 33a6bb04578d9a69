# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs an installing module as an async job and shows its progress as its log grows."""

from __future__ import annotations

import posixpath
import re
import shlex
import time
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

JOB_LIMIT_SECONDS = 4 * 3600
POLL_SECONDS = (1, 2, 5)  # then the last one, repeatedly
_COMPILED = re.compile(r"^\[(\d+)/(\d+)\] .*?([^/\s]+)$")  # ninja: "[12/217] Building CXX object src/x.cpp.o"


class WatchingAction(ActionBase):
    """Starts the job, keeps it alive by watching it (``_install.watch``), and shows its progress."""

    def watch(self, title: str, folder: str, log: str, task_vars: dict[str, Any]) -> dict[str, Any]:
        """Return the module's result. ``log``: the name of its log in ``folder`` on the host; ``title`` goes before
        every line that is shown."""
        self._task.async_val = JOB_LIMIT_SECONDS
        job: dict[str, Any] = self._execute_module(task_vars=task_vars, wrap_async=True)
        self._task.async_val = 0
        if job.get("failed"):
            return job
        async_dir = self._remote_expand_user(self.get_shell_option("async_dir", default="~/.ansible_async"))
        folder = self._remote_expand_user(folder)
        watched, lines = (shlex.quote(posixpath.join(folder, name)) for name in (".watched", log))
        look = f"test -d {shlex.quote(folder)} && touch {watched}; tail -c 2000 {lines} 2>/dev/null || true"
        show = _Progress(f"{task_vars['inventory_hostname']}: {title}")

        def status(mode: str) -> dict[str, Any]:
            arguments = {"jid": job["ansible_job_id"], "mode": mode, "_async_dir": async_dir}
            found: dict[str, Any] = self._execute_module("ansible.legacy.async_status", arguments, task_vars=task_vars)
            return found

        poll = 0
        while True:
            time.sleep(POLL_SECONDS[min(poll, len(POLL_SECONDS) - 1)])
            poll += 1
            show(self._low_level_execute_command(look).get("stdout", ""))
            result = status("status")
            # Without ansible_job_id: the job's file was read while it was being written.
            if result.get("finished") and "ansible_job_id" in result:
                status("cleanup")
                return {
                    key: value for key, value in result.items() if key not in ("ansible_job_id", "started", "finished")
                }


class _Progress:
    """Shows the last new line of the log, at most once per poll."""

    def __init__(self, title: str) -> None:
        self.title, self.last, self.start = title, "", time.monotonic()

    def __call__(self, log: str) -> None:
        for line in reversed(log.splitlines()):
            compiled = _COMPILED.match(line)
            if compiled:
                done, total, name = int(compiled[1]), int(compiled[2]), compiled[3]
                text = f"{done * 100 // total:3d} % [{done}/{total}] {name}"
            elif line.startswith("== "):
                text = line[3:]
            else:
                continue
            if text != self.last:
                self.last = text
                minutes, seconds = divmod(int(time.monotonic() - self.start), 60)
                Display().display(f"{self.title} {minutes}:{seconds:02d} {text}")
            return
