# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The applied state of a host: a counter and a digest, and the lock that a deployment holds while it changes things."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from ansible_collections.magi.models.plugins.module_utils._files import write_atomic
from ansible_collections.magi.models.plugins.module_utils._host import Generation


class ConflictError(RuntimeError):
    """Another deployment is at work, or got in between; the message names it."""


def read_generation(home: str) -> Generation:
    """Return the generation of ``home``; number 0 where nothing was deployed or the file can't be read."""
    try:
        data = json.loads((Path(home) / "generation.json").read_text())
        return Generation(**data)
    except (OSError, ValueError, TypeError):
        return Generation()


def write_generation(home: str, generation: Generation) -> None:
    write_atomic(str(Path(home) / "generation.json"), json.dumps(asdict(generation)).encode() + b"\n", 0o644)


def check_generation(home: str, expected: Generation) -> None:
    """Raise ConflictError when another deployment changed the host since ``expected`` was read."""
    now = read_generation(home)
    if (now.number, now.digest) != (expected.number, expected.digest):
        raise ConflictError(
            f"another deployment got in between: {now.applied_by or 'unknown'} applied profile "
            f"{now.profile or 'unknown'} at {now.applied_at or 'an unknown time'} (generation {now.number}, planned on "
            f"{expected.number}); run again to plan on the new state."
        )


@contextlib.contextmanager
def exclusive(home: str, who: str) -> Iterator[None]:
    """Hold the deployment lock of ``home``. The kernel drops it with the process, so a kill leaves nothing stale.

    Raises ConflictError naming the holder when another deployment has it.
    """
    Path(home).mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor = os.open(Path(home) / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 500, 0).decode("utf-8", "replace").strip() or "unknown"
            raise ConflictError(f"another deployment is at work: {holder}; wait for it, then run again.") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, who.encode(), 0)
        yield
    finally:
        os.close(descriptor)
