#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: deployment_gate
short_description: Hold back a batch of hosts when one before it failed
version_added: 0.1.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Runs before the deployment of each batch of a rollout, and looks at the results of the batches before.
  - A host counts as failed if it was not deployed, or if one of its instances is not ready. If more hosts of a batch
    failed than O(max_fail_percentage) allows, the batches after it are held back.
  - It never fails, so that the report still comes; the report fails, and says who was held back and why.
  - Runs on the controller; no host is touched.
extends_documentation_fragment:
  - magi.models.attributes
  - magi.models.attributes.info_module
  - magi.models.results
options:
  order:
    description: The hosts in the order in which they are deployed, from M(magi.models.deployment_rollout).
    type: list
    elements: str
    required: true
  batches:
    description: How many hosts each batch has, from M(magi.models.deployment_rollout).
    type: list
    elements: int
    required: true
  max_fail_percentage:
    description: Percentage of the hosts of a batch that may fail.
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: Go on only if the batches before are well
  magi.models.deployment_gate:
    hosts: >-
      {{ ansible_play_hosts_all
         | magi.models.registered(hostvars, settings='settled', planned='planned', applied='applied') }}
    order: "{{ rollout.order }}"
    batches: "{{ rollout.batches }}"
  register: gate
  run_once: true
"""

RETURN = r"""
held_back:
  description: Why this batch is held back; empty if it goes on.
  returned: always
  type: str
"""
