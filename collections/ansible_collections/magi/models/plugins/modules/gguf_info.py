#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: gguf_info
short_description: Read the headers of GGUF files
version_added: 0.1.0
description:
  - Says what GGUF files are, from their headers alone, and whether llama-server could load them.
  - A file that llama-server could not load does not fail the module; its entry has RV(files[].code) and
    RV(files[].error).
author:
  - The magi.models maintainers (@magi-models)
extends_documentation_fragment:
  - magi.models.attributes
  - magi.models.attributes.info_module
options:
  paths:
    description: The files.
    type: list
    elements: path
    required: true
seealso:
  - module: magi.models.model_registry
"""

EXAMPLES = r"""
- name: Look into a file
  magi.models.gguf_info:
    paths: [/models/DeepSeek-R1-Qwen3-8B-Q2_K.gguf]
  register: gguf

- name: Say what it is
  ansible.builtin.debug:
    msg: "{{ gguf.files[0].metadata['general.name'] }} has {{ gguf.files[0].parameter_count }} parameters"
"""

RETURN = r"""
files:
  description: One entry for each of the paths, in order.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: The path, as given.
      returned: always
      type: str
    code:
      description: Why the file is refused, as a stable word; null for a good one.
      returned: always
      type: str
      sample: truncated
    error:
      description: Why the file is refused, as a sentence; null for a good one.
      returned: always
      type: str
    version:
      description: Version of the format.
      returned: for a good file
      type: int
      sample: 3
    metadata:
      description:
        - The metadata by key. An array is a dictionary of C(type), C(length) and C(values), null if it is
          long.
        - Strings are cut to 64 KiB. A number that JSON can't hold (NaN, infinity) is a string.
      returned: for a good file
      type: dict
    quantization:
      description: The quantization.
      returned: for a good file
      type: str
      sample: Q4_K_M
    tier:
      description: The bits of the quantization.
      returned: for a good file
      type: str
      sample: Q4
    task:
      description: What the model is for, V(chat), V(embedding) or V(rerank).
      returned: for a good file
      type: str
      sample: chat
    tensor_count:
      description: Number of tensors.
      returned: for a good file
      type: int
    parameter_count:
      description: Number of elements of all tensors.
      returned: for a good file
      type: int
    bytes_by_type:
      description: Bytes of the tensors of each type.
      returned: for a good file
      type: dict
    alignment:
      description: Alignment of the tensors, in bytes.
      returned: for a good file
      type: int
    data_offset:
      description: Where the tensors begin, in bytes.
      returned: for a good file
      type: int
    expected_size:
      description: The least size of a whole file, in bytes.
      returned: for a good file
      type: int
    size:
      description: The file's size, in bytes.
      returned: for a good file
      type: int
    fingerprint:
      description: SHA-256 of metadata and tensor table, without the elements of long arrays.
      returned: for a good file
      type: str
"""

import math
from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.magi.models.plugins.module_utils._gguf.reader import GGUFError, read_header
from ansible_collections.magi.models.plugins.module_utils._models.facts import Facts
from ansible_collections.magi.models.plugins.module_utils._models.kinds import task_of
from ansible_collections.magi.models.plugins.module_utils._models.naming import stem
from ansible_collections.magi.models.plugins.module_utils._models.quantization import quantization_of, tier_of

RETURNED = (
    "version",
    "metadata",
    "tensor_count",
    "parameter_count",
    "bytes_by_type",
    "alignment",
    "data_offset",
    "expected_size",
    "size",
    "fingerprint",
)


def describe(path: str) -> dict[str, Any]:
    """Return the facts of one file, or why it is refused."""
    try:
        header = read_header(path)
    except GGUFError as error:
        return {"path": path, "code": error.code, "error": error.message}
    told = Facts.of(header)
    quantization = quantization_of(told.file_type, told.weights, stem(path))
    plain = asdict(header)
    facts = {key: _plain(plain[key]) for key in RETURNED}
    return {
        "path": path,
        "code": None,
        "error": None,
        "quantization": quantization,
        "tier": tier_of(quantization),
        "task": task_of(told),
        **facts,
    }


def _plain(value: Any) -> Any:
    """Return ``value`` with what JSON can't hold (NaN, infinity) as a string."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def main() -> None:
    module = AnsibleModule(
        argument_spec={"paths": {"type": "list", "elements": "path", "required": True}},
        supports_check_mode=True,
    )
    module.exit_json(changed=False, files=[describe(path) for path in module.params["paths"]])


if __name__ == "__main__":
    main()
