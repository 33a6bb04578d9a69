# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from typing import Any

from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import HostAction


class ActionModule(HostAction):
    """Run the module of the same name as our others are run: soon, and with its host named in failures."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        return {**result, **self.on_host("model_host_info", self._task.args, task_vars)}
