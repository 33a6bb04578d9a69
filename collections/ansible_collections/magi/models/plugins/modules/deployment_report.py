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
  - Gathers what every host of the play was planned, did and answered into one report, shows it as a table, and writes
    it as JSON on the controller.
  - Fails when the report is degraded and strict was set. Runs on the controller; no host is touched.
extends_documentation_fragment:
  - magi.models.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
    details: The file is written anew each time and never counts as a change.
options:
  path:
    description: Where to write the report on the controller; nowhere if empty.
    type: path
  hosts:
    description: The hosts to report on.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Report
  magi.models.deployment_report:
    path: "{{ playbook_dir }}/../data/report.json"
    hosts: "{{ ansible_play_hosts_all }}"
  run_once: true
"""

RETURN = r"""
report:
  description: The report.
  returned: always
  type: dict
  contains:
    total_servers:
      description: Servers that the plans hold.
      type: int
      returned: always
    ready_servers:
      description: Servers that answered ready.
      type: int
      returned: always
    servers:
      description: Each server with model_id, instance, display_name, host, port, pid, is_ready and tier.
      type: list
      elements: dict
      returned: always
    summary:
      description: profile, models_discovered, models_enabled, servers_launched, servers_ready, failed and warnings.
      type: dict
      returned: always
"""
