# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs the module llama_release, shows the download's progress, and says in one line what was taken, or why not."""

from __future__ import annotations

import posixpath

from ansible.utils.display import Display
from ansible_collections.magi.models.plugins.plugin_utils._ansible.watching import WatchingAction


class ActionModule(WatchingAction):
    """Return the module's result. Only where there is something to do it runs as a job, which takes a second longer."""

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        only_look = self._task.check_mode
        self._task.check_mode = True
        result = self._execute_module(task_vars=task_vars)
        self._task.check_mode = only_look
        if result.get("changed") and not only_look:
            folder = posixpath.join(str(self._task.args.get("dir")), ".install")
            result = self.watch(f"llama.cpp {self._task.args.get('tag')}", folder, "install.log", task_vars)
        if result.get("said"):
            Display().display(f"{task_vars['inventory_hostname']}: {result['said']}")
        return result
