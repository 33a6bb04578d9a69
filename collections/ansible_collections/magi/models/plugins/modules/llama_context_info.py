#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_context_info
short_description: Find the largest context with which a server fits into memory
version_added: 0.2.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Asks the C(llama-fit-params) of a llama-server what a server would need with smaller contexts.
  - M(magi.models.deployment_plan) uses it for instances that it refuses.
extends_documentation_fragment:
  - magi.models.attributes
  - magi.models.attributes.info_module
options:
  path:
    description: The llama-server, with C(llama-fit-params) beside it, or in the PATH.
    type: path
    required: true
  version:
    description: What that llama-server calls its version. A C(llama-fit-params) in the PATH must have the same.
    type: str
    default: ""
  questions:
    description: The servers.
    type: list
    elements: dict
    required: true
    suboptions:
      variables:
        description: The variables of the server, with its model.
        type: dict
        required: true
      arguments:
        description: Its arguments.
        type: list
        elements: str
        default: []
      below:
        description: Only contexts smaller than this many tokens are tried.
        type: int
        required: true
      room:
        description: By device, and C(Host), the bytes that context and compute buffer may take.
        type: dict
        required: true
"""

EXAMPLES = r"""
- name: Find a context that fits
  magi.models.llama_context_info:
    path: /usr/local/bin/llama-server
    questions:
      - variables: {LLAMA_ARG_MODEL: /models/a.gguf, LLAMA_ARG_N_PARALLEL: "1"}
        below: 131072
        room: {Host: 1073741824}
  register: found
"""

RETURN = r"""
contexts:
  description: For each server the largest context that fits, a multiple of 256 tokens, 0 where none does.
  returned: success
  type: list
  elements: int
  sample: [8192]
"""

from collections.abc import Mapping
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.private_module import PrivateModule
from ansible_collections.magi.models.plugins.module_utils._host.needs import Asker, find_tool
from ansible_collections.magi.models.plugins.module_utils._llama.options import Binary
from ansible_collections.magi.models.plugins.module_utils._plan.need import Question, largest_context, within, work


def find_context(asker: Asker, asked: Mapping[str, Any]) -> int:
    """Return the largest context that fits; 0 where none does."""
    question = Question(asked["variables"], tuple(asked["arguments"]), "")
    room = {device: int(size) for device, size in asked["room"].items()}

    def fits(context: int) -> bool:
        rows = asker.ask(question, {"LLAMA_ARG_CTX_SIZE": str(context)}).rows
        return bool(rows) and within(work(rows), room)

    return largest_context(asked["below"], fits)


def main() -> None:
    question = {
        "variables": {"type": "dict", "required": True},
        "arguments": {"type": "list", "elements": "str", "default": []},
        "below": {"type": "int", "required": True},
        "room": {"type": "dict", "required": True},
    }
    module = PrivateModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "version": {"type": "str", "default": ""},
            "questions": {"type": "list", "elements": "dict", "required": True, "options": question},
        },
        supports_check_mode=True,
    )
    binary = Binary(module.params["path"], module.params["version"], "")
    asker = Asker(binary, find_tool(binary))
    module.exit_json(changed=False, contexts=[find_context(asker, asked) for asked in module.params["questions"]])


if __name__ == "__main__":
    main()
