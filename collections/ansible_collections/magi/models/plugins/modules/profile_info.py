#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: profile_info
short_description: Load and validate a profile
version_added: 0.1.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Reads C(<dir>/<name>.yml) and checks each of its keys and values.
  - Runs on the controller; no host is touched.
extends_documentation_fragment:
  - magi.models.attributes
  - magi.models.attributes.info_module
options:
  name:
    description: Name of the profile, which is the name of its file without C(.yml).
    type: str
    required: true
  dir:
    description: The folder of profiles; by default C(profiles) beside the host's inventory, else beside C(ansible.cfg),
      else in the working directory.
    type: path
  options:
    description: Options of the host, laid over the profile's and under an entry's, for RV(option_sets).
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Load the profile production
  magi.models.profile_info:
    name: production
  register: loaded
"""

RETURN = r"""
profile:
  description: The profile with its entries, options and defaults filled in.
  returned: success
  type: dict
  sample:
    name: production
    description: Q3 and Q4 only
    entries:
      - {kind: tier, pattern: Q3, instances: 1, port: null, options: {}}
    options: {}
    strict: false
option_sets:
  description: The options of each entry with those of profile and host, each set once.
  returned: success
  type: list
  elements: dict
  sample: [{ctx_size: 8192, parallel: 2}]
"""
