#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_probe
short_description: Ask each instance of a host for one token
version_added: 0.1.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Asks all running instances at the same time, on their own host, for one token of completion, or for one embedding or
    rerank if they were started for these. C(/health) answers 200 even if a GPU hangs.
  - With O(gateway), asks the gateway on this host for each of its names.
  - Reads the API key of an instance, if it has one, from its file on the host; the key never leaves the host.
extends_documentation_fragment:
  - magi.models.attributes
  - magi.models.services
attributes:
  check_mode:
    support: full
    details: This module changes nothing.
  diff_mode:
    support: N/A
    details: This module changes nothing.
  idempotent:
    support: full
    details: This module changes nothing.
options:
  gateway:
    description: What the gateway of O(home) and O(manager) is asked for. Then no instance is asked.
    type: dict
    suboptions:
      tasks:
        description: The task of each name, V(chat), V(embedding) or V(rerank).
        type: dict
        required: true
  load:
    description:
      - Ask a pool that has no model in memory for one of its models, which may take so many seconds more to load. By
        default, only models that are in memory are asked.
    type: int
    default: 0
  sensible:
    description: Ask for some tokens instead of one where that is what an instance does; they must be text.
    type: bool
    default: false
  timeout:
    description: Seconds that an instance may take. One that is busy with other requests answers later.
    type: int
    default: 60
  wake:
    description: Ask those that sleep, too, which loads their models. Otherwise they are left out of RV(probes).
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Ask each instance for one token
  magi.models.llama_probe:
    home: /etc/magi
  register: probed
"""

RETURN = r"""
probes:
  description: By instance, or name of the gateway, why it did not do its work and the remedy; empty if it did.
  returned: success
  type: dict
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.magi.models.plugins.module_utils._haproxy.choice import gateway_service
from ansible_collections.magi.models.plugins.module_utils._host.inspect import asked_at
from ansible_collections.magi.models.plugins.module_utils._host.procfs import listening_sockets
from ansible_collections.magi.models.plugins.module_utils._host.values import WORKER
from ansible_collections.magi.models.plugins.module_utils._llama.client import ask_asleep, ask_router, is_router
from ansible_collections.magi.models.plugins.module_utils._llama.options import OF_TASK
from ansible_collections.magi.models.plugins.module_utils._llama.probe import probe
from ansible_collections.magi.models.plugins.module_utils._plan.pool import models_of
from ansible_collections.magi.models.plugins.module_utils._services.choice import SERVICE_OPTIONS, chosen, usable
from ansible_collections.magi.models.plugins.module_utils._services.values import ServiceError


def asked_through(path: str, tasks: Mapping[str, str]) -> list[tuple[str, dict[str, str], str]]:
    """Return name, environment and model of each question to the gateway whose own socket is at ``path``."""
    place = {"LLAMA_ARG_HOST": path}
    return [
        (name, {**place, **({OF_TASK[task]: "on"} if task in OF_TASK else {})}, name) for name, task in tasks.items()
    ]


def asked_here(module: AnsibleModule) -> list[tuple[str, dict[str, str], str]]:
    """Return name and environment of each instance that runs on this host."""
    params = module.params
    home = params["home"]
    try:
        found = usable(chosen(params["manager"], home, params["supervisord_path"])).status()
    except ServiceError as error:
        module.fail_json(msg=str(error))
    sockets = listening_sockets()
    places = {name: asked_at(home, name, status, sockets) for name, status in found.items() if status.pid}
    single = [
        (name, where, "")
        for name, where in places.items()
        if not (is_router(where) or WORKER in where)
        and (params["wake"] or "MAGI_IDLE" not in where or not ask_asleep(where))
    ]
    return single + [
        each
        for name, where in places.items()
        if is_router(where)
        for each in of_pool(name, where, load=params["load"] > 0)
    ]


def of_pool(name: str, where: Mapping[str, str], *, load: bool = False) -> list[tuple[str, dict[str, str], str]]:
    """Return the questions about a pool: one to each of its models that is in memory. The others are not loaded for
    this, since that takes the memory of one that serves; if there is none, one of them is to ``load``."""
    states = ask_router(where) or {}
    tasks = {item["model"]: item["task"] for item in models_of(where)}
    asked = [model for model in tasks if states.get(model) == "loaded"]
    if load and not asked:
        able = ("loading", "sleeping", "unloaded", "failed")
        asked = sorted((model for model in tasks if states.get(model) in able), key=lambda x: able.index(states[x]))[:1]
    return [
        (name, {**where, **({OF_TASK[tasks[model]]: "on"} if tasks[model] in OF_TASK else {})}, model)
        for model in asked
    ]


def main() -> None:
    gateway = {
        "tasks": {"type": "dict", "required": True},
    }
    module = AnsibleModule(
        argument_spec={
            **SERVICE_OPTIONS,
            "gateway": {"type": "dict", "options": gateway},
            "load": {"type": "int", "default": 0},
            "sensible": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 60},
            "wake": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["gateway"]:
        sockets = gateway_service(params["manager"], params["home"]).sockets
        asked = asked_through(sockets.own, params["gateway"]["tasks"])
    else:
        asked = asked_here(module)
    with ThreadPoolExecutor(max(1, len(asked))) as pool:
        said = pool.map(
            lambda question: probe(
                question[1],
                params["timeout"] + (params["load"] if is_router(question[1]) else 0),
                question[2],
                sensible=params["sensible"],
                load=params["load"] > 0,
            ),
            asked,
        )
        probes: dict[str, str] = {}
        for (name, _environment, _model), wrong in zip(asked, said):
            probes[name] = probes.get(name) or wrong
        module.exit_json(changed=False, probes=probes)


if __name__ == "__main__":
    main()
