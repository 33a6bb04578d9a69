# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Installing a release archive of llama.cpp beside earlier ones, and switching to it in one step."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path

from ansible_collections.magi.models.plugins.module_utils._install.archive import unpack, verify
from ansible_collections.magi.models.plugins.module_utils._install.binary import build_of, check_link, link, points_to
from ansible_collections.magi.models.plugins.module_utils._install.download import DownloadError, download
from ansible_collections.magi.models.plugins.module_utils._install.step import InstallError, Step

NAME = "llama-server"


class Releases:
    """The folder of the releases: its content, the current one, and how a wanted release gets there.

    path: where the link to the llama-server is wanted. tag: name of the release. url and sha256: of its archive.
    keep: how many releases stay, this one included. Raises InstallError for an impossible tag or checksum.
    """

    def __init__(self, path: Path, folder: Path, *, tag: str, url: str, sha256: str, keep: int) -> None:
        self.path, self.folder, self.keep = path, folder, keep
        self.tag, self.url, self.sha256 = tag, url, sha256.lower()
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise InstallError(
                f"the SHA-256 of the llama.cpp release {tag} must be 64 hexadecimal digits, "
                f"not {sha256!r}: set llama_server_release_sha256"
            )
        if not re.fullmatch(r"\w[\w.+-]*", tag):
            raise InstallError(f"{tag!r} is not a release tag: set llama_server_release_tag, such as b11434")
        # By content: another platform's archive of the same tag, or a corrected one, is another release.
        self.name = f"{tag}-{self.sha256[:12]}"
        self.wanted = folder / self.name
        self.current = folder / "current"
        self.replaced = self.current.readlink().parts[0] if self.current.is_symlink() else ""

    def steps(self) -> list[Step]:
        """Return the steps that are left, in order. Raises InstallError if the path can't become a link."""
        steps = []
        binary = find(self.wanted)
        if binary is None:
            steps.append(Step(f"install {self.name}", self._install))
        if binary is None or self.current.resolve() != binary.parent.resolve():
            steps.append(Step(f"switch to {self.name}", self._switch))
        if not points_to(self.path, self.current / NAME):
            steps.append(Step("link", self._link))
        steps += [Step(f"remove {path.name}", partial(shutil.rmtree, path)) for path in self._surplus()]
        if steps:
            check_link(self.path)
        return steps

    def _surplus(self) -> list[Path]:
        """Releases beyond `keep`, the one just replaced kept before older ones, and what installs left behind that were
        killed; one that is at work made its folder less than a day ago."""
        folders = [path for path in self.folder.iterdir() if path.is_dir()] if self.folder.is_dir() else []
        others = [path for path in folders if re.fullmatch(r"\w[\w.+-]*-[0-9a-f]{12}", path.name)]
        others = [path for path in others if path != self.wanted and not path.is_symlink()]
        others.sort(key=lambda path: (path.name == self.replaced, path.stat().st_mtime), reverse=True)
        left = [
            path for path in folders if path.name.startswith(".new-") and path.stat().st_mtime < time.time() - 86400
        ]
        return [*others[max(self.keep - 1, 0) :], *sorted(left)]

    def _switch(self) -> None:
        binary = find(self.wanted)
        if binary is None:
            raise InstallError(f"{self.wanted} has lost its {NAME}: run again to install it")
        link(self.current, binary.parent.relative_to(self.folder))

    def _link(self) -> None:
        link(self.path, self.current / NAME)

    def _install(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=self.folder) as folder:
            archive, tree = Path(folder, "archive"), Path(folder, "tree")
            try:
                download(self.url, archive)
            except DownloadError as error:
                raise InstallError(
                    f"{self.url} could not be downloaded ({error}): "
                    f"check llama_server_release_tag, or set llama_server_release_url to a mirror"
                ) from error
            try:
                verify(archive, self.sha256, "nothing was installed; correct llama_server_release_sha256")
                unpack(archive, tree)
            except InstallError as error:
                raise InstallError(str(error).replace(str(archive), self.url)) from error
            binary = find(tree)
            if binary is None:
                raise InstallError(
                    f"{self.url} contains no file {NAME}: set llama_server_release_url to an archive that does"
                )
            binary.chmod(0o755)
            if build_of(binary) is None:
                raise InstallError(
                    f"the {NAME} of {self.url} does not run here: choose another "
                    f"llama_server_release_platform, install its libraries, "
                    f"or set llama_server_install_method to source"
                )
            os.sync()  # the rename below must not reach the disk before the files do
            tree.chmod(0o755)
            if self.wanted.exists():  # somebody took its llama-server away
                self.wanted.replace(Path(folder, "old"))
            tree.replace(self.wanted)


def find(tree: Path) -> Path | None:
    """Return the llama-server nearest to the top of a folder."""
    found = (path for path in tree.rglob(NAME) if path.is_file())
    return min(found, key=lambda path: (len(path.parts), str(path)), default=None)
