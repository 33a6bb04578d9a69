# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._models.model import drift, drift_lines, table
from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import ControllerAction


class ActionModule(ControllerAction):
    """Show the models of all hosts; see the module of the same name."""

    SPEC = {"hosts": {"type": "dict", "required": True}}

    def decide(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        hosts = arguments["hosts"]
        known = {name: registry for name, registry in hosts.items() if "models" in registry}
        lines = []
        for name in hosts:
            found = table(known[name]) if name in known else ["not reachable, or it could not be scanned"]
            lines += ["", f"{name}:", *found]
        models = {name: registry["models"] for name, registry in known.items()}
        drifted = drift(models)
        self.show([*lines, "", *drift_lines(drifted)])
        return {"models": models, "drift": drifted}
