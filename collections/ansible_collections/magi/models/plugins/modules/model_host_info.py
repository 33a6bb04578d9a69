#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: model_host_info
short_description: Read what a plan or a report needs to know about a host
version_added: 0.1.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Reads, in one call, the llama-server binary and the options it takes, the instances as they run with their
    configuration hash, listeners with process and command, cores, memory and GPUs.
  - Needs only Python's standard library on the host.
extends_documentation_fragment:
  - magi.models.attributes
  - magi.models.attributes.info_module
  - magi.models.services
options:
  llama_server_path:
    description: The llama-server binary; without it, none is looked at.
    type: path
  image:
    description:
      - The image that is looked at instead, where O(manager) runs containers. It is not pulled.
      - Without it, llama.cpp's own image of the build that is at O(llama_server_path).
    type: str
    default: ""
  port_range:
    description: First and last port (both included) whose listeners are looked up.
    type: list
    elements: int
    default: [8080, 8099]
  ports:
    description: More ports whose listeners are looked up, such as those that a profile fixes.
    type: list
    elements: int
    default: []
  environment:
    description: Variables that llama-server runs with when it is looked at.
    type: dict
    default: {}
  option_sets:
    description: Sets of options to try on the binary, as M(magi.models.profile_info) returns them.
    type: list
    elements: dict
    default: []
  identify:
    description:
      - Ask each running instance at C(/health) whether it is ready, and at C(/v1/models) which model it serves.
      - Returns the last lines of the log of one that is not ready, as it always does for one that failed.
    type: bool
    default: false
  wait_for:
    description: Before anything is read, wait until these instances are ready, or have failed for good.
    type: list
    elements: str
    default: []
  wait_seconds:
    description: The longest wait, in seconds.
    type: float
    default: 0
  readiness_check_interval:
    description: Seconds between two looks at the instances of O(wait_for).
    type: int
    default: 2
  must_read:
    description:
      - Files that the servers need, such as those of the models. RV(host.unreadable) says what keeps their user from
        these, or from llama-server.
    type: list
    elements: str
    default: []
  model_folders:
    description: The folders of the models, which the servers see even in a home folder.
    type: list
    elements: path
    default: []
"""

EXAMPLES = r"""
- name: Look at a host
  magi.models.model_host_info:
    llama_server_path: /usr/local/bin/llama-server
    home: /etc/magi
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
    home:
      description: Folder of the instance files and of the applied state.
      type: str
      returned: always
    cores:
      description: Cores that we may use (affinity and control group quota).
      type: int
      returned: always
    memory_bytes:
      description: Physical memory in bytes.
      type: int
      returned: always
    gpus:
      description: Device nodes of GPUs, whatever llama-server can do with them.
      type: list
      elements: str
      returned: always
    binary:
      description: Path, version, identity and options (as JSON) of llama-server, the names of the C(devices) that it
        computes on beside the CPU (null if the build can't list them), those of them that it takes by itself as
        C(default_devices), and in C(no_gpu) what it says if it can't use a GPU; null if there is none that runs.
      type: dict
      returned: always
    binary_error:
      description: Why there is no binary.
      type: str
      returned: always
    instances:
      description: Our instances with state, pid, port, configuration hash, start (seconds since the epoch),
        environment (LLAMA_ARG_* without secrets), log, HTTP status of /health and the model ids they answered with;
        C(manager) is what runs it, if that was chosen before O(manager).
      type: list
      elements: dict
      returned: always
    listeners:
      description: Listeners in the port range with address, port, pid, command and, for ours, the instance.
      type: list
      elements: dict
      returned: always
    generation:
      description: The applied state, with number, digest, and who applied which profile, and when.
      type: dict
      returned: always
    at_work:
      description: The deployment that is changing the host right now, with deployment (who), pid and more, or null.
      type: dict
      returned: always
    silent_configs:
      description: Configuration files that llama-server would read without being told to.
      type: list
      elements: str
      returned: always
    unreadable:
      description: What keeps the servers from files of O(must_read), each with the path in the way as C(at), its
        C(mode), and the C(paths) that can't be read.
      type: list
      elements: dict
      returned: always
"""

from ansible_collections.magi.models.plugins.module_utils._base.private_module import PrivateModule
from ansible_collections.magi.models.plugins.module_utils._config.timing import TIMING
from ansible_collections.magi.models.plugins.module_utils._host.inspect import HOST_OPTIONS, inspect_host
from ansible_collections.magi.models.plugins.module_utils._host.wait import await_ready
from ansible_collections.magi.models.plugins.module_utils._services.choice import chosen, usable
from ansible_collections.magi.models.plugins.module_utils._services.values import ServiceError


def main() -> None:
    module = PrivateModule(
        argument_spec={
            **HOST_OPTIONS,
            "identify": {"type": "bool", "default": False},
            "wait_for": {"type": "list", "elements": "str", "default": []},
            "wait_seconds": {"type": "float", "default": 0},
            "readiness_check_interval": TIMING["readiness_check_interval"],
            "must_read": {"type": "list", "elements": "str", "default": []},
            "model_folders": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    options = dict(module.params)
    names, seconds, interval = (options.pop(k) for k in ("wait_for", "wait_seconds", "readiness_check_interval"))
    try:
        if names:
            manager = usable(chosen(options["manager"], options["home"], options["supervisord_path"]))
            await_ready(manager, options["home"], names, seconds, interval)
        host = inspect_host(**options)
    except (ServiceError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, host=host.to_dict())


if __name__ == "__main__":
    main()
