#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: model_host_info
short_description: Read what a plan or a report needs to know of a host
version_added: 0.1.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Reads, in one call, the llama-server binary and the options it takes, the instances as they run with their
    configuration hash, listeners with process and command, cores, memory and GPUs.
  - Needs nothing but Python's standard library on the host.
extends_documentation_fragment:
  - magi.models.attributes
  - magi.models.attributes.info_module
options:
  llama_server_path:
    description: The llama-server binary.
    type: path
    required: true
  home:
    description: Folder of the instance files and of the applied state.
    type: path
    required: true
  manager:
    description: The service manager; V(auto) takes systemd where it is PID 1, else supervisor.
    type: str
    choices: [auto, systemd, supervisor]
    default: auto
  supervisord_path:
    description: The supervisord program, for O(manager=supervisor).
    type: path
    default: supervisord
  port_range:
    description: First and last port (both included) whose listeners are looked up.
    type: list
    elements: int
    default: [8080, 8099]
  ports:
    description: Further ports whose listeners are looked up, such as those that a profile fixes.
    type: list
    elements: int
    default: []
  log_lines:
    description: How many of the last lines of each instance's log to return; V(0) reads no log.
    type: int
    default: 0
  identify:
    description: Ask each running instance at C(/v1/models) which model it serves.
    type: bool
    default: false
  options:
    description: Return the options that the binary takes.
    type: bool
    default: true
  fence:
    description:
      - End what a deployment still does on the host when its controller, on this machine, is gone; then read the host.
      - Done by the action plugin of the same name, and not in check mode.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Look at a host
  magi.models.model_host_info:
    llama_server_path: /usr/local/bin/llama-server
    home: /etc/magi
    log_lines: 20
    identify: true
  register: found

- name: Show what runs
  ansible.builtin.debug:
    msg: "{{ item.name }} {{ item.state }} on port {{ item.port }}, pid {{ item.pid }}"
  loop: "{{ found.host.instances }}"
"""

RETURN = r"""
host:
  description: The host as it is.
  returned: always
  type: dict
  contains:
    manager:
      description: systemd or supervisor.
      type: str
      returned: always
    cores:
      description: Cores that may be used (affinity and control group quota).
      type: int
      returned: always
    memory_bytes:
      description: Physical memory in bytes.
      type: int
      returned: always
    gpus:
      description: Device nodes of GPUs.
      type: list
      elements: str
      returned: always
    binary:
      description: Path, version, identity and options of llama-server; null where there is none that runs.
      type: dict
      returned: always
    binary_error:
      description: Why there is no binary.
      type: str
      returned: always
    instances:
      description: Our instances with state, pid, port, configuration hash, start (seconds since the epoch),
        environment (LLAMA_ARG_* without secrets), log and the model ids they answered with.
      type: list
      elements: dict
      returned: always
    listeners:
      description: Listeners in the port range with address, port, pid, command and, for ours, the instance.
      type: list
      elements: dict
      returned: always
    generation:
      description: The applied state, with number, digest, and who applied which profile when.
      type: dict
      returned: always
    at_work:
      description: The deployment that changes the host at this moment, with deployment (who), pid and more, or null.
      type: dict
      returned: always
    silent_configs:
      description: Configuration files that llama-server would read without being told.
      type: list
      elements: str
      returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.magi.models.plugins.module_utils._probe import read_host
from ansible_collections.magi.models.plugins.module_utils._services import ServiceError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "llama_server_path": {"type": "path", "required": True},
            "home": {"type": "path", "required": True},
            "manager": {"type": "str", "choices": ["auto", "systemd", "supervisor"], "default": "auto"},
            "supervisord_path": {"type": "path", "default": "supervisord"},
            "port_range": {"type": "list", "elements": "int", "default": [8080, 8099]},
            "ports": {"type": "list", "elements": "int", "default": []},
            "log_lines": {"type": "int", "default": 0},
            "identify": {"type": "bool", "default": False},
            "options": {"type": "bool", "default": True},
            "fence": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    if len(params["port_range"]) != 2:
        module.fail_json(msg=f"port_range takes the first and the last port, not {params['port_range']}.")
    first, last = params["port_range"]
    try:
        host = read_host(
            llama_server_path=params["llama_server_path"],
            home=params["home"],
            manager=params["manager"],
            supervisord_path=params["supervisord_path"],
            ports=[*range(first, last + 1), *params["ports"]],
            log_lines=params["log_lines"],
            ask=params["identify"],
            options=params["options"],
        )
    except ServiceError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, host=host.to_dict())


if __name__ == "__main__":
    main()
