# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A long installation that somebody watches: its log, and its end when nobody looks any more."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.magi.models.plugins.module_utils._install.step import InstallError

UNWATCHED_SECONDS = 60
"""If nobody touches its file for so long, nobody watches an installation any more."""


class Watch:
    """The log that an action plugin shows while it grows, and the file beside it that the plugin touches.

    what: is installed, for people.
    """

    def __init__(self, log: Path, what: str) -> None:
        self.log, self.watched, self.what = log, log.with_name(".watched"), what

    @contextlib.contextmanager
    def alone(self, folder: Path) -> Iterator[int]:
        """Keep two installations in one folder apart: the later one waits, while somebody watches it. Begin the log.

        Yields a file descriptor which holds the lock for as long as any process has it open. What is made within is for
        all to read and execute, as the servers' own user must, whatever the umask (of sudo, say).
        """
        before = os.umask(0o022)
        try:
            with self._locked(folder) as lock:
                yield lock
        finally:
            os.umask(before)

    @contextlib.contextmanager
    def _locked(self, folder: Path) -> Iterator[int]:
        folder.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(exist_ok=True)
        self.watched.touch()
        lock = os.open(folder, os.O_RDONLY)
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self.check()
                    time.sleep(1)
            self.log.parent.mkdir(exist_ok=True)  # the installation before may have taken it away
            self.watched.touch()
            self.log.unlink(missing_ok=True)
            yield lock
        finally:
            os.close(lock)

    def say(self, text: str) -> None:
        """Show one line to whoever watches."""
        with self.log.open("a") as log:
            log.write(f"== {text}\n")

    def check(self) -> None:
        """Raise InstallError when nobody watches: nobody would ever stop an abandoned installation."""
        try:
            seen = self.watched.stat().st_mtime
        except FileNotFoundError:  # by the end of the installation that this one waits for
            return
        if time.time() - seen > UNWATCHED_SECONDS:
            raise InstallError(f"{self.what} stopped because nobody watched it: run again to continue")
