# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Downloaded archives: their checksum, and unpacking that can't leave its folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from ansible_collections.magi.models.plugins.module_utils._install.step import InstallError


def sha256(path: Path) -> str:
    """SHA-256 of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def verify(path: Path, expected: str, remedy: str) -> None:
    """Raise InstallError unless the file's SHA-256 is the expected one."""
    actual = sha256(path)
    if actual != expected.lower():
        raise InstallError(f"{path} has SHA-256 {actual}, not {expected}: {remedy}")


def unpack(archive: Path, dest: Path, below: str = "") -> None:
    """Unpack a .tar.* or .zip archive into the new folder dest.

    below: keep only the content of the folder of this name, and place it at dest itself.
    Names that leave dest, devices, and links to anything but a neighbour in the same folder are refused.
    """
    dest.mkdir(parents=True)
    try:
        for name, mode, kind, content in _members(archive):
            path = PurePosixPath(name)
            if below:
                if below not in path.parts:
                    continue
                path = PurePosixPath(*path.parts[path.parts.index(below) + 1 :])
            if path.is_absolute() or ".." in path.parts:
                raise InstallError(f"{archive} contains the unsafe name {name!r}: get the archive from another source")
            _write(archive, dest / path, mode, kind, content)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise InstallError(f"{archive} can't be unpacked ({error}): download it again") from error


def _write(archive: Path, target: Path, mode: int, kind: str, content) -> None:
    if kind == "folder":
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if kind == "link":
        to = content()
        if "/" in to or to in ("", ".", ".."):
            raise InstallError(f"{archive} contains the unsafe link {target.name} -> {to}: get it from another source")
        target.symlink_to(to)
    else:
        # "x": never through something that an earlier member put there.
        with content() as source, target.open("xb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        target.chmod(0o644 | (mode & 0o111))


def _members(archive: Path):
    """Yield (name, mode, kind, content), kind being folder, file or link."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as bundle:
            for member in bundle.infolist():
                mode = member.external_attr >> 16
                if member.is_dir():
                    yield member.filename, mode, "folder", None
                elif stat.S_ISLNK(mode):
                    yield member.filename, mode, "link", lambda m=member: os.fsdecode(bundle.read(m))
                else:
                    yield member.filename, mode, "file", lambda m=member: bundle.open(m)
        return
    with tarfile.open(archive) as bundle:
        for member in bundle:
            if member.isdir():
                yield member.name, member.mode, "folder", None
            elif member.issym():
                yield member.name, member.mode, "link", lambda m=member: m.linkname
            elif member.isfile():
                yield member.name, member.mode, "file", lambda m=member: bundle.extractfile(m)
            else:
                raise InstallError(f"{archive} holds {member.name!r}, which is not a file, folder or symbolic link")
