# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The applied state of a host: a counter and a digest, and the lock that a deployment holds while it changes a host."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from ansible_collections.magi.models.plugins.module_utils._base.files import write_atomic, writing
from ansible_collections.magi.models.plugins.module_utils._base.locked import locked
from ansible_collections.magi.models.plugins.module_utils._host.values import Generation, Holder

PATIENCE = 1
"""Seconds to wait for somebody who only looks at the lock, or has not yet written a name into it."""


class ConflictError(RuntimeError):
    """Another deployment is at work, or got in between; the message names it."""


def read_generation(home: str) -> Generation:
    """Return the generation of ``home``; number 0 if nothing was deployed or the file can't be read."""
    try:
        data = json.loads((Path(home) / "generation.json").read_text())
        return Generation(**data)
    except (OSError, ValueError, TypeError):
        return Generation()


def write_generation(home: str, generation: Generation) -> None:
    """Write the generation of ``home``. Raises FileWriteError."""
    write_atomic(str(Path(home) / "generation.json"), json.dumps(asdict(generation)).encode() + b"\n", 0o644)


def check_generation(home: str, expected: Generation) -> None:
    """Raise ConflictError if another deployment has changed the host since ``expected`` was read."""
    now = read_generation(home)
    if not now.same(expected):
        raise ConflictError(
            f"another deployment got in between: {now.applied_by or 'unknown'} applied profile "
            f"{now.profile or 'unknown'} at {now.applied_at or 'an unknown time'} (generation {now.number}, planned on "
            f"{expected.number}); run again to plan on the new state."
        )


def read_holder(home: str) -> Holder | None:
    """Return who holds the lock of ``home``, or None."""
    try:
        descriptor = os.open(Path(home) / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _named(descriptor)
    finally:
        os.close(descriptor)
    return None


def _named(descriptor: int) -> Holder:
    """Return whom the lock file names. The holder writes its name once it has the lock, so there may be none yet."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(ValueError, TypeError):
            return Holder(**json.loads(os.pread(descriptor, 4096, 0)))
        if time.monotonic() > deadline:
            return Holder("unknown")
        time.sleep(0.01)


@contextlib.contextmanager
def exclusive(home: str, ours: Holder) -> Iterator[None]:
    """Hold the lock of ``home`` in the name of ``ours``, which is this process. The lock ends with the process, so a
    killed one leaves nothing stale.

    Raises ConflictError, naming the holder, if another deployment has the lock, and FileWriteError.
    """
    path = Path(home) / "lock"
    deadline = time.monotonic() + PATIENCE
    while True:
        with locked(path, wait=False) as descriptor:
            if descriptor is not None:
                with writing(path):
                    # Overwritten in place, which works on a full disk too: a teardown frees space.
                    os.ftruncate(descriptor, os.pwrite(descriptor, json.dumps(asdict(ours)).encode(), 0))
                yield
                return
        # A look at who holds it (read_holder) also locks it for a moment, and is no deployment.
        holder = read_holder(home)
        if holder or time.monotonic() > deadline:
            name = holder.deployment if holder else "unknown"
            raise ConflictError(f"another deployment is at work: {name}; wait for it, then run again.")
        time.sleep(0.001)
