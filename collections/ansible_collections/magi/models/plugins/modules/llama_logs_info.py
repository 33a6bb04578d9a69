#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_logs_info
short_description: Read what an instance printed
version_added: 0.1.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Returns the last lines that the last run of an instance printed, from systemd's journal or supervisor's file.
  - With O(follow), shows new lines as they come, until you interrupt it or the host can't be reached any more.
extends_documentation_fragment:
  - magi.models.attributes
  - magi.models.attributes.info_module
  - magi.models.services
options:
  name:
    description: The instance.
    type: str
    required: true
  lines:
    description: How many of its last lines; at most 64 KiB of supervisor's file are read.
    type: int
    default: 100
  follow:
    description: Show new lines as they come. Done by the action plugin of the same name.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Read the last lines of an instance
  magi.models.llama_logs_info:
    name: smollm2-135m-instruct.q2_k
    lines: 20
    home: /etc/magi
  register: printed
"""

RETURN = r"""
log:
  description: The lines, oldest first; null if there is no such instance.
  returned: success
  type: list
  elements: str
instances:
  description: The instances that the host has.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.magi.models.plugins.module_utils._services.choice import SERVICE_OPTIONS, chosen, usable
from ansible_collections.magi.models.plugins.module_utils._services.values import ServiceError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "lines": {"type": "int", "default": 100},
            "follow": {"type": "bool", "default": False},
            **SERVICE_OPTIONS,
        },
        supports_check_mode=True,
    )
    params = module.params
    name, lines = params["name"], params["lines"]
    try:
        manager = usable(chosen(params["manager"], params["home"], params["supervisord_path"]))
        instances = sorted(manager.status())
        log = manager.logs(name, lines) if lines > 0 else []
    except ServiceError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, log=log if name in instances else None, instances=instances)


if __name__ == "__main__":
    main()
