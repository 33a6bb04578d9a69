#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: settings_info
short_description: Settle the settings of a deployment
version_added: 0.1.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Takes each C(model_server_*) setting from the source that wins, C(-e) over the controller's environment over the
    inventory over the role's default, and checks its type.
  - Runs on the controller; no host is touched.
extends_documentation_fragment:
  - magi.models.attributes
  - magi.models.attributes.info_module
options: {}
"""

EXAMPLES = r"""
- name: Settle the settings
  magi.models.settings_info:
  register: settled

- name: Show the port range that counts
  ansible.builtin.debug:
    msg: "{{ settled.settings.port_range }} (from {{ settled.origins.port_range }})"
"""

RETURN = r"""
settings:
  description:
    - The settings by name, without the prefix C(model_server_).
    - C(key_hidden_from) is the group whose C(model_server_options) have an C(api_key_file) that others for this host
      replace.
  returned: success
  type: dict
origins:
  description: Where each came from, such as C(environment MODEL_HOST) or C(inventory model_server_host).
  returned: success
  type: dict
way:
  description: How Ansible gets to the host, with its C(address) in the inventory and the C(connection).
  returned: success
  type: dict
gateways:
  description: The same for each host of the group C(model_gateways), by its name.
  returned: success
  type: dict
"""
