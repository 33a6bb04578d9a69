# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs the module llama_build as an async job and shows the build's progress as its log grows."""

from __future__ import annotations

import posixpath
import re
import shlex
import time

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

JOB_LIMIT_SECONDS = 4 * 3600
POLL_SECONDS = (1, 2, 5)  # then the last one, repeatedly
_COMPILED = re.compile(r"^\[(\d+)/(\d+)\] .*?([^/\s]+)$")  # ninja: "[12/217] Building CXX object src/x.cpp.o"


class ActionModule(ActionBase):
    """Start the job, keep it alive by watching it, show its progress, return the module's result."""

    def run(self, tmp=None, task_vars=None):
        """Return the module's result; on failure, after showing the end of the log."""
        super().run(tmp, task_vars)
        if self._task.check_mode:
            return self._execute_module(task_vars=task_vars)
        self._task.async_val = JOB_LIMIT_SECONDS
        job = self._execute_module(task_vars=task_vars, wrap_async=True)
        self._task.async_val = 0
        if job.get("failed"):
            return job
        result = self._watch(job["ansible_job_id"], task_vars)
        tail = result.pop("log_tail", [])
        if result.get("failed") and tail:
            Display().display("\n".join([f"The end of {result.get('log')}:", *tail]), color="red")
        return result

    def _watch(self, job_id: str, task_vars: dict) -> dict:
        async_dir = self._remote_expand_user(self.get_shell_option("async_dir", default="~/.ansible_async"))
        cache_dir = self._task.args.get("cache_dir") or "~/.cache/magi/llama.cpp"
        number = str(self._task.args.get("version")).partition(".")[0]
        folder = posixpath.join(self._remote_expand_user(cache_dir), number)
        watched, log = (shlex.quote(posixpath.join(folder, name)) for name in (".watched", "build.log"))
        show = _Progress(f"{task_vars['inventory_hostname']}: llama.cpp {number}")

        def status(mode: str) -> dict:
            arguments = {"jid": job_id, "mode": mode, "_async_dir": async_dir}
            return self._execute_module("ansible.legacy.async_status", arguments, task_vars=task_vars)

        poll = 0
        while True:
            time.sleep(POLL_SECONDS[min(poll, len(POLL_SECONDS) - 1)])
            poll += 1
            look = f"test -d {shlex.quote(folder)} && touch {watched}; tail -c 2000 {log} 2>/dev/null || true"
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
