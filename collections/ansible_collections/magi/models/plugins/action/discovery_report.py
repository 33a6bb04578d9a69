# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.magi.models.plugins.module_utils._model import drift, table


class ActionModule(ActionBase):
    """Show the models of all hosts, from what the verb discover registered; see the module of the same name."""

    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _checked, arguments = self.validate_argument_spec(
            {"hosts": {"type": "list", "elements": "str", "required": True}}
        )
        hostvars = (task_vars or {})["hostvars"]
        found = {name: hostvars[name].get("__model_server_registry") or {} for name in arguments["hosts"]}
        known = {name: registry for name, registry in found.items() if "models" in registry}
        lines = []
        for name in arguments["hosts"]:
            lines += ["", f"{name}:"]
            lines += table(known[name]) if name in known else ["not reachable, or it could not be scanned"]
        drifted = drift({name: registry["models"] for name, registry in known.items()})
        for item in drifted:
            lines += ["", f"Drift: {item['id']} is not the same on all hosts:"]
            lines += [
                f"  {', '.join(variant['hosts'])}: {variant['size_bytes']} bytes, header {variant['fingerprint'][:12]}"
                for variant in item["variants"]
            ]
        Display().display("\n".join([*lines, ""]))
        result.update(
            changed=False, models={name: registry["models"] for name, registry in known.items()}, drift=drifted
        )
        return result
