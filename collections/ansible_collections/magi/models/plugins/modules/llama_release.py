#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_release
short_description: Install a release archive of llama.cpp
version_added: 0.1.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Downloads a release archive (C(.tar.gz) or C(.zip)), verifies its SHA-256 before it unpacks anything,
    and tries the C(llama-server) that it finds in it, at any depth.
  - Only then does it switch the link C(current) in O(dir) to the release's folder, in one step.
    Until then nothing changes.
  - Keeps releases side by side, so that running servers keep their files during an upgrade.
options:
  url:
    description: Address of the archive.
    type: str
    required: true
  sha256:
    description: SHA-256 of the archive, 64 hexadecimal digits.
    type: str
    required: true
  tag:
    description: Name of the release.
    type: str
    required: true
  dir:
    description: Folder of the releases, one folder C(<tag>-<start of the SHA-256>) each.
    type: path
    required: true
  keep:
    description: How many releases to keep, including the current one. The oldest others are removed.
    type: int
    default: 2
  path:
    description: Where to put the binary, a symbolic link to the one in C(current).
    type: path
    required: true
extends_documentation_fragment: [magi.models.attributes]
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
"""

EXAMPLES = r"""
- name: Install a release from a mirror
  magi.models.llama_release:
    url: https://mirror.example.com/llama-b11434-bin-ubuntu-x64.tar.gz
    sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    tag: b11434
    dir: /opt/magi/llama.cpp
    path: /usr/local/bin/llama-server
"""

RETURN = r"""
steps:
  description: What was done, or would be done in check mode; empty if the release is installed.
  type: list
  elements: str
  returned: success
  sample: [install b11434-9f86d081884c, switch to b11434-9f86d081884c, link, remove b11300-2c26b46b68ff]
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.magi.models.plugins.module_utils._install.release import Releases
from ansible_collections.magi.models.plugins.module_utils._install.step import InstallError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "sha256": {"type": "str", "required": True},
            "tag": {"type": "str", "required": True},
            "dir": {"type": "path", "required": True},
            "keep": {"type": "int", "default": 2},
            "path": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    wanted = dict(module.params)
    path, folder = Path(wanted.pop("path")), Path(wanted.pop("dir"))
    try:
        releases = Releases(path, folder, **wanted)
        steps = releases.steps()
        if not module.check_mode:
            for step in steps:
                step.do()
    except InstallError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"the llama.cpp release {module.params['tag']} could not be installed: {error}")
    module.exit_json(
        changed=bool(steps),
        steps=[str(step) for step in steps],
        diff={
            "before": f"llama.cpp release: {releases.replaced or 'none'}\n",
            "after": f"llama.cpp release: {releases.name}\n",
        },
    )


if __name__ == "__main__":
    main()
