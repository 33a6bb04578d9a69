# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a module says while it still runs."""

from __future__ import annotations

import posixpath
import shlex
import time
import uuid
from collections.abc import Mapping
from typing import Any

from ansible.plugins.action import ActionBase


class AsyncJob:
    """A job of the module of ``action``, of at most so many ``seconds``; ``name`` is part of the name of its file.

    Ansible returns a command's output only when the command has ended, so the module writes a file on the host
    (_base.stream), and this reads it again and again. That works over every connection, without forwarding a port.
    """

    def __init__(
        self,
        action: ActionBase,
        name: str,
        arguments: Mapping[str, Any],
        seconds: int,
        task_vars: dict[str, Any] | None,
    ):
        self.action, self.task_vars = action, task_vars
        self.folder = action._remote_expand_user(action.get_shell_option("async_dir", default="~/.ansible_async"))
        self.path = posixpath.join(self.folder, f"magi-{name}-{uuid.uuid4().hex}")
        action._task.async_val = seconds
        module_args = {**arguments, "stream_path": self.path}
        self.begun = action._execute_module(module_args=module_args, task_vars=task_vars, wrap_async=True)
        action._task.async_val = 0

    @property
    def refused(self) -> dict[str, Any]:
        """What the module returned if it could not begin, else an empty result."""
        return dict(self.begun) if self.begun.get("failed") else {}

    def read(self, offset: int = 1) -> str:
        """Return what is in its file from the byte ``offset`` on, and let it know that somebody looks."""
        path = shlex.quote(self.path)
        look = f"touch {path}.seen; tail -c +{offset} {path} 2>/dev/null || true"
        return str(self.action._low_level_execute_command(look).get("stdout", ""))

    def status(self, mode: str = "status") -> dict[str, Any]:
        """Return what async_status says."""
        arguments = {"jid": self.begun["ansible_job_id"], "mode": mode, "_async_dir": self.folder}
        found: dict[str, Any] = self.action._execute_module(
            "ansible.legacy.async_status", arguments, task_vars=self.task_vars
        )
        return found

    def end(self, poll: float) -> dict[str, Any]:
        """Wait for its end with a look each ``poll`` seconds, remove what it left, and return the module's result."""
        while not (done := self.status()).get("finished") or "ansible_job_id" not in done:
            time.sleep(poll)
        self.status("cleanup")
        path = shlex.quote(self.path)
        self.action._low_level_execute_command(f"rm -f {path} {path}.seen")
        hidden = ("ansible_job_id", "started", "finished", "results_file")
        return {key: value for key, value in done.items() if key not in hidden}
