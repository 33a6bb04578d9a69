# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.magi.models.plugins.module_utils._profile import ProfileError, parse_profile


class ActionModule(ActionBase):
    """Load and validate a profile on the controller; see the module of the same name."""

    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _checked, arguments = self.validate_argument_spec(
            {"name": {"type": "str", "required": True}, "dir": {"type": "path", "required": True}}
        )
        folder, name = Path(arguments["dir"]), arguments["name"]
        path = folder / f"{name}.yml"
        try:
            # Plain YAML, not Ansible's: a profile is data, and no template in it is ever run.
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
            profile = parse_profile(name, data)
        except FileNotFoundError:
            there = ", ".join(sorted(item.stem for item in folder.glob("*.yml"))) or "none"
            raise AnsibleActionFail(f"Profile {name} not found: there is no {path}. Profiles there: {there}.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise AnsibleActionFail(f"Profile {name}: {path} can't be read ({error}).") from None
        except yaml.YAMLError as error:
            said = " ".join(str(error).split())
            raise AnsibleActionFail(f"Profile {name}: {path} is not valid YAML ({said}).") from None
        except ProfileError as error:
            raise AnsibleActionFail(f"{error} (in {path})") from None
        result.update(changed=False, profile=profile.to_dict())
        return result
