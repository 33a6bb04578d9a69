# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._settings import PREFIX, SETTINGS, SettingError, resolve
from ansible_collections.magi.models.plugins.plugin_utils._controller_action import ControllerAction


class ActionModule(ControllerAction):
    """Settle the settings; see the module of the same name."""

    ERRORS = (SettingError,)

    def decide(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        # Only the variable manager still knows what came from -e; in task_vars all sources are merged.
        extra = self._task.get_variable_manager().extra_vars
        names = {PREFIX + setting.name for setting in SETTINGS} | {s.alias for s in SETTINGS if s.alias}
        settings, origins = resolve(
            {name: self._templar.template(task_vars[name]) for name in names & task_vars.keys()},
            os.environ,
            {name: self._templar.template(extra[name]) for name in names & extra.keys()},
        )
        return {"settings": settings, "origins": origins}
