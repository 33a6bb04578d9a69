# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs the module llama_build and shows the build's progress."""

from __future__ import annotations

import posixpath

from ansible.utils.display import Display
from ansible_collections.magi.models.plugins.plugin_utils._ansible.watching import WatchingAction


class ActionModule(WatchingAction):
    """Return the module's result; on failure, after showing the end of the log."""

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        if self._task.check_mode:
            return self._execute_module(task_vars=task_vars)
        number = str(self._task.args.get("version")).partition(".")[0]
        folder = posixpath.join(self._task.args.get("cache_dir") or "~/.cache/magi/llama.cpp", number)
        result = self.watch(f"llama.cpp {number}", folder, "build.log", task_vars)
        tail = result.pop("log_tail", [])
        if result.get("failed") and tail:
            Display().display("\n".join([f"The end of {result.get('log')}:", *tail]), color="red")
        if result.get("said"):
            Display().display(f"{task_vars['inventory_hostname']}: {result['said']}")
        return result
