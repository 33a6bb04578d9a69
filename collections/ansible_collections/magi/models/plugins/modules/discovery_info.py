#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: discovery_info
short_description: Show the models of all hosts of the play
version_added: 0.1.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Gathers what M(magi.models.model_registry) found on each host, and shows a table for each, what was set aside and
    why, and drift, which is one id with different content on different hosts.
  - Runs on the controller; no host is touched.
extends_documentation_fragment:
  - magi.models.attributes
  - magi.models.attributes.info_module
options:
  hosts:
    description: By host, the result of M(magi.models.model_registry), from P(magi.models.registered#filter).
      A host without one is shown as not reachable.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the models
  magi.models.discovery_info:
    hosts: "{{ ansible_play_hosts_all | magi.models.registered(hostvars, 'discovered') }}"
  run_once: true
"""

RETURN = r"""
models:
  description: The models of each host, by host.
  returned: always
  type: dict
drift:
  description: Each id that differs between hosts, with its variants (size_bytes, fingerprint, sha256, hosts).
  returned: always
  type: list
  elements: dict
"""
