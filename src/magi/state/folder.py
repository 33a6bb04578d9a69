"""The folder of magi's own files, and locks that end with the process that took them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def state_folder() -> Path:
    """Return where magi keeps what it remembers (XDG base directories), made for its user alone. Raises OSError."""
    given = os.environ.get("XDG_STATE_HOME")
    try:
        folder = Path(given or Path.home() / ".local" / "state") / "magi"
    except RuntimeError:  # neither HOME nor an entry among the users of this machine
        raise FileNotFoundError(errno.ENOENT, "this user has no home folder", "~/.local/state") from None
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def alone() -> Iterator[Path]:
    """Yield the state folder, within the block for this process alone: whoever removes what others left there must not
    meet what has just been made, and is not held yet. Raises OSError."""
    folder = state_folder()
    with open(folder / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def unwritable(error: OSError, path: Path | None = None) -> str:
    """Return the sentence on what magi can't keep, at ``path`` where the error names none."""
    return f"{error.filename or path} can't be written ({error.strerror}): free it, or set XDG_STATE_HOME."


def is_held(path: Path) -> bool:
    """Whether a process at work holds the file: its lock ends with the process, however that ends."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
