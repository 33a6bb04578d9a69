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
  - Without O(sha256), the release itself names the archive for this host and its SHA-256, through GitHub's API.
    A release that was installed this way is recognised without asking again.
  - Shows the progress of a download. One that is cut off goes on where it was.
options:
  tag:
    description: Name of the release.
    type: str
    required: true
  platform:
    description: Platform in the name of the archive, such as V(ubuntu-x64). Empty for that of the host.
    type: str
    default: ""
  backend:
    description:
      - What llama.cpp computes with. An archive that is pinned or whose O(platform) is given is taken as it is.
      - V(auto) is the best one for the GPUs of the host that the release has an archive for
        and whose llama-server finds a GPU, else V(cpu), unless O(or_build) and the host can build for its GPU.
    type: str
    choices: [auto, cpu, cuda, rocm, vulkan]
    default: cpu
  api:
    description: Address of the repository in GitHub's API, or of what answers like it.
    type: str
    default: https://api.github.com/repos/ggml-org/llama.cpp
  url:
    description: Address of the archive. Needs O(sha256). Empty for the one of the release.
    type: str
    default: ""
  sha256:
    description: SHA-256 of the archive, 64 hexadecimal digits. Empty for the one that the release publishes.
    type: str
    default: ""
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
  or_build:
    description:
      - Whether llama.cpp is built where the release can't be had. Then that is no error but RV(unavailable),
        and known within seconds where there is no network.
      - A llama-server of the same build at O(path) that is not from a release counts as well, and is left as it is.
    type: bool
    default: false
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
- name: Install a release
  magi.models.llama_release:
    tag: b11434
    dir: /opt/magi/llama.cpp
    path: /usr/local/bin/llama-server

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
unavailable:
  description: Why the release can't be had, with O(or_build); else an empty string. Then nothing was changed.
  type: str
  returned: success
said:
  description: What was installed and from where, or why not, as one line; empty when nothing was to do.
  type: str
  returned: success
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.magi.models.plugins.module_utils._install.backend import BACKENDS
from ansible_collections.magi.models.plugins.module_utils._install.release import Releases, WantedRelease
from ansible_collections.magi.models.plugins.module_utils._install.step import InstallError, Unavailable

PATIENCE = 60
"""Seconds to wait for a silent server."""
LESS_PATIENCE = 5
"""The same where there is another way."""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "tag": {"type": "str", "required": True},
            "platform": {"type": "str", "default": ""},
            "backend": {"type": "str", "choices": [*BACKENDS], "default": "cpu"},
            "api": {"type": "str", "default": "https://api.github.com/repos/ggml-org/llama.cpp"},
            "url": {"type": "str", "default": ""},
            "sha256": {"type": "str", "default": ""},
            "dir": {"type": "path", "required": True},
            "keep": {"type": "int", "default": 2},
            "path": {"type": "path", "required": True},
            "or_build": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    given = dict(module.params)
    path, folder, or_build = Path(given.pop("path")), Path(given.pop("dir")), given["or_build"]
    patience = LESS_PATIENCE if or_build else PATIENCE
    try:
        releases = Releases(path, folder, keep=given.pop("keep"), patience=patience, wanted=WantedRelease(**given))
        steps = [] if or_build and releases.built() else releases.steps()
        if steps and not module.check_mode:
            releases.run()
    except Unavailable as error:
        if not or_build:
            module.fail_json(msg=str(error))
        if error.suspicious:
            module.warn(f"{error.reason}.")
        said = f"llama.cpp {given['tag']} is built from source, since {error.reason}."
        module.exit_json(changed=False, steps=[], unavailable=error.reason, said=said)
    except InstallError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"the llama.cpp release {module.params['tag']} could not be installed: {error}")
    module.exit_json(
        changed=bool(steps),
        steps=[str(step) for step in steps],
        unavailable="",
        said=releases.said() if steps else "",
        diff={
            "before": f"llama.cpp release: {releases.replaced or 'none'}\n",
            "after": f"llama.cpp release: {releases.name or releases.replaced or 'none'}\n",
        },
    )


if __name__ == "__main__":
    main()
