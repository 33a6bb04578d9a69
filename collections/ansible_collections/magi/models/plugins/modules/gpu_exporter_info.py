#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_exporter_info
short_description: Find the exporters of GPU metrics that run on a host
version_added: 0.2.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Asks the usual ports of NVIDIA's dcgm-exporter (9400), nvidia_gpu_exporter (9835) and AMD's device-metrics-exporter
    (5000), where something listens there, for their metrics. What answers with other metrics is none of them.
extends_documentation_fragment:
  - magi.models.attributes
  - magi.models.attributes.info_module
options:
  ports:
    description: Other ports, by C(dcgm), C(nvidia) or C(rocm).
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Find the exporters of GPU metrics
  magi.models.gpu_exporter_info:
  register: found
"""

RETURN = r"""
exporters:
  description: Each with name (V(dcgm), V(nvidia) or V(rocm)), address (what it binds) and port.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.magi.models.plugins.module_utils._base.gpu_exporters import EXPORTERS, is_of
from ansible_collections.magi.models.plugins.module_utils._host.procfs import listening_sockets
from ansible_collections.magi.models.plugins.module_utils._llama.client import get


def main() -> None:
    module = AnsibleModule(argument_spec={"ports": {"type": "dict", "default": {}}}, supports_check_mode=True)
    bound = {port: address for address, port in sorted(listening_sockets().values())}
    found = []
    for name, (usual, _pattern) in EXPORTERS.items():
        port = int(module.params["ports"].get(name, usual))
        if port in bound:
            status, body = get({"LLAMA_ARG_HOST": bound[port], "LLAMA_ARG_PORT": str(port)}, "/metrics")
            if status == 200 and is_of(name, body.decode("utf-8", "replace")):
                found.append({"name": name, "address": bound[port], "port": port})
    module.exit_json(changed=False, exporters=found)


if __name__ == "__main__":
    main()
