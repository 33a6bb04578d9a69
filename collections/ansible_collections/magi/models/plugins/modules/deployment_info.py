#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: deployment_info
short_description: Show what runs on all hosts of the play
version_added: 0.1.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Gathers what M(magi.models.model_host_info) found on each host, and shows it as one table.
  - Runs on the controller; no host is touched.
extends_documentation_fragment:
  - magi.models.attributes
  - magi.models.attributes.info_module
options:
  hosts:
    description:
      - By host, the results of its tasks by name, from P(magi.models.registered#filter).
      - The names are C(settings) for M(magi.models.settings_info) and C(looked) for M(magi.models.model_host_info). A
        host that was not looked at is shown as not reachable.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what runs
  magi.models.deployment_info:
    hosts: "{{ ansible_play_hosts_all | magi.models.registered(hostvars, settings='settled', looked='looked') }}"
  run_once: true
"""

RETURN = r"""
status:
  description: What runs, in the shape of a report, with total_servers, ready_servers, servers and summary.
    Each server has its C(url), and in C(url_from) whether that works from the C(controller) or on its C(host) alone.
    summary.failed says why servers that answer are not ready, C(wrong_server) or C(not_on_device), and which did not
    find their GPU at their start, C(device_missing).
  returned: always
  type: dict
"""
