"""Ctrl-C and similar signals end the present run, and not us."""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stopping(stop: threading.Event, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Within the block, SIGINT, SIGTERM and SIGHUP end the present run instead of us; ``say`` says so at once."""
    from magi.runner.processes import GRACE

    # In a thread of its own: a signal may come in the middle of printing.
    told = threading.Thread(target=say, args=(f"Stopping; Ansible gets {GRACE} seconds to end.",))

    def end(number: int, _frame: Any) -> None:
        if number == signal.SIGHUP:
            _leave_terminal()
        if not stop.is_set():
            stop.set()
            told.start()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # set so by nohup(1)
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if told.ident:
            told.join()


def _leave_terminal() -> None:
    """Write nothing to a terminal that is gone, which would be an error; a file or a pipe still gets everything."""
    with open(os.devnull, "wb") as nowhere:
        for descriptor in (1, 2):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(nowhere.fileno(), descriptor)
