# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writing a file so that a crash at any moment leaves the old content or the new one, never a part.

AnsibleModule.atomic_move neither calls fsync nor keeps a mode independent of the umask, hence this.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path


class FileWriteError(OSError):
    """A file could not be written, and has its old content; the message has path, cause and remedy."""

    def __str__(self) -> str:
        return f"Can't write {self.filename}: {why(self)}."


def why(error: OSError, setting: str | None = "another path") -> str:
    """Return cause and remedy of a failed write; ``setting`` is what to set for another place, None where there can be
    none."""
    otherwise = f", or set {setting}" if setting else ""
    cause = error.strerror or (error.args[0] if error.args else type(error).__name__)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{cause}; free space there, then run again"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{cause}; run as a user who may write there (become: true){otherwise}"
    return f"{cause}; make it writable{otherwise}" if error.errno == errno.EROFS else cause


def content_of(path: Path) -> str | None:
    """Return the content of a file, of which bytes that are not UTF-8 become halves of surrogate pairs; None if it is
    not there. Raises OSError."""
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None


def diff_of(path: str, before: str, after: str) -> dict[str, str]:
    """Return an entry of a module's diff: the content of a file before and after."""
    return {"before_header": path, "after_header": path, "before": before, "after": after}


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise FileWriteError for an error while ``path`` is written."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileWriteError):
            raise
        raise FileWriteError(error.errno, error.strerror or str(error), os.fspath(path)) from error


def check_writable(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Raise FileWriteError for the first of the files that could not be written, or removed: in its folder, or the one
    that this would be made in, nothing can be changed. Changes nothing."""
    for folder in dict.fromkeys(Path(path).parent for path in paths):
        there = next(each for each in (folder, *folder.parents) if each.exists())
        if not os.access(there, os.W_OK | os.X_OK):
            read_only = os.statvfs(there).f_flag & os.ST_RDONLY
            number = errno.EROFS if read_only else errno.EACCES
            raise FileWriteError(number, os.strerror(number), str(there))


def make_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder and those above it, open to all whatever the umask. Raises FileWriteError."""
    with writing(path):
        missing = [folder for folder in (Path(path), *Path(path).parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)
        Path(path).mkdir(exist_ok=True)  # refuses anything there that is not a folder


def write_atomic(path: str | os.PathLike[str], data: bytes, mode: int, *, replace: bool = True) -> None:
    """Replace the file at ``path`` by ``data`` with permission bits ``mode``, durably and all at once.

    Own temporary file in the same folder, fsync, rename, fsync of the folder. The target of a symbolic link is
    replaced. An error leaves nothing behind, and the next writer removes what a killed one left. Without ``replace``,
    an existing file stays as it is.

    Raises FileWriteError if any step fails, for example on a full disk (EEXIST: the file exists).
    """
    target = Path(os.path.realpath(path))
    with writing(path):
        _remove_leftovers(target)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            _write_durably(temporary, data, mode)
            if replace:
                temporary.replace(target)
            else:
                os.link(temporary, target)  # unlike a rename, refuses an existing file
                temporary.unlink()
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)


def _write_durably(path: Path, data: bytes, mode: int) -> None:
    # O_EXCL and O_NOFOLLOW: a link planted under this name is never written through.
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(fd, mode)  # the mode asked for, whatever the umask
        os.fsync(fd)


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary files of writers of ``target`` that no longer run (killed, or power lost)."""
    ours = re.compile(rf"\.{re.escape(target.name)}\.(\d{{1,10}})\.tmp")
    for path in target.parent.iterdir():
        match = ours.fullmatch(path.name)
        if match and not _runs(int(match[1])):
            path.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    """Whether another process has this id: a leftover with our own id is of an earlier process."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
