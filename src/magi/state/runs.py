"""The folders of runs, each with all that Ansible printed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from magi.errors import UsageError
from magi.state import questions
from magi.state.folder import alone, is_held, unwritable

KEEP = 20
"""Folders to keep for each playbook, besides those of present runs: many looks don't push out a deployment."""
OUTPUT = "output.log"
"""The file of a run folder with all that Ansible printed."""


@contextlib.contextmanager
def run_folder(name: str) -> Iterator[tuple[Path, TextIO, Sequence[str]]]:
    """Yield a new folder for a run of the playbook ``name``, for its user alone, and in it the file for its output,
    held while the run is at work; with them the names of the folders of runs whose magi was killed.

    Cleans up after earlier runs: all but the last folders of each playbook, and leftovers of a killed magi. Raises
    UsageError.
    """
    try:
        with alone() as state:
            folder = _new(state / "runs", name)
            log = _held(folder / OUTPUT)
            killed = _remove_old(state / "runs", name)
            questions.remove_left(state)
    except OSError as error:
        raise UsageError(unwritable(error)) from None
    try:
        yield folder, log, killed
    finally:
        with contextlib.suppress(OSError):  # told when it was written
            log.close()


def _new(runs: Path, name: str) -> Path:
    runs.mkdir(mode=0o700, exist_ok=True)
    folder = runs / f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{name}-{uuid.uuid4().hex[:6]}"
    folder.mkdir(mode=0o700)
    return folder


def _held(path: Path) -> TextIO:
    """Open the file of a run's output, for its user alone; each line is written at once."""
    made = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    log = open(made, "w", 1, encoding="utf-8", errors="replace")  # noqa: SIM115 - given to the caller
    fcntl.flock(log, fcntl.LOCK_EX)
    return log


def _remove_old(runs: Path, name: str) -> list[str]:
    """Remove what is not needed any more; return the names of folders of runs whose magi was killed."""
    finished = sorted(path for path in runs.iterdir() if not is_held(path / OUTPUT))
    same = [path for path in finished if path.name.partition("-")[2].rpartition("-")[0] == name]
    for old in same[: 1 - KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    killed = [path for path in finished if (path / "artifacts").exists()]
    for left in (path / part for path in killed for part in ("artifacts", "project")):
        shutil.rmtree(left, ignore_errors=True)
    return [path.name for path in killed]
