"""The folders of runs: one for each, with all that Ansible printed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from magi.errors import UsageError
from magi.state import questions
from magi.state.folder import is_held, state_folder, unwritable

KEEP = 20
"""Run folders that are kept of each playbook, besides those of runs at work: many looks push out no deployment."""
OUTPUT = "output.log"
"""The file of a run folder with all that Ansible printed."""


def new_folder(name: str) -> Path:
    """Make the folder of a run, for its user alone, and remove what the runs before left: of each playbook all but the
    last folders, and what only a magi that was killed leaves. Raises UsageError."""
    try:
        runs = state_folder() / "runs"
        runs.mkdir(mode=0o700, exist_ok=True)
        folder = runs / f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{name}-{uuid.uuid4().hex[:6]}"
        folder.mkdir(mode=0o700)
        # Not ours, however clocks go: its output is not held yet.
        finished = sorted(path for path in runs.iterdir() if path != folder and not is_held(path / OUTPUT))
        same = [path for path in finished if path.name.partition("-")[2].rpartition("-")[0] == name]
        for old in same[: 1 - KEEP]:
            shutil.rmtree(old, ignore_errors=True)
        for left in (path / part for path in finished for part in ("artifacts", "project")):
            shutil.rmtree(left, ignore_errors=True)
        questions.remove_left()
    except OSError as error:
        raise UsageError(unwritable(error)) from None
    return folder


@contextlib.contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """Yield the file of a run's output, held and for its user alone, each line written at once."""
    log = open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w", 1, encoding="utf-8", errors="replace")  # noqa: SIM115
    try:
        fcntl.flock(log, fcntl.LOCK_EX)
        yield log
    finally:
        with contextlib.suppress(OSError):  # told when it was written
            log.close()
