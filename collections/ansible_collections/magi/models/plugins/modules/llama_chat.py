#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_chat
short_description: Ask an instance, or a model through a gateway, one question
version_added: 0.1.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Asks a running instance for one completion, on the host that it runs on, and shows the answer as it comes.
  - Reads the API key of the instance, if it has one, from its file on the host; the key never leaves the host.
  - With O(gateway), asks the gateway on this host for a model, whichever server has it. Where it does not run, the task
    is skipped, whoever else may listen there.
  - Ends an answer that nobody has read for half a minute.
extends_documentation_fragment:
  - magi.models.attributes
  - magi.models.attributes.info_module
  - magi.models.services
attributes:
  check_mode:
    support: none
    details: Skipped in check mode.
  idempotent:
    support: none
    details: A model may answer differently each time.
options:
  name:
    description: The instance; with O(gateway), any name that it routes.
    type: str
    required: true
  gateway:
    description: Ask the gateway of O(home) and O(manager).
    type: bool
    default: false
  question:
    description: What to ask.
    type: str
    required: true
  max_tokens:
    description: The longest answer, in tokens.
    type: int
    default: 512
  hosts:
    description:
      - Ask only on the first of these hosts that serves the instance. By host, the result of
        M(magi.models.model_host_info), from P(magi.models.registered#filter).
      - Evaluated by the action plugin of the same name.
    type: dict
  stream_path:
    description:
      - File for the answer as it comes, one JSON object a line with C(text) or C(reasoning), and finally C(end).
      - Chosen by the action plugin of the same name.
    type: path
"""

EXAMPLES = r"""
- name: Ask
  magi.models.llama_chat:
    name: smollm2-135m-instruct.q2_k
    question: What is the capital of France?
    home: /etc/magi
  register: answer

- name: Ask through the gateway
  magi.models.llama_chat:
    name: smollm2-135m-instruct.q2_k
    question: What is the capital of France?
    home: /etc/magi-gateway
    gateway: true
"""

RETURN = r"""
serving:
  description: Those of O(hosts) that serve the instance; the first was asked.
  returned: with O(hosts)
  type: list
  elements: str
reached:
  description: Whether the gateway was asked.
  returned: with O(gateway)
  type: bool
text:
  description: The answer.
  returned: success
  type: str
reasoning:
  description: What the model thought before it answered, if the server separates that.
  returned: success
  type: str
finish_reason:
  description: Why it ended; V(stop) if the model ended it, V(length) at O(max_tokens).
  returned: success
  type: str
tokens:
  description: Tokens of the answer; null if the server does not say.
  returned: success
  type: int
tokens_per_second:
  description: How fast they came; null if the server does not say.
  returned: success
  type: float
"""

from ansible_collections.magi.models.plugins.module_utils._base.private_module import PrivateModule
from ansible_collections.magi.models.plugins.module_utils._base.stream import Stream
from ansible_collections.magi.models.plugins.module_utils._haproxy.choice import gateway_service
from ansible_collections.magi.models.plugins.module_utils._haproxy.runtime import running_revision
from ansible_collections.magi.models.plugins.module_utils._host.inspect import asked_at
from ansible_collections.magi.models.plugins.module_utils._host.procfs import listening_sockets
from ansible_collections.magi.models.plugins.module_utils._llama.chat import ChatError, chat
from ansible_collections.magi.models.plugins.module_utils._plan.pool import models_of, names_of
from ansible_collections.magi.models.plugins.module_utils._services.choice import SERVICE_OPTIONS, chosen, usable
from ansible_collections.magi.models.plugins.module_utils._services.manager import environment_file
from ansible_collections.magi.models.plugins.module_utils._services.values import ServiceError

UNREAD_SECONDS = 30


def main() -> None:
    module = PrivateModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "question": {"type": "str", "required": True},
            "max_tokens": {"type": "int", "no_log": False, "default": 512},
            "hosts": {"type": "dict"},
            **SERVICE_OPTIONS,
            "gateway": {"type": "bool", "default": False},
            "stream_path": {"type": "path"},
        },
        supports_check_mode=False,
    )
    params = module.params
    name, gateway, in_pool = params["name"], params["gateway"], False
    stream = Stream(params["stream_path"]) if params["stream_path"] else None

    def tell(kind: str, piece: str) -> None:
        if stream:
            stream.tell({kind: piece})
            if stream.unread() > UNREAD_SECONDS:
                raise ChatError("nobody reads the answer any more, so it was ended.")

    try:
        if gateway:
            sockets = gateway_service(params["manager"], params["home"]).sockets
            if running_revision(sockets.stats) is None:
                module.exit_json(changed=False, skipped=True, reached=False)
            environment = {"LLAMA_ARG_HOST": sockets.own}
        else:
            found = usable(chosen(params["manager"], params["home"], params["supervisord_path"])).status()
            pools = {each: models_of(environment_file(params["home"], each)) for each in found}
            own = next((each for each, models in pools.items() if any(name in names_of(x) for x in models)), name)
            status = found.get(name) or found.get(own)
            if status is None or not status.pid:
                module.fail_json(msg=f"{name} does not run; magi up starts it.")
            if pools.get(name):
                names = ", ".join(item["model"] for item in pools[name])
                module.fail_json(msg=f"{name} is a pool; ask one of its models: {names}.")
            in_pool = name not in found
            environment = asked_at(params["home"], own if in_pool else name, status, listening_sockets())
        answer = chat(
            environment,
            params["question"],
            params["max_tokens"],
            tell,
            name if gateway or in_pool else None,
        )
    except (ChatError, ServiceError) as error:
        said = {"reached": True, "status": getattr(error, "status", 0)} if gateway else {}
        module.fail_json(msg=str(error) if gateway else f"{name}: {error}", **said)
    finally:
        if stream:
            stream.end()
    module.exit_json(changed=False, **answer, **({"reached": True} if gateway else {}))


if __name__ == "__main__":
    main()
