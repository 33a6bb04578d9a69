# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The files that a scan found, and what is known about them. Pure."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ansible_collections.magi.models.plugins.module_utils._models.model import FileVersion

if TYPE_CHECKING:
    from ansible_collections.magi.models.plugins.module_utils._models.facts import Facts


def within(path: str, folder: str) -> bool:
    """Whether the path is ``folder``, or one below it; both are absolute."""
    top = posixpath.normpath(folder).rstrip("/")
    return path == top or path.startswith(f"{top}/")


@dataclass(frozen=True)
class FoundFile:
    """A GGUF file and its path; identified by size, mtime and inode."""

    path: str
    size: int  # bytes
    mtime_ns: int
    inode: int
    device: int
    name: str  # what its model is called: the file's stem, or the name in a manifest
    folder: str  # files of one folder belong together (projectors, shards)
    qualifiers: tuple[str, ...]  # names of the folders above it, nearest first, to tell equal names apart
    superseded: bool = False  # a newer revision of its repository replaces it

    @property
    def version(self) -> FileVersion:
        return FileVersion(self.path, self.size, self.mtime_ns)


@dataclass(frozen=True)
class KnownFile:
    """A found file and its facts; ``sha256`` if its content had to be compared, or the user asked for it."""

    file: FoundFile
    facts: Facts
    sha256: str | None = None

    @property
    def content(self) -> str:
        """Equal for two entries only if their bytes are equal."""
        return self.sha256 or f"{self.file.device}:{self.file.inode}"
