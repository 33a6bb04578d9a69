#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: health_info
short_description: Show which servers serve their clients, on all hosts of the play
version_added: 0.1.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Gathers what M(magi.models.model_host_info) found on each host, what M(ansible.builtin.uri) got where clients ask,
    and what M(magi.models.llama_probe) got. Shows it as one table, with a cause for each server that does not serve.
  - Runs on the controller; no host is touched.
extends_documentation_fragment:
  - magi.models.attributes
  - magi.models.attributes.info_module
options:
  hosts:
    description:
      - By host, the results of its tasks by name, from P(magi.models.registered#filter).
      - The names are C(settings) for M(magi.models.settings_info), C(looked) for M(magi.models.model_host_info),
        C(asked) for M(ansible.builtin.uri) in a loop over P(magi.models.health_questions#filter), and C(probed) for
        M(magi.models.llama_probe).
    type: dict
    required: true
  gateways:
    description:
      - By host of the group C(model_gateways), the results of its tasks, likewise.
      - The names are C(looked) for M(magi.models.model_gateway_info), C(reached) for M(ansible.builtin.uri) in a loop
        over its questions, and C(probed) for M(magi.models.llama_probe).
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Show the health
  magi.models.health_info:
    hosts: >-
      {{ ansible_play_hosts_all | magi.models.registered(hostvars, settings='settled', looked='looked',
             asked='asked') }}
  register: health
  run_once: true

- name: Fail for the hosts with a server that does not serve
  ansible.builtin.fail:
    msg: "{{ health.problems[inventory_hostname] }}"
  when: inventory_hostname in health.problems
"""

RETURN = r"""
health:
  description:
    - What runs, in the shape of a report, with total_servers, ready_servers, servers and summary.
    - A server that was asked the way its clients ask has C(asked) with url, by and status.
    - C(summary.failed) has the instance, host, cause and detail of each server and each gateway that does not serve.
    - With O(gateways), C(gateways) has what M(magi.models.model_gateway_info) says of each, and C(asked).
  returned: always
  type: dict
problems:
  description: By host, the sentence to fail with; hosts without a problem are not in it.
  returned: always
  type: dict
"""
