# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.magi.models.plugins.module_utils._config.profile import Profile, ProfileError, parse_profile
from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import ControllerAction


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

    SPEC = {"name": {"type": "str", "required": True}, "dir": {"type": "path", "required": True}}
    ERRORS = (ProfileError,)

    def decide(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        return {"profile": load_profile(Path(arguments["dir"]), arguments["name"]).to_dict()}
