"""The folder of magi's own files, and locks that end with their process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def state_folder() -> Path:
    """Return magi's state folder (XDG base directories), made for its user alone. Raises OSError."""
    given = os.environ.get("XDG_STATE_HOME")
    try:
        folder = Path(given or Path.home() / ".local" / "state") / "magi"
    except RuntimeError:  # neither HOME nor an entry in the users of this machine
        raise FileNotFoundError(errno.ENOENT, "this user has no home folder", "~/.local/state") from None
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def alone() -> Iterator[Path]:
    """Yield the state folder, locked for this process within the block: a clean-up by another one must not find files
    that are new and not yet locked. Raises OSError."""
    folder = state_folder()
    with open(folder / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def unwritable(error: OSError, path: Path | None = None) -> str:
    """Return the sentence on what magi can't write, at ``path`` if the error names no file."""
    return f"{error.filename or path} can't be written ({error.strerror}): fix that, or set XDG_STATE_HOME."


def is_held(path: Path) -> bool:
    """Whether a running process holds the file: its lock ends with the process, however that ends."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
