"""Running magi as people and programs do: piped, or at a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyte

from .playbook import ROOT, clean_environment

COLUMNS, LINES = 160, 60
HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"
"""The codes that hide the cursor, and show it again."""


def environment(state: Path, **more: str) -> dict[str, str]:
    """Return an environment without the caller's settings, in which magi keeps what it remembers in ``state``."""
    return {**clean_environment(), "PYTHONPATH": str(ROOT / "src"), "XDG_STATE_HOME": str(state), **more}


def at_work(state: Path) -> list[int]:
    """Return the processes of Ansible that a magi with this state has started."""
    mark = f"XDG_STATE_HOME={state}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            variables = (entry / "environ").read_bytes().split(b"\0") if entry.name.isdigit() else ()
            if mark in variables and any(item.startswith(b"MAGI_RUN=") for item in variables):
                found.append(int(entry.name))
    return found


def nobody_s() -> tuple[str, ...]:
    """Return the program, with arguments, that runs another as a user who has no name and may not do all; none where a
    user namespace is not for us."""
    program = ("unshare", "--user", "--map-user=12345", "--map-group=12345")
    return program if subprocess.run([*program, "true"], capture_output=True, check=False).returncode == 0 else ()


def _hears_a_hang_up() -> None:
    """A signal that nohup ignores stays ignored in all its child processes, and so in tests that it runs."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _takes_the_terminal() -> None:
    _hears_a_hang_up()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def begin(
    state: Path, *arguments: str, cwd: Path = ROOT, within: Sequence[str] = (), **more: str
) -> subprocess.Popen[str]:
    """Start magi with its output piped; ``within`` is a program, with arguments, that runs it."""
    return subprocess.Popen(
        [*within, sys.executable, "-m", "magi", *arguments],
        cwd=cwd,
        env=environment(state, **more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_hears_a_hang_up,
    )


class Ran:
    """How magi ended, and what it printed where."""

    def __init__(self, process: subprocess.Popen[str], before: str = ""):
        self.out, err = process.communicate(timeout=120)
        self.err = before + err
        self.code = process.returncode
        assert "Traceback" not in self.out + self.err, self.err

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def sentence(self) -> str:
        """What it says at the end."""
        said = [line for line in self.err.splitlines() if line.startswith("magi: ")]
        assert len(said) == 1, self.err
        return said[0].removeprefix("magi: ")


class Terminal:
    """magi at a terminal, up to its end: how it ended, all that it printed, and the last screen."""

    def __init__(
        self,
        state: Path,
        *arguments: str,
        cwd: Path = ROOT,
        interrupt_when: Callable[[str], bool] = lambda screen: False,
        hang_up_when: Callable[[str], bool] = lambda screen: False,
        **more: str,
    ):
        """``interrupt_when`` is called with the screen until it returns true, then Ctrl-C is pressed. The same goes for
        ``hang_up_when``, after which the terminal is gone."""
        ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self._screen = pyte.Screen(COLUMNS, LINES)
        stream = pyte.ByteStream(self._screen)
        variables = environment(state, TERM="xterm-256color", **more)
        for size in ("COLUMNS", "LINES"):  # of the terminal that the tests run in
            variables.pop(size, None)
        process = subprocess.Popen(
            [sys.executable, "-m", "magi", *arguments],
            cwd=cwd,
            env=variables,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=_takes_the_terminal,
        )
        os.close(theirs)
        printed, pressed, deadline = b"", False, time.monotonic() + 120
        try:
            while select.select([ours], [], [], max(0, deadline - time.monotonic()))[0]:
                try:
                    piece = os.read(ours, 65536)
                except OSError:  # nobody has the other end open any more (pty(7))
                    break
                if not piece:
                    break
                printed += piece
                stream.feed(piece)
                if not pressed and interrupt_when(self.screen):
                    os.write(ours, b"\x03")
                    pressed = True
                if hang_up_when(self.screen):
                    break
            os.close(ours)
            self.code = process.wait(timeout=max(1, deadline - time.monotonic()))
        finally:
            process.kill()
            with suppress(OSError):  # it is closed already
                os.close(ours)
        self.printed = printed.decode(errors="replace")
        assert "Traceback" not in self.printed, self.printed
        gone = hang_up_when(self.screen)
        assert gone or self.printed.count(HIDDEN) <= self.printed.count(SHOWN), "the cursor stays hidden"

    @property
    def screen(self) -> str:
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()
