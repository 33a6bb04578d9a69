#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: deployment_rollout
short_description: Decide whether hosts are deployed, in which order and batches
version_added: 0.1.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Hosts where nothing runs yet are the first batch; the others follow in batches of O(serial).
  - If several deployments claimed the same hosts at once (option O(magi.models.model_registry#module:claim)), one goes
    on, namely the one that came first to the first host by name that both have. The others are refused, for all their
    hosts.
  - Give the result to C(hosts) and C(serial) of the play that deploys, as C(site.yml) does.
  - Runs on the controller; no host is touched.
extends_documentation_fragment:
  - magi.models.attributes
  - magi.models.attributes.info_module
options:
  hosts:
    description: By host, the result of M(magi.models.model_host_info), or of M(magi.models.model_registry) with its
      option O(magi.models.model_registry#module:host). P(magi.models.registered#filter) gathers them.
    type: dict
    required: true
  among:
    description: Names of the hosts to deploy; all where not given.
    type: list
    elements: str
  serial:
    description: Sizes of batches, each a number of hosts or a percentage of those where something runs. With V(100%)
      alone, all hosts are one batch.
    type: list
    elements: raw
    required: true
  plans:
    description: By host, the result of M(magi.models.deployment_plan).
    type: dict
    default: {}
  gateways:
    description:
      - The gateways to these hosts. With any, and if O(plans) end or restart servers, RV(beside) and RV(going) say what
        happens in which order, so that their clients notice nothing; and with O(serial=100%), the servers of a model on
        several hosts restart in several batches.
    type: list
    elements: str
    default: []
  canary:
    description:
      - How the deployment is tried before it comes to all hosts, from C(rollout) of the profile. So many of the hosts
        that launch something, and have been deployed before, are the first batch.
    type: dict
    suboptions:
      hosts:
        description: How many hosts.
        type: int
        required: true
      bake:
        description: Seconds for which they are watched.
        type: int
        required: true
      auto_revert:
        description: Whether what does worse there is taken back.
        type: bool
        required: true
  by_instance:
    description:
      - Whether, of a single host, so many instances come first, and RV(alone) says with which plan. Otherwise all of
        the host does.
    type: bool
    default: false
  began_at:
    description:
      - When the deployment began of which the canaries are done (RV(began_at)), and the rest follows on the same host.
    type: float
    default: 0
  undone:
    description: What a rollback takes back, as for M(magi.models.deployment_plan).
    type: float
    default: 0
"""

EXAMPLES = r"""
- name: Decide the order, once for all hosts
  magi.models.deployment_rollout:
    hosts: "{{ ansible_play_hosts | magi.models.registered(hostvars, 'looked') }}"
    serial: [1, 25%]
  register: rollout
  run_once: true
"""

RETURN = r"""
order:
  description: The hosts in the order in which they are deployed.
  returned: always
  type: list
  elements: str
batches:
  description: How many hosts each batch has.
  returned: always
  type: list
  elements: int
refused:
  description: Why nothing is to be deployed, since another deployment goes on, or changes one of the hosts; else empty.
  returned: always
  type: str
beside:
  description: By host, the instances that start before anything goes.
  returned: always
  type: dict
going:
  description: The hosts on which servers that run end or restart, where there is a gateway.
  returned: always
  type: list
  elements: str
clients:
  description: By host and instance, what happens to its clients, and why, where there is a gateway.
  returned: always
  type: dict
stand_ins:
  description: By host, the instances among RV(beside) that stand in for others while these restart, and end afterwards.
  returned: always
  type: dict
ends:
  description: By host, the servers that end before all others are deployed, since workers that compute for them go.
  returned: always
  type: dict
workers:
  description: By host, the workers that start, restart or end then.
  returned: always
  type: dict
workers_on:
  description: The hosts of RV(ends) and RV(workers).
  returned: always
  type: list
  elements: str
canary:
  description: The hosts of the first batch that are watched before the others follow.
  returned: always
  type: list
  elements: str
alone:
  description: Of a single host of which some instances come first (O(by_instance)), the plan of these, by host. The
    others stay as they are in it.
  returned: always
  type: dict
follows:
  description: Whether this is what follows (O(began_at)).
  returned: always
  type: bool
bake:
  description: Seconds for which they are watched.
  returned: always
  type: int
auto_revert:
  description: Whether what does worse there is taken back.
  returned: always
  type: bool
began_at:
  description: The time now, in seconds since the epoch, or as given. It stands for the deployment, on hosts and
    gateways.
  returned: always
  type: float
undone:
  description: As given.
  returned: always
  type: float
unreached:
  description: Hosts that were to be claimed and could not be.
  returned: always
  type: list
  elements: str
"""
