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
  - Only then the link C(current) in O(dir) is switched to its folder, in one step.
    Up to there nothing changes.
  - Releases are kept side by side, so that running servers keep their files during an upgrade.
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
    description: How many releases to keep, the current one included. The oldest others are removed.
    type: int
    default: 2
  path:
    description: Where the binary is wanted, a symbolic link to the one in C(current).
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
  description: What was done, or would be done in check mode. Empty when the release is installed.
  type: list
  elements: str
  returned: success
  sample: [install b11434-9f86d081884c, switch to b11434-9f86d081884c, link, remove b11300-2c26b46b68ff]
"""

import os
import re
import shutil
import tempfile
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url
from ansible_collections.magi.models.plugins.module_utils._install.archive import ArchiveError, unpack, verify
from ansible_collections.magi.models.plugins.module_utils._install.binary import (
    BinaryError,
    build_of,
    check_link,
    link,
    points_to,
)

NAME = "llama-server"


class ReleaseError(Exception):
    """A step failed; the message is one sentence with the remedy."""


class Releases:
    """The folder of the releases: what is in it, what is current, and how a wanted release gets there."""

    def __init__(self, params: dict) -> None:
        self.url, self.sha256, self.tag = params["url"], params["sha256"].lower(), params["tag"]
        self.dir, self.path, self.keep = Path(params["dir"]), Path(params["path"]), params["keep"]
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ReleaseError(
                f"the SHA-256 of the llama.cpp release {self.tag} must be 64 hexadecimal digits, "
                f"not {self.sha256!r}: set llama_server_release_sha256"
            )
        if not re.fullmatch(r"\w[\w.+-]*", self.tag):
            raise ReleaseError(f"{self.tag!r} is not a release tag: set llama_server_release_tag, such as b11434")
        # By content: another platform's archive of the same tag, or a corrected one, is another release.
        self.name = f"{self.tag}-{self.sha256[:12]}"
        self.current = self.dir / "current"
        self.replaced = self.current.readlink().parts[0] if self.current.is_symlink() else ""

    def steps(self) -> list[str]:
        """What is still to be done, in order."""
        steps = []
        wanted = self.dir / self.name
        if not wanted.is_dir():
            steps.append(f"install {self.name}")
        if wanted.resolve() not in [here := self.current.resolve(), *here.parents]:
            steps.append(f"switch to {self.name}")
        if not points_to(self.path, self.current / NAME):
            steps.append("link")
        return steps + [f"remove {name}" for name in (*self._surplus(), *self._abandoned())]

    def _abandoned(self) -> list[str]:
        """What installs left behind that were killed; one that is at work made its folder less than a day ago."""
        made = self.dir.glob(".new-*")
        return sorted(path.name for path in made if path.is_dir() and path.stat().st_mtime < time.time() - 86400)

    def _surplus(self) -> list[str]:
        """Releases beyond `keep`, the one just replaced kept before older ones."""
        names = [
            entry.name
            for entry in (self.dir.iterdir() if self.dir.is_dir() else [])
            if entry.is_dir() and re.fullmatch(r"\w[\w.+-]*-[0-9a-f]{12}", entry.name) and entry.name != self.name
        ]
        names.sort(key=lambda name: (name == self.replaced, (self.dir / name).stat().st_mtime), reverse=True)
        return names[max(self.keep - 1, 0) :]

    def run(self, steps: list[str]) -> None:
        """Do the steps."""
        for step in steps:
            action, name = step.split()[0], step.split()[-1]
            if action == "install":
                self._install()
            elif action == "switch":
                binary = find(self.dir / name)
                link(self.current, binary.parent.relative_to(self.dir))
            elif action == "link":
                link(self.path, self.current / NAME)
            else:
                shutil.rmtree(self.dir / name)

    def _install(self) -> None:
        self.dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=self.dir) as folder:
            archive, tree = Path(folder, "archive"), Path(folder, "tree")
            try:
                with (
                    open_url(self.url, timeout=60, http_agent="magi.models") as source,
                    archive.open("wb") as file,
                ):
                    shutil.copyfileobj(source, file, 1 << 20)
            except Exception as error:  # open_url raises what urllib, http and ssl raise
                raise ReleaseError(
                    f"{self.url} could not be downloaded ({error}): "
                    f"check llama_server_release_tag, or set llama_server_release_url to a mirror"
                ) from error
            try:
                verify(archive, self.sha256, "nothing was installed; correct llama_server_release_sha256")
                unpack(archive, tree)
            except ArchiveError as error:
                raise ReleaseError(str(error).replace(str(archive), self.url)) from error
            binary = find(tree)
            if binary is None:
                raise ReleaseError(f"{self.url} holds no file {NAME}: set llama_server_release_url to one that does")
            binary.chmod(0o755)
            if build_of(binary) is None:
                raise ReleaseError(
                    f"the {NAME} of {self.url} does not run here: choose another "
                    f"llama_server_release_platform, install its libraries, "
                    f"or set llama_server_install_method to source"
                )
            os.sync()  # the rename below must not reach the disk before the files do
            tree.chmod(0o755)
            tree.replace(self.dir / self.name)


def find(tree: Path) -> Path | None:
    """The llama-server nearest to the top of a folder."""
    found = (path for path in tree.rglob(NAME) if path.is_file())
    return min(found, key=lambda path: (len(path.parts), str(path)), default=None)


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
    try:
        releases = Releases(module.params)
        steps = releases.steps()
        before = releases.replaced or "none"
        if steps:
            check_link(releases.path)
        if not module.check_mode:
            releases.run(steps)
    except (ReleaseError, BinaryError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"the llama.cpp release {module.params['tag']} could not be installed: {error}")
    after = releases.name if any(step.startswith("switch") for step in steps) else before
    module.exit_json(
        changed=bool(steps),
        steps=steps,
        diff={"before": f"llama.cpp release: {before}\n", "after": f"llama.cpp release: {after}\n"},
    )


if __name__ == "__main__":
    main()
