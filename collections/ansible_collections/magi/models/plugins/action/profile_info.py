# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._plan.layers import option_sets
from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import ControllerAction
from ansible_collections.magi.models.plugins.plugin_utils._ansible.profiles import profile_folders
from ansible_collections.magi.models.plugins.plugin_utils._profiles.load import (
    ProfileLoadError,
    find_profile,
    load_profile,
)


class ActionModule(ControllerAction):
    """Load and validate a profile; see the module of the same name."""

    SPEC = {
        "name": {"type": "str", "required": True},
        "dir": {"type": "path"},
        "options": {"type": "dict", "default": {}},
    }
    ERRORS = (ProfileLoadError,)

    def decide(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        folders = [Path(arguments["dir"])] if arguments["dir"] else profile_folders(task_vars)
        folder = next((folder for folder in folders if folder.is_dir()), None)
        if folder is None:
            raise ProfileLoadError(
                f"Profile {arguments['name']} not found: there is no folder {' or '.join(map(str, folders))}; "
                "make one with your profiles, or set model_server_profiles_dir."
            )
        profile = load_profile(find_profile(folder, arguments["name"]))
        return {"profile": profile.to_dict(), "option_sets": option_sets(profile, arguments["options"])}
