"""Questions to instances: in a variable of Ansible they would run as templates, so they travel in files."""

from __future__ import annotations

import contextlib
import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path

from magi.errors import UsageError
from magi.state.folder import alone, is_held, unwritable

FOLDER = "questions"


@contextlib.contextmanager
def passed_by_file(text: str) -> Iterator[Path]:
    """Yield a file that holds ``text``, for its user alone, within the block.

    Should this process be killed, the next run removes the file. Raises UsageError.
    """
    try:
        with alone() as state:
            folder = state / FOLDER
            folder.mkdir(mode=0o700, exist_ok=True)
            file = tempfile.NamedTemporaryFile(  # noqa: SIM115 - given to the caller
                "w", encoding="utf-8", dir=folder, suffix=".txt", delete=False
            )
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        raise UsageError(unwritable(error)) from None
    path = Path(file.name)
    try:
        file.write(text)
        file.flush()
        yield path
    finally:
        path.unlink(missing_ok=True)  # while it is held: afterwards, another run may remove it
        file.close()


def remove_left(state: Path) -> None:
    """Remove what a killed magi left in the state folder. Raises OSError."""
    for question in (state / FOLDER).glob("*"):
        if not is_held(question):
            question.unlink(missing_ok=True)
