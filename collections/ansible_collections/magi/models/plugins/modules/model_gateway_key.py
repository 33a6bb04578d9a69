#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: model_gateway_key
short_description: Give a gateway a client's key, or take it away
version_added: 0.2.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Changes the file of keys on the host of a gateway, and lets the gateway that runs there take it at once, without
    cutting a request.
  - It never sees a key, only its SHA-256.
extends_documentation_fragment:
  - magi.models.attributes
  - magi.models.gateways
  - magi.models.gateways.programs
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details: Digests of keys are nobody's business.
  idempotent:
    support: full
options:
  state:
    description:
      - V(present) adds the key; one of this name with another digest or other rights is an error.
      - V(absent) removes it.
      - V(listed) changes nothing.
    type: str
    choices: [present, absent, listed]
    default: present
  keys_file:
    description: The file of keys, one a line. It is made if it is missing.
    type: path
    required: true
  name:
    description: The name of the key, for O(state=present) and O(state=absent).
    type: str
  digest:
    description: The SHA-256 of the key, 64 hexadecimal digits, for O(state=present).
    type: str
  models:
    description: Globs of the names of models that it may use; without any, it may use all.
    type: list
    elements: str
    default: []
  concurrent:
    description: Requests that it may have at the same time; without it, any number.
    type: int
  per_minute:
    description: Requests that it may send in a minute; without it, any number.
    type: int
  expires:
    description: Its last day in UTC, as in V(2027-01-31).
    type: str
"""

EXAMPLES = r"""
- name: Let somebody in
  magi.models.model_gateway_key:
    home: /etc/magi-gateway
    keys_file: /etc/magi-gateway-keys
    name: alice
    digest: "{{ 'a long random text' | hash('sha256') }}"
    models: [chat, qwen3-*]
    per_minute: 60
"""

RETURN = r"""
keys:
  description: The keys that the file has now, each with name, models, concurrent, per_minute and expires.
  returned: always
  type: list
  elements: dict
in_use:
  description: Whether the gateway on the host uses the file; if not, the next deployment makes it.
  returned: always
  type: bool
"""

import fcntl
import os
import stat
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.magi.models.plugins.module_utils._base.files import make_folder, why, write_atomic
from ansible_collections.magi.models.plugins.module_utils._base.managers import CHOICES
from ansible_collections.magi.models.plugins.module_utils._haproxy.apply import (
    ProxyError,
    WantedGateway,
    configured,
    present,
)
from ansible_collections.magi.models.plugins.module_utils._haproxy.choice import gateway_service
from ansible_collections.magi.models.plugins.module_utils._haproxy.keys import (
    MAPS,
    Key,
    KeysError,
    maps,
    parse,
    with_key,
    without_key,
)
from ansible_collections.magi.models.plugins.module_utils._haproxy.runtime import servers
from ansible_collections.magi.models.plugins.module_utils._haproxy.sealed import sealed
from ansible_collections.magi.models.plugins.module_utils._haproxy.secrets import SecretError, read_keys
from ansible_collections.magi.models.plugins.module_utils._services.values import ServiceError


def changed_file(module: AnsibleModule) -> tuple[bool, list[Key]]:
    """Change the file of keys; return whether it changes, and its keys. Raises KeysError, SecretError and OSError."""
    params = module.params
    path = params["keys_file"]
    before = after = read_keys(path)
    if params["state"] == "present":
        key = Key(
            params["digest"].lower(),
            params["name"],
            tuple(params["models"]),
            params["concurrent"],
            params["per_minute"],
            params["expires"],
        )
        after = with_key(before, key, path)
    elif params["state"] == "absent":
        after = without_key(before, params["name"], path)
    if after != before and not module.check_mode:
        there = os.stat(path) if os.path.exists(path) else None
        write_atomic(path, after.encode(), stat.S_IMODE(there.st_mode) if there else 0o600)
        if there and os.geteuid() == 0:
            os.chown(path, there.st_uid, there.st_gid)
    return after != before, parse(after, path)


def take_in(module: AnsibleModule, keys: list[Key], in_use: bool) -> bool:
    """Let the gateway know the keys; return whether that changes it. Raises ProxyError, ServiceError and OSError."""
    params = module.params
    if not in_use:
        return False
    service = gateway_service(params["manager"], params["home"], params["supervisord_path"])
    if any(item.state in ("drained", "disabled") for item in servers(service.sockets.stats)):
        module.warn("a deployment is under way; the gateway takes the keys in when it ends.")
        return False

    def want() -> WantedGateway:
        files, secrets = configured(params["home"])
        secrets = {**secrets, **maps(keys, files["names.txt"], files["models.json"])}
        return WantedGateway(params["home"], params["haproxy_path"], *sealed(files, secrets), (), (), 0, secrets)

    return present(service, want, check_mode=module.check_mode).changed


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent", "listed"], "default": "present"},
            "keys_file": {"type": "path", "required": True, "no_log": False},
            "name": {"type": "str"},
            "digest": {"type": "str", "no_log": True},
            "models": {"type": "list", "elements": "str", "default": []},
            "concurrent": {"type": "int"},
            "per_minute": {"type": "int"},
            "expires": {"type": "str"},
            "home": {"type": "path", "required": True},
            "manager": {"type": "str", "choices": list(CHOICES), "default": "auto"},
            "supervisord_path": {"type": "path", "default": "supervisord"},
            "haproxy_path": {"type": "path", "default": "/usr/sbin/haproxy"},
        },
        required_if=[("state", "present", ("name", "digest")), ("state", "absent", ("name",))],
        supports_check_mode=True,
    )
    params = module.params
    path = params["keys_file"]
    if not path.startswith("/"):
        module.fail_json(
            msg="model_gateway_keys_file must be an absolute path on this host, such as /etc/magi-gateway-keys; set it "
            "in the inventory, and deploy."
        )
    in_use = MAPS[0] in configured(params["home"])[1]
    try:
        if params["state"] == "listed":
            keys = parse(read_keys(path), path)
            module.exit_json(changed=False, keys=[key.to_dict() for key in keys], in_use=in_use)
        if not module.check_mode:
            make_folder(Path(path).parent)
            folder = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(folder, fcntl.LOCK_EX)  # two who change the file do so one after the other; our end unlocks it
        changed, keys = changed_file(module)
        changed = take_in(module, keys, in_use) or changed
    except (KeysError, ProxyError, SecretError, ServiceError) as error:
        module.fail_json(msg=f"{error}".rstrip(".") + ".")
    except OSError as error:
        module.fail_json(msg=f"{error.filename or path}: {why(error, 'model_gateway_keys_file')}.")
    module.exit_json(changed=changed, keys=[key.to_dict() for key in keys], in_use=in_use)


if __name__ == "__main__":
    main()
