# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.magi.models.plugins.module_utils._host import Host
from ansible_collections.magi.models.plugins.module_utils._report import build_status, status_lines


class ActionModule(ActionBase):
    """Show what runs on all hosts, from what the verb status registered; see the module of the same name."""

    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _checked, arguments = self.validate_argument_spec(
            {"hosts": {"type": "list", "elements": "str", "required": True}}
        )
        hostvars = (task_vars or {})["hostvars"]
        found = {name: (hostvars[name].get("__model_server_after") or {}).get("host") for name in arguments["hosts"]}
        status = build_status({name: Host.from_dict(host) if host else None for name, host in found.items()})
        Display().display("\n".join(["", *status_lines(status), ""]))
        result.update(changed=False, status=status)
        return result
