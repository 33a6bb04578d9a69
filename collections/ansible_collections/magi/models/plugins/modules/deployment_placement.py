#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: deployment_placement
short_description: Show a profile, and decide which hosts run its replicas
version_added: 0.2.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Shows name and description of the profile.
  - Decides for each entry with C(replicas) which hosts have how many of them. What runs stays; what is missing comes to
    the host that has the model, has room in its memory, and has fewest. What was on a host that can't be reached comes
    to another.
  - Leaves entries with C(hosts) to the hosts that the pattern matches.
  - Decides for each entry with C(rpc) which host serves, and which workers the hosts that it names run for that, at
    which address and port. That must be a loopback or private address of IPv4, by the setting
    C(model_server_rpc_address) or the inventory.
  - Runs on the controller; no host is touched.
extends_documentation_fragment:
  - magi.models.attributes
  - magi.models.attributes.info_module
options:
  profile:
    description: The profile, as M(magi.models.profile_info) returns it.
    type: dict
    required: true
  hosts:
    description: By host of the play, the results of its tasks, by name, from P(magi.models.registered#filter). The
      names are C(settings) for M(magi.models.settings_info) and C(registry) for M(magi.models.model_registry). A
      profile without C(replicas), C(hosts) and C(rpc) needs none.
    type: dict
    default: {}
  all_hosts:
    description: The names of all hosts that may run servers. While some of them are not in O(hosts), replicas that
      could be there stay where they are.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Place the replicas, once for all hosts
  magi.models.deployment_placement:
    profile: "{{ loaded.profile }}"
    hosts: "{{ ansible_play_hosts_all | magi.models.registered(hostvars, settings='settled', registry='discovered') }}"
    all_hosts: "{{ groups.model_servers }}"
  register: placed
  run_once: true

- name: Plan
  magi.models.deployment_plan:
    profile: "{{ loaded.profile }}"
    registry: "{{ discovered }}"
    host: "{{ discovered.host }}"
    settings: "{{ settled.settings }}"
    placement: "{{ placed.placement[inventory_hostname] | default(omit) }}"
"""

RETURN = r"""
placement:
  description: By host, what M(magi.models.deployment_plan) takes as its C(placement); empty for a profile without
    C(replicas), C(hosts) and C(rpc).
  returned: always
  type: dict
"""
