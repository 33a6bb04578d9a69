# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.magi.models.plugins.module_utils._config.profile import Profile, ProfileError, parse_profile
from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import ControllerAction
from ansible_collections.magi.models.plugins.plugin_utils._ansible.profiles import profile_folders


def load_profile(folder: Path, name: str) -> Profile:
    """Return the profile of ``<folder>/<name>.yml``. Raises ProfileError naming the file and what is wrong."""
    path = folder / f"{name}.yml"
    try:
        # Plain YAML, not Ansible's: a profile is data, and no template in it is ever run.
        return parse_profile(name, yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        there = ", ".join(sorted(item.stem for item in folder.glob("*.yml"))) or "none"
        raise ProfileError(f"Profile {name} not found: there is no {path}. Profiles there: {there}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"Profile {name}: {path} can't be read ({error}).") from None
    except yaml.YAMLError as error:
        raise ProfileError(f"Profile {name}: {path} is not valid YAML ({' '.join(str(error).split())}).") from None
    except ProfileError as error:
        raise ProfileError(f"{error} (in {path})") from None


class ActionModule(ControllerAction):
    """Load and validate a profile; see the module of the same name."""

    SPEC = {"name": {"type": "str", "required": True}, "dir": {"type": "path"}}
    ERRORS = (ProfileError,)

    def decide(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        folders = [Path(arguments["dir"])] if arguments["dir"] else profile_folders(task_vars)
        folder = next((folder for folder in folders if folder.is_dir()), None)
        if folder is None:
            raise ProfileError(
                f"Profile {arguments['name']} not found: there is no folder {' or '.join(map(str, folders))}; "
                "make one with your profiles, or set model_server_profiles_dir."
            )
        return {"profile": load_profile(folder, arguments["name"]).to_dict()}
