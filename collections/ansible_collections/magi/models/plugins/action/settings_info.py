# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from ansible.errors import AnsibleError
from ansible.inventory.host import Host
from ansible_collections.magi.models.plugins.module_utils._config.settings import (
    MERGED,
    PREFIX,
    SETTINGS,
    SettingError,
    resolve,
)
from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import ControllerAction
from ansible_collections.magi.models.plugins.plugin_utils._ansible.dotenv import DotenvError, find_dotenv, read_dotenv
from ansible_collections.magi.models.plugins.plugin_utils._ansible.profiles import profile_folders
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import Way


def _has_key(options: Mapping[str, Any], none: Any) -> bool:
    """Whether ``options`` have an API key file other than ``none``."""
    return any(str(name).replace("-", "_") == "api_key_file" and value != none for name, value in options.items())


class ActionModule(ControllerAction):
    """Settle the settings; see the module of the same name."""

    ERRORS = (SettingError, DotenvError)

    def decide(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        # Only the variable manager still knows what came from where; in task_vars all sources are merged.
        manager = self._task.get_variable_manager()
        host = manager._inventory.get_host(task_vars["inventory_hostname"])
        given = manager.get_vars(host=host, include_hostvars=False)  # without a play: without the defaults of roles

        def values(names: Iterable[str]) -> dict[str, Any]:
            return {name: self._templar.template(task_vars[name]) for name in names}

        merged = tuple(f"{PREFIX}{name}_" for name in MERGED)
        variables = {PREFIX + setting.name for setting in SETTINGS}
        variables |= {name for name in task_vars if name.startswith(merged)}
        names = variables | {setting.alias for setting in SETTINGS if setting.alias}
        folder = next((folder for folder in profile_folders(task_vars) if folder.is_dir()), None)
        configuration = task_vars.get("ansible_config_file")
        file = find_dotenv([os.getcwd(), *([os.path.dirname(configuration)] if configuration else [])], os.environ)
        settings, origins = resolve(
            values(variables & given.keys()),
            os.environ,
            values(names & manager.extra_vars.keys()),
            {
                **({f"{PREFIX}profiles_dir": str(folder)} if folder else {}),
                **values(variables & (task_vars.keys() - given.keys())),
            },
            os.getcwd(),
            read_dotenv(file, os.environ) if file else {},
            str(file.parent) if file else "/",
        )
        if origins.get("options", "").startswith("inventory") and not _has_key(settings["options"], ""):
            settings["key_hidden_from"] = self._group_with_key(manager, host)
        gateways = task_vars["groups"].get("model_gateways", ())
        return {
            "settings": settings,
            "origins": origins,
            "way": asdict(self.way(task_vars)),
            "gateways": {name: asdict(self.way(task_vars["hostvars"][name])) for name in gateways},
        }

    def _group_with_key(self, manager: Any, host: Host) -> str:
        """Return the outermost group of the host whose options have an API key file; "" if none has."""
        for group in sorted(host.get_groups(), key=lambda group: (group.depth, group.name)):
            alone = Host(f"{host.name} in {group.name}")  # has what its groups give, and nothing of its own
            alone.add_group(group)
            try:
                given = self._templar.template(
                    manager.get_vars(host=alone, include_hostvars=False).get(f"{PREFIX}options")
                )
            except AnsibleError:  # what nobody uses may be wrong
                continue
            if isinstance(given, Mapping) and _has_key(given, None):
                return str(group.name)
        return ""

    def way(self, task_vars: Mapping[str, Any]) -> Way:
        """Return how Ansible gets to the host."""
        given = (task_vars.get(name) for name in ("ansible_host", "ansible_connection"))
        address, connection = (value and str(self._templar.template(value)) for value in given)
        return Way(address or task_vars["inventory_hostname"], connection or "ssh")
