# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Holding a file's lock, of which one process at a time is the holder, where a teardown removes the file."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.magi.models.plugins.module_utils._base.files import make_folder, writing


@contextlib.contextmanager
def locked(path: Path, *, create: bool = True, wait: bool = True) -> Iterator[int | None]:
    """Hold the lock of the file ``path``, and give its descriptor. None where there is no file and ``create`` is false,
    or where somebody else holds it and ``wait`` is false. The lock ends with the process. Raises FileWriteError."""
    with writing(path):
        descriptor = _lock(path, create, wait)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(path: Path, create: bool, wait: bool) -> int | None:
    """Return a locked descriptor of the file that is there now: a teardown that ends meanwhile removes its own."""
    while create or path.exists():
        if create:
            make_folder(path.parent)
        with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as stack:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o644)
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                return None
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                stack.pop_all()
                return descriptor
    return None
