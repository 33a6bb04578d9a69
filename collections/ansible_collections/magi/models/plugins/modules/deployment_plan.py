#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: deployment_plan
short_description: Decide what a host should run, and what that takes
version_added: 0.1.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Makes a plan from a profile, the host's registry and the host as it is. The plan has the instances with ports,
    options and threads, an action for each (start, restart, stop, keep or quarantine) with its reason, and warnings.
  - Fails with one sentence when there is nothing to serve, the host's llama-server does not know an option, or a port
    is taken. Then it ends the deployment's claim to the host, if there is one (M(magi.models.model_registry)).
  - Runs on the controller; nothing else on a host is touched.
extends_documentation_fragment:
  - magi.models.attributes
  - magi.models.attributes.info_module
options:
  profile:
    description: The profile, as M(magi.models.profile_info) returns it. Needed unless O(undone) is given.
    type: dict
  undone:
    description:
      - Plan a rollback instead, of the deployment that began at this time (C(began_at) of a host's C(generation)). The
        plan of a host that it changed is what the deployment before made of it; that of another is what is there.
      - Needs the C(history) of O(registry) (option O(magi.models.model_registry#module:history)).
    type: float
  registry:
    description: The result of M(magi.models.model_registry).
    type: dict
    required: true
  host:
    description: The host, as M(magi.models.model_host_info) returns it.
    type: dict
    required: true
  settings:
    description: The settings, as M(magi.models.settings_info) returns them.
    type: dict
    required: true
  placement:
    description: What the fleet decided that the host has of the profile (M(magi.models.deployment_placement)); without
      it, the host has every instance that the profile enables.
    type: dict
    suboptions:
      shares:
        description: For each entry of the profile, the host's share by model id; null where the host has all.
        type: list
        elements: raw
      refused:
        description: Why nothing is to be deployed. Then this fails with it.
        type: str
      notes:
        description: Sentences for the plan.
        type: list
        elements: str
"""

EXAMPLES = r"""
- name: Plan
  magi.models.deployment_plan:
    profile: "{{ loaded.profile }}"
    registry: "{{ discovered }}"
    host: "{{ looked.host }}"
    settings: "{{ settled.settings }}"
  register: planned

- name: Show what would happen
  ansible.builtin.debug:
    msg: "{{ item.action }} {{ item.instance }}: {{ item.reason }}"
  loop: "{{ planned.plan.actions }}"
"""

RETURN = r"""
plan:
  description:
    - The plan, with C(instances) (each with its C(address), C(port), C(options) and more), C(actions), C(degraded),
      C(warnings), C(notes) and the host's C(generation).
    - Each of C(actions) names an C(instance), its C(action) and the C(reason). An action is V(start), V(restart),
      V(stop), V(keep), or V(quarantine) for one that stays stopped, since it failed for good with these very settings.
  returned: success
  type: dict
wrong:
  description: C(profile) if the profile or the settings are wrong, not the host.
  returned: failure
  type: str
"""
