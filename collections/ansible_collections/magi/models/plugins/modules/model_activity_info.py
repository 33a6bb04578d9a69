#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: model_activity_info
short_description: See what the servers and the gateway of a host do now
version_added: 0.2.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Asks each server on its host for its work, and the gateway for its queues and the times of its last requests.
  - Wakes no server that sleeps, and keeps none awake.
  - Looks twice, since a rate is a difference.
extends_documentation_fragment:
  - magi.models.attributes
  - magi.models.attributes.info_module
options:
  home:
    description: Folder of the instance files. Without it, no server is looked at.
    type: path
    default: ""
  manager:
    description: The service manager; V(auto) takes systemd where it is PID 1, else supervisor.
    type: str
    choices: [auto, systemd, supervisor, docker, podman]
    default: auto
  supervisord_path:
    description: The supervisord program, for O(manager=supervisor).
    type: path
    default: supervisord
  gateway_home:
    description: Folder of the gateway's configuration. Without it, no gateway is looked at.
    type: path
    default: ""
  gateway_manager:
    description: The same as O(manager), of the gateway.
    type: str
    choices: [auto, systemd, supervisor]
    default: auto
  interval:
    description: Seconds between two looks.
    type: float
    default: 1
  follow:
    description:
      - Look again and again, and show each time what was seen, until you interrupt it. A host that is lost is tried
        again.
      - Done by the action plugin of the same name.
    type: bool
    default: false
  stream_path:
    description:
      - File for what the last look saw, as JSON. When nobody has read it for a quarter of a minute, it is removed, and
        the module ends.
      - Chosen by the action plugin of the same name.
    type: path
"""

EXAMPLES = r"""
- name: See what the servers do
  magi.models.model_activity_info:
    home: /etc/magi
  register: seen
"""

RETURN = r"""
activity:
  description: What the host does.
  returned: success
  type: dict
  contains:
    servers:
      description:
        - Each server with instance, model_id, port, state (of its service), pid, status (of HTTP at /metrics, 0 without
          an answer), asleep, busy and slots, waiting (requests that wait for a slot in the server itself),
          tokens_per_second (a mean of at most 10 s) and memory (bytes, at most 10 s old). What is unknown is null.
      type: list
      elements: dict
    gateway:
      description:
        - Null without a gateway that runs. Else C(servers), as RV(magi.models.model_gateway_info#module:states), and
          C(first_tokens), by server as C(host::instance) the milliseconds until the answer to each of its last requests
          began, of the last 200 of the gateway, and of the last five minutes.
      type: dict
    memory:
      description: Bytes of the host, C(total) and C(available). What is unknown is null.
      type: dict
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.magi.models.plugins.module_utils._base.managers import CHOICES
from ansible_collections.magi.models.plugins.module_utils._base.stream import Stream
from ansible_collections.magi.models.plugins.module_utils._haproxy.choice import gateway_service
from ansible_collections.magi.models.plugins.module_utils._haproxy.log import first_tokens
from ansible_collections.magi.models.plugins.module_utils._haproxy.runtime import running_revision, servers
from ansible_collections.magi.models.plugins.module_utils._host.activity import ServerWatch
from ansible_collections.magi.models.plugins.module_utils._host.procfs import available_bytes, memory_bytes
from ansible_collections.magi.models.plugins.module_utils._services.choice import SERVICE_OPTIONS, chosen, usable
from ansible_collections.magi.models.plugins.module_utils._services.values import ServiceError

REQUESTS = 200
MINUTES = 5
UNREAD_SECONDS = 15


def gateway(home: str, manager: str) -> dict[str, Any] | None:
    service = gateway_service(manager, home)
    if running_revision(service.sockets.stats) is None:
        return None
    return {
        "servers": [item.to_dict() for item in servers(service.sockets.stats)],
        "first_tokens": first_tokens(service.logs(REQUESTS), time.time() - 60 * MINUTES),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **SERVICE_OPTIONS,
            "home": {"type": "path", "default": ""},
            "gateway_home": {"type": "path", "default": ""},
            "gateway_manager": {"type": "str", "choices": list(CHOICES), "default": "auto"},
            "interval": {"type": "float", "default": 1},
            "follow": {"type": "bool", "default": False},
            "stream_path": {"type": "path"},
        },
        supports_check_mode=True,
    )
    params = module.params
    home = params["home"]

    def look() -> dict[str, Any]:
        return {
            "servers": watch.read() if watch else [],
            "gateway": gateway(params["gateway_home"], params["gateway_manager"]) if params["gateway_home"] else None,
            "memory": {"total": memory_bytes(), "available": available_bytes()},
        }

    stream = Stream(params["stream_path"]) if params["stream_path"] else None
    try:
        manager = usable(chosen(params["manager"], home, params["supervisord_path"])) if home else None
        watch = ServerWatch(manager, home) if manager else None
        seen = look()
        due = time.monotonic() + params["interval"]
        while True:
            if stream:
                stream.tell({"activity": seen}, alone=True)
            time.sleep(max(0.0, due - time.monotonic()))
            due = max(due, time.monotonic()) + params["interval"]
            seen = look()
            if not stream or stream.unread() > UNREAD_SECONDS + params["interval"]:
                break
    except ServiceError as error:
        module.fail_json(msg=str(error))
    finally:
        if stream:
            stream.remove()
    module.exit_json(changed=False, activity=seen)


if __name__ == "__main__":
    main()
