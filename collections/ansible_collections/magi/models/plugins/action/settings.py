# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import os
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.magi.models.plugins.module_utils._settings import PREFIX, SETTINGS, SettingError, resolve


class ActionModule(ActionBase):
    """Settle the settings on the controller; see the module of the same name."""

    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        seen = task_vars or {}
        # Only the variable manager still knows what came from -e; in task_vars all sources are merged.
        extra = self._task.get_variable_manager().extra_vars
        names = {PREFIX + setting.name for setting in SETTINGS} | {s.alias for s in SETTINGS if s.alias}
        try:
            settings, origins = resolve(
                {name: self._templar.template(seen[name]) for name in names & seen.keys()},
                os.environ,
                {name: self._templar.template(extra[name]) for name in names & extra.keys()},
            )
        except SettingError as error:
            raise AnsibleActionFail(str(error)) from None
        result.update(changed=False, settings=settings, origins=origins)
        return result
