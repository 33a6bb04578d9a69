"""The processes of a run: finding them by the mark in their environment, and ending them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

from magi.runner.options import MARK

GRACE = 10
"""Seconds in which Ansible may end by itself when a run is stopped."""


class Ending:
    """Ends a run: interrupts Ansible, so that it ends its workers, and after a while kills what is left."""

    def __init__(self, ident: str, stop: threading.Event):
        self.ident = ident
        self.stop = stop
        self.deadline: float | None = None

    def is_due(self) -> bool:
        """Whether ansible-runner should kill what is left; called every 0.1 s."""
        if not self.stop.is_set():
            return False
        if self.deadline is None:
            self.deadline = time.monotonic() + GRACE
            for pid in self._processes(children=True):
                _signal(pid, signal.SIGINT)
        return time.monotonic() > self.deadline

    def kill_rest(self) -> None:
        """Kill what is left of the run on this machine, and wait until it is gone."""
        deadline = time.monotonic() + GRACE
        while (pids := self._processes()) and time.monotonic() < deadline:
            for pid in pids:
                _signal(pid, signal.SIGKILL)
            time.sleep(0.02)

    def _processes(self, *, children: bool = False) -> list[int]:
        """Return the processes of the run: only ``children`` of ours, or all. Without SSH's shared connections, which
        other runs use too."""
        mark = f"{MARK}={self.ident}".encode()
        found = []
        for entry in Path("/proc").iterdir() if Path("/proc").is_dir() else ():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if mark not in (entry / "environ").read_bytes().split(b"\0"):
                    continue
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                shared = (entry / "cmdline").read_bytes().startswith(b"ssh: ")
                if state != "Z" and not shared and (not children or int(parent) == os.getpid()):
                    found.append(int(entry.name))
        return found


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
