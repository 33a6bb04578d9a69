#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: deployment_canary
short_description: Decide whether the first hosts of a deployment do worse than the others
version_added: 0.2.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - A profile may have C(rollout), so that a deployment comes to some hosts first, the canaries, and is watched there;
    of a single host, to some of its instances.
  - A canary does worse if one of its new servers is not ready, crashed, or does not give some sensible tokens; or if,
    at a gateway, more of its requests failed, or its answers began later, than with the other servers of its model,
    on this host or another. Without others, what the same server did before counts.
  - Runs on the controller; no host is touched.
extends_documentation_fragment:
  - magi.models.attributes
  - magi.models.attributes.info_module
  - magi.models.results
options:
  batch:
    description: The canaries.
    type: list
    elements: str
    required: true
  watched:
    description:
      - By canary, C(looked), the result of M(magi.models.model_host_info) at the end of the watch, and C(tried), that
        of M(magi.models.llama_probe). Where it is not given, only what the deployment saw counts; what is missing in it
        counts as worse.
    type: dict
  before:
    description: The results of M(magi.models.model_gateway_handover) with its step C(counted), as the watch began.
    type: list
    elements: dict
    default: []
  after:
    description: The same as it ended, of the same gateways in the same order.
    type: list
    elements: dict
    default: []
  bake:
    description: Seconds for which the canaries are to be watched.
    type: int
    required: true
  auto_revert:
    description: Whether what does worse is taken back.
    type: bool
    required: true
"""

EXAMPLES = r"""
- name: Decide whether the canaries are well
  magi.models.deployment_canary:
    hosts: >-
      {{ ansible_play_hosts_all
         | magi.models.registered(hostvars, settings='settled', planned='planned', applied='applied') }}
    batch: "{{ ansible_play_batch }}"
    bake: 60
    auto_revert: true
  register: canary
  run_once: true
"""

RETURN = r"""
worse:
  description: By canary, what is worse on it; empty if nothing is.
  returned: always
  type: dict
take_back:
  description: The hosts on which the deployment is to be taken back.
  returned: always
  type: list
  elements: str
launched:
  description: By canary, what M(magi.models.llama_instances) returned of each instance that it launched; empty if one
    does worse. More may follow on the same host.
  returned: always
  type: dict
bake:
  description: Seconds for which they are still to be watched; 0 if one does worse already.
  returned: always
  type: int
"""
