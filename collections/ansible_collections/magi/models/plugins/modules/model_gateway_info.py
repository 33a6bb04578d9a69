#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: model_gateway_info
short_description: See what a gateway routes to
version_added: 0.2.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Reads on the host which servers the gateway routes to, and asks the running HAProxy for their states.
  - An action plugin of the same name shows both as a table.
extends_documentation_fragment:
  - magi.models.attributes
  - magi.models.attributes.info_module
  - magi.models.gateways
options:
  address:
    description:
      - What the gateway binds.
      - Evaluated by the action plugin of the same name.
    type: str
    default: 127.0.0.1
  port:
    description:
      - Its port.
      - Evaluated by the action plugin of the same name.
    type: int
    default: 8000
  tls_certificate:
    description:
      - Its certificate, if it speaks HTTPS.
      - Evaluated by the action plugin of the same name.
    type: path
    default: ""
  health_from:
    description:
      - Who asks whether clients reach it. V(controller), V(host), or V(auto), the controller where it binds an address
        that others reach.
      - Evaluated by the action plugin of the same name.
    type: str
    choices: [auto, controller, host]
    default: auto
"""

EXAMPLES = r"""
- name: See what the gateway routes to
  magi.models.model_gateway_info:
    home: /etc/magi-gateway
"""

RETURN = r"""
running:
  description: Whether HAProxy answers.
  returned: always
  type: bool
routed:
  description: The servers of its configuration, each with host, instance, model_id, address, port, slots and aliases.
  returned: always
  type: list
  elements: dict
states:
  description:
    - Each server in each backend that it is in, with backend, server, up, state (V(up), V(down), V(drained) or
      V(disabled)), busy, slots, and queued (requests that wait in that backend). Empty if HAProxy does not answer.
  returned: always
  type: list
  elements: dict
keyless:
  description: The socket on the host where the gateway answers without a key; empty where clients need none.
  returned: always
  type: str
gateway:
  description:
    - Both together, with host, url, url_from, names, is_ready, cause and detail as in a report, and routes.
    - Each of C(routes) has C(names), C(task), C(held) (no server of it is up, so requests wait for one), C(waiting)
      (requests that wait for a free slot), and C(servers).
    - Each of C(servers) has host, instance, model_id, address, port, state, busy and slots. What HAProxy does not say
      is V(unknown) or null.
  returned: always
  type: dict
questions:
  description: Where M(ansible.builtin.uri) asks as clients do, each with name, url, by and socket.
  returned: always
  type: list
  elements: dict
tasks:
  description: The task (V(chat), V(embedding) or V(rerank)) of one name of each route with a server that is up.
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.magi.models.plugins.module_utils._haproxy.apply import configured, remembered
from ansible_collections.magi.models.plugins.module_utils._haproxy.choice import gateway_service
from ansible_collections.magi.models.plugins.module_utils._haproxy.keys import MAPS
from ansible_collections.magi.models.plugins.module_utils._haproxy.options import INFO_OPTIONS
from ansible_collections.magi.models.plugins.module_utils._haproxy.runtime import running_revision, servers


def main() -> None:
    module = AnsibleModule(
        argument_spec=INFO_OPTIONS,
        supports_check_mode=True,
    )
    home = module.params["home"]
    sockets = gateway_service(module.params["manager"], home).sockets
    module.exit_json(
        changed=False,
        running=running_revision(sockets.stats) is not None,
        routed=remembered(home),
        states=[item.to_dict() for item in servers(sockets.stats)],
        keyless=sockets.own if MAPS[0] in configured(home)[1] else "",
    )


if __name__ == "__main__":
    main()
