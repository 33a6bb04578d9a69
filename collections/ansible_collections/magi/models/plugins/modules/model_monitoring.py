#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: model_monitoring
short_description: Tell Prometheus on a host what to ask and of what to warn, or remove that
version_added: 0.2.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Writes Prometheus's configuration, its rules, and the targets of a deployment, namely all servers, gateways and
    hosts, as documents for its C(file_sd_configs); and dashboards for Grafana.
  - An action plugin makes them on the controller, from what each host deployed or keeps, and calls the module of the
    same name on the host once. What is known of hosts that this run did not reach or deploy stays.
  - Prometheus sees new targets by itself. It must reload its configuration where RV(reload) is true.
extends_documentation_fragment:
  - magi.models.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: Shows every file.
  idempotent:
    support: full
options:
  state:
    description: With V(absent), what the module wrote is removed.
    type: str
    choices: [present, absent]
    default: present
  home:
    description:
      - Folder of the files C(prometheus.yml), C(rules.yml), C(targets/*.json), C(grafana.yml) and C(dashboards/*.json).
        Without it, there are none.
    type: path
    default: ""
  textfile_dir:
    description:
      - Folder where node_exporter on the host looks for C(*.prom) files (C(--collector.textfile.directory)). A host of
        O(hosts) gets C(magi.prom) there, which tells how it was deployed.
    type: path
    default: ""
  probe:
    description:
      - Ask each server of a host of O(hosts) regularly for one token, one embedding or one rerank, by a timer of
        systemd's, and tell node_exporter in O(textfile_dir), as C(magi-probe.prom), which did their work, and when. One
        that may sleep is not asked, since that would wake it, or keep it awake.
      - With V(false), what did that on the host of O(textfile_dir) is removed.
    type: bool
    default: false
  probe_home:
    description: Folder of the program that asks. It needs Python alone, and runs without any right.
    type: path
    default: /usr/local/lib/magi-probe
  probe_interval:
    description: Seconds from one time to the next.
    type: int
    default: 300
  hosts:
    description:
      - By host of the group C(model_servers), the results of its tasks, as M(magi.models.deployment_report) takes them.
      - Evaluated by the action plugin of the same name.
    type: dict
    default: {}
  gateways:
    description:
      - By host of the group C(model_gateways), the results of its tasks, likewise.
      - Evaluated by the action plugin of the same name.
    type: dict
    default: {}
  gpu_exporters:
    description:
      - By host, the result of M(magi.models.gpu_exporter_info).
      - Evaluated by the action plugin of the same name.
    type: dict
    default: {}
  interval:
    description: Seconds between two looks at each target, and between two evaluations of the rules.
    type: int
    default: 15
  key_file:
    description: >-
      File on the host with one key and nothing else, for all servers that have an API key file. Without it, these are
      not asked.
    type: path
    default: ""
  node_address:
    description: What node_exporter binds on all hosts.
    type: str
    default: 127.0.0.1
  node_port:
    description: The port of node_exporter on all hosts. With 0, it is not asked.
    type: int
    default: 0
  alertmanagers:
    description: Where alerts are sent, each an address with a port.
    type: list
    elements: str
    default: []
  limits:
    description: From where on something is worth an alert, such as C(queue) or C(first_token).
    type: dict
    default: {}
  runbooks:
    description: The page with the runbooks, to which each alert links.
    type: str
    default: https://github.com/magi-models/magi.models/blob/main/docs/alerts.md
  job:
    description: What the action plugin hands to the module on the host. Not for use in a playbook.
    type: dict
"""

EXAMPLES = r"""
- name: Tell Prometheus what was deployed
  magi.models.model_monitoring:
    home: /etc/magi-monitoring
    limits: {queue: 50}
    hosts: >-
      {{ groups.model_servers | magi.models.registered(hostvars, settings='settled', registry='discovered',
         planned='planned', applied='applied', after='looked') }}
"""

RETURN = r"""
reload:
  description: Whether something changed that Prometheus does not see by itself.
  returned: always
  type: bool
timed:
  description: Whether a timer that this call knows of asks the servers of the host; none does without systemd.
  returned: always
  type: bool
"""

import contextlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.magi.models.plugins.module_utils._base.files import FileWriteError, why
from ansible_collections.magi.models.plugins.module_utils._base.folder import settle
from ansible_collections.magi.models.plugins.module_utils._config.monitoring import MONITORING_OPTIONS
from ansible_collections.magi.models.plugins.module_utils._services.values import ServiceError

if TYPE_CHECKING:
    from ansible_collections.magi.models.plugins.module_utils._services.timer import Timer

BOOTED = "/run/systemd/system"
"""Shows that systemd runs the host (sd_booted(3))."""


def settled(module: AnsibleModule, job: Mapping[str, Any]) -> list[dict[str, str]]:
    """Make each folder of the job hold its files, and return what changes as a diff."""
    diff = []
    for setting, wanted in job.items():
        try:
            diff += settle(**wanted, check_mode=module.check_mode)
        except FileWriteError as error:
            remedy = why(error, f"observability_{setting}" if setting in module.params else None)
            module.fail_json(msg=f"{error.filename}: {remedy}.")
    return diff


def timer_of(units: Mapping[str, Any]) -> Timer | None:
    """Return the timer of the probe, if the host has it or is to have it."""
    if not (units["files"] or any(os.path.exists(f"{units['folder']}/{name}") for name in units["ours"])):
        return None
    # Few hosts have it, and each import is compiled again in every call.
    from ansible_collections.magi.models.plugins.module_utils._services.timer import Timer

    return Timer(*units["ours"])


def main() -> None:
    module = AnsibleModule(argument_spec=MONITORING_OPTIONS, supports_check_mode=True)
    params = module.params
    job = params["job"]
    if not job:
        module.fail_json(
            msg="model_monitoring has an action plugin of the same name that must call it; use it as a task."
        )
    units = job.get("units") or {"files": {}, "ours": []}
    if units["files"] and not os.path.isdir(BOOTED):
        for part in ("probe_home", "units"):
            job[part]["files"] = {}
    timer = timer_of(units)
    wanted, begun = bool(units["files"]), False
    if timer and not wanted and not module.check_mode:
        timer.stop()
    diff = settled(module, job)
    try:
        if timer and wanted:
            parts = tuple(job[part]["folder"] for part in ("probe_home", "units"))
            begun = any(item["after_header"].startswith(parts) for item in diff) or not timer.runs()
            if begun and not module.check_mode:
                timer.start()
        elif timer and not module.check_mode:
            timer.forget()
    except ServiceError as error:
        module.fail_json(msg=f"{error}".rstrip(".") + ".")
    gone = [params["home"]] if params["state"] == "absent" and params["home"] else []
    if timer and not wanted:
        gone.append(params["probe_home"])
    for folder in [] if module.check_mode else gone:
        with contextlib.suppress(OSError):  # only where nothing else is in it
            os.rmdir(folder)
    reload = any(os.path.basename(item["after_header"]) in ("prometheus.yml", "rules.yml") for item in diff)
    module.exit_json(changed=bool(diff) or begun, diff=diff, reload=reload, timed=wanted)


if __name__ == "__main__":
    main()
