#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: deployment_report
short_description: Report on a deployment
version_added: 0.1.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Gathers the plan of every host of the play, what it did and what it answered into one report, shows it as a table,
    and writes it as JSON on the controller.
  - Says which hosts have a problem, so that a later task can fail for these. A host has one if it was not deployed, if
    no server is ready anywhere, or if it is degraded and strict is set.
  - Runs on the controller; no host is touched.
extends_documentation_fragment:
  - magi.models.attributes
  - magi.models.results
attributes:
  check_mode:
    support: full
    details: No server was launched, so there is no report; only RV(problems) is returned.
  diff_mode:
    support: none
  idempotent:
    support: full
    details: The file is written again each time and never counts as a change.
options:
  path:
    description: Where to write the report on the controller; if empty, it is not written.
    type: path
  gateways:
    description:
      - By gateway, the results of its tasks, by name, from P(magi.models.registered#filter).
      - The names are C(configured) for M(magi.models.model_gateway), C(installed) for the same once HAProxy was
        installed, and C(reached) for M(ansible.builtin.uri) in a loop over its questions.
    type: dict
    default: {}
    version_added: 0.2.0
  state:
    description:
      - V(absent) removes an earlier run's report, so that nobody takes it for one of a run that ended early.
      - V(awaited) does so, too, and fails where the new one could not be written.
    type: str
    choices: [present, awaited, absent]
    default: present
"""

EXAMPLES = r"""
- name: Report
  magi.models.deployment_report:
    path: report.json
    hosts: >-
      {{ ansible_play_hosts_all | magi.models.registered(hostvars, settings='settled', registry='discovered',
         planned='planned', applied='applied', after='looked') }}
  register: result
  run_once: true

- name: Fail for the hosts that have a problem
  ansible.builtin.fail:
    msg: "{{ result.problems[inventory_hostname] }}"
  when: inventory_hostname in result.problems
"""

RETURN = r"""
problems:
  description: By host, the sentence to fail with; hosts without a problem are not in it.
  returned: when O(state=present)
  type: dict
report:
  description: The report.
  returned: when O(state=present)
  type: dict
  contains:
    total_servers:
      description: Number of servers in the plans.
      type: int
      returned: always
    ready_servers:
      description: Number of servers that are ready.
      type: int
      returned: always
    servers:
      description: Each server with model_id, instance, display_name, tier, task, host, address, port, url, url_from
        (C(controller), or C(host) where nobody else can ask it), pid, started_at, state, is_ready and action.
      type: list
      elements: dict
      returned: always
    gateways:
      description: Each gateway with host, url, url_from, asks_key, names (what it routes), is_ready, cause and detail;
        and asked, what its clients are told of the models that were launched, with name, url, by and status.
      type: list
      elements: dict
      returned: with gateways
    summary:
      description: profile, models_discovered, models_enabled, servers_launched, servers_ready, failed, degraded
        (what the profile enables and a host can't give) and warnings.
      type: dict
      returned: always
    example:
      description: Lines for people with a command to try and what a client needs; none if no server is ready.
      type: list
      elements: str
      returned: always
"""
