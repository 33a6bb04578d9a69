#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: model_gateway
short_description: Make a host the gateway to all servers, or remove it
version_added: 0.2.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Makes HAProxy on the host answer at one address with the API of OpenAI for all servers of a deployment, and route
    each request by the C(model) in it.
  - An action plugin renders the configuration on the controller, from what each host deployed or keeps, and calls the
    module of the same name on the host once. Only where it does not know what a host serves, since that was not reached
    or not deployed, it first asks the gateway which servers it has there.
  - HAProxy checks a configuration before it replaces the one that works. A reload cuts no request.
extends_documentation_fragment:
  - magi.models.attributes
  - magi.models.gateways
  - magi.models.gateways.programs
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
    description:
      - V(present) makes the host run the gateway.
      - V(prepared) lets a gateway that runs know what comes, before the hosts are deployed; what goes is routed to,
        too, until M(magi.models.model_gateway_handover). One that does not run stays as it is.
      - V(absent) stops it and removes everything of it.
      - V(remembered) returns the servers that it routes to, and the settings of the last deployments. The action plugin
        uses it.
    type: str
    choices: [present, prepared, absent, remembered]
    default: present
  hosts:
    description:
      - By host of the group C(model_servers), the results of its tasks, as M(magi.models.deployment_report) takes them,
        for O(state=present).
      - Evaluated by the action plugin of the same name.
    type: dict
    default: {}
  optional:
    description:
      - Where HAProxy is missing and can't be installed, or somebody else has the port, change nothing and say so in
        RV(missing), instead of failing.
    type: bool
    default: false
  templates_dir:
    description:
      - Folder on the controller whose templates replace the role's templates of the same name.
      - Evaluated by the action plugin of the same name.
    type: path
  address:
    description: What it binds, an address, or several with commas.
    type: str
    default: 127.0.0.1
  port:
    description: Its port.
    type: int
    default: 8000
  health_from:
    description:
      - Who asks whether clients reach it. V(controller), V(host), or V(auto), the controller where it binds an address
        that others reach.
      - Evaluated by the action plugin of the same name.
    type: str
    choices: [auto, controller, host]
    default: auto
  hold:
    description: Seconds that a request waits for a server of its model to come up.
    type: int
    default: 60
  queue:
    description: Requests that may wait for a free slot, for each model.
    type: int
    default: 1000
  queue_timeout:
    description: Seconds that one of them waits at most.
    type: int
    default: 600
  stream_timeout:
    description: The longest pause in an answer, in seconds; the processing of a long prompt is one.
    type: int
    default: 600
  max_body:
    description: The longest body of a request, in MiB.
    type: int
    default: 30
  max_connections:
    description: Clients at the same time.
    type: int
    default: 4000
  keys_file:
    description:
      - File on the host with the keys of clients, one a line; M(magi.models.model_gateway_key) writes it. Then nobody
        without one of them gets an answer.
      - Without the file, there is no key yet. Empty, the gateway asks for none.
    type: path
    default: ""
  backend_key_file:
    description:
      - File on the host whose first line is a key of all servers that have an API key file. The gateway shows it to
        them instead of what a client sent.
    type: path
    default: ""
  tls_certificate:
    description: File on the host with a certificate and its private key in PEM. Then the gateway speaks HTTPS.
    type: path
    default: ""
  affinity:
    description:
      - Whether a conversation goes on at the server that has its beginning in its cache, while a slot is free there.
    type: bool
    default: true
  metrics_address:
    description: What the metrics for Prometheus bind. They need no key.
    type: str
    default: 127.0.0.1
  metrics_port:
    description: The port of the metrics for Prometheus. With 0, there are none.
    type: int
    default: 8405
  job:
    description: What the action plugin hands to the module on the host. Not for use in a playbook.
    type: dict
"""

EXAMPLES = r"""
- name: Route to what was deployed
  magi.models.model_gateway:
    home: /etc/magi-gateway
    hosts: >-
      {{ groups.model_servers | magi.models.registered(hostvars, settings='settled', registry='discovered',
         planned='planned', applied='applied', after='looked') }}

- name: Remove the gateway
  magi.models.model_gateway:
    home: /etc/magi-gateway
    state: absent
"""

RETURN = r"""
done:
  description: What was done, or would be done in check mode; install, write, start, reload, ready or remove.
  returned: always
  type: list
  elements: str
missing:
  description: Why there can be no gateway, and what to do; empty if there is one. Then nothing is changed.
  returned: for O(state=present) and O(state=prepared)
  type: str
installable:
  description: Whether a missing HAProxy can be installed from the distribution, by root with apt or dnf.
  returned: for O(state=present) and O(state=prepared)
  type: bool
gateway:
  description: The gateway.
  returned: for O(state=present) and O(state=prepared)
  type: dict
  contains:
    url:
      description: The base URL for clients, with C(/v1).
      type: str
      returned: always
    url_from:
      description: C(controller) if the controller can ask there, C(host) if only the host can.
      type: str
      returned: always
    asks_key:
      description: Whether clients need a key of the gateway.
      type: bool
      returned: always
    routes:
      description: The names that are routed, each with its C(names) and its C(servers), as host and instance.
      type: list
      elements: dict
      returned: always
    servers:
      description: The servers that are routed to, as M(magi.models.model_gateway_handover) takes them.
      type: list
      elements: dict
      returned: always
    home:
      description: The folder.
      type: str
      returned: always
    manager:
      description: The service manager, as it was given.
      type: str
      returned: always
    metrics:
      description: Where its metrics are, as address and port, and the way by which Ansible gets to the host.
      type: dict
      returned: always
keyless:
  description: The socket on the host where the gateway answers without a key; empty where clients need none.
  returned: for O(state=present)
  type: str
questions:
  description: Where M(ansible.builtin.uri) asks for each model that was launched, each with name, url, by and socket.
  returned: for O(state=present)
  type: list
  elements: dict
history:
  description: The settings that the last deployments gave it, the oldest first, with the time at which each began.
  returned: for O(state=remembered)
  type: list
  elements: dict
settled_at:
  description:
    - When the deployment began that gave it the settings that it has now, in seconds since the epoch; 0 if there is
      nothing to go back to.
  returned: for O(state=remembered)
  type: float
servers:
  description: The servers that the gateway routes to.
  returned: for O(state=remembered)
  type: list
  elements: dict
"""

import os
import shutil

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.magi.models.plugins.module_utils._base.files import why
from ansible_collections.magi.models.plugins.module_utils._base.history import history, remember
from ansible_collections.magi.models.plugins.module_utils._haproxy.apply import (
    PortTakenError,
    ProxyError,
    WantedGateway,
    absent,
    present,
    remembered,
    settled_at,
)
from ansible_collections.magi.models.plugins.module_utils._haproxy.choice import check_usable, gateway_service
from ansible_collections.magi.models.plugins.module_utils._haproxy.keys import KeysError
from ansible_collections.magi.models.plugins.module_utils._haproxy.options import GATEWAY_OPTIONS
from ansible_collections.magi.models.plugins.module_utils._haproxy.sealed import sealed
from ansible_collections.magi.models.plugins.module_utils._haproxy.secrets import SecretError, Sources, read_secrets
from ansible_collections.magi.models.plugins.module_utils._services.values import ServiceError, ServiceFile

PRESENT = ("present", "prepared")
DISTRIBUTION = "/usr/sbin/haproxy"
"""Where the distribution's package puts it."""


def main() -> None:
    module = AnsibleModule(
        argument_spec=GATEWAY_OPTIONS,
        supports_check_mode=True,
    )
    params = module.params
    home, program = params["home"], params["haproxy_path"]
    if params["state"] == "remembered":
        made = history(home)
        module.exit_json(changed=False, done=[], servers=remembered(home), history=made, settled_at=settled_at(made))
    given = params["job"] or {}
    if params["state"] in PRESENT and not given:
        module.fail_json(msg="model_gateway has an action plugin of the same name that must call it; use it as a task.")
    if params["state"] in PRESENT and not (os.path.isfile(program) and os.access(program, os.X_OK)):
        missing = (
            f"HAProxy is not at {program}: install it (Debian: apt-get install haproxy, EL: dnf install haproxy), or "
            "set model_gateway_haproxy_path"
        )
        installable = os.geteuid() == 0 and any(map(shutil.which, ("apt-get", "dnf"))) and program == DISTRIBUTION
        if not (installable or params["optional"]):
            module.fail_json(msg=f"{missing}.")
        module.exit_json(
            changed=module.check_mode and installable,
            done=["install"] if installable else [],
            missing=missing,
            installable=installable,
        )
    try:
        check_usable(params["manager"], home)
        service = gateway_service(params["manager"], home, params["supervisord_path"])
        if params["state"] == "prepared" and not service.running():
            module.exit_json(changed=False, done=[], missing="the gateway does not run yet", installable=False)
        if params["state"] in PRESENT:
            files = given["files"][service.name]
            sources = Sources(params["keys_file"], params["backend_key_file"], params["tls_certificate"])
            if sources.keys_file and not os.path.exists(sources.keys_file):
                module.warn(f"{sources.keys_file} is not there, so the gateway lets nobody in; magi key add makes it.")

            def want() -> WantedGateway:
                secrets = read_secrets(sources, files)
                return WantedGateway(
                    home,
                    program,
                    *sealed(files, secrets),
                    tuple(ServiceFile(**item) for item in given["service_files"][service.name]),
                    given["addresses"],
                    params["port"],
                    secrets,
                    all_serve=params["state"] == "present",
                )

            outcome = present(service, want, check_mode=module.check_mode)
            news = given["began_at"] and (outcome.changed or given["undone"])
            if news and params["state"] == "present" and not module.check_mode:
                remember(home, given["began_at"], {"settings": given["settings"]})
        else:
            outcome = absent(service, home, check_mode=module.check_mode)
    except PortTakenError as error:
        if not params["optional"]:
            module.fail_json(msg=f"{error}.")
        module.exit_json(changed=False, done=[], missing=f"{error}", installable=False)
    except (KeysError, ProxyError, SecretError, ServiceError) as error:
        module.fail_json(msg=f"{error}".rstrip(".") + ".")
    except OSError as error:
        module.fail_json(msg=f"{error.filename or home}: {why(error, 'model_gateway_home')}.")
    found = {"missing": "", "installable": False} if params["state"] in PRESENT else {}
    if params["state"] == "present":
        found["keyless"] = service.sockets.own if params["keys_file"] else ""
    module.exit_json(changed=outcome.changed, done=list(outcome.actions), diff=list(outcome.diff), **found)


if __name__ == "__main__":
    main()
