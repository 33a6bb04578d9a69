# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One step of an installation: its name, and the function that does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


class InstallError(Exception):
    """A step failed; the message is one sentence with the remedy."""


class Unavailable(InstallError):
    """What is wanted can't be had on this host, so that another way may be tried."""

    def __init__(self, reason: str, remedy: str, *, suspicious: bool = False) -> None:
        """reason: the sentence without its remedy. suspicious: people should know, even if another way works."""
        super().__init__(f"{reason}: {remedy}")
        self.reason, self.suspicious = reason, suspicious


@dataclass(frozen=True)
class Step:
    """Decided, shown and done as one thing: nobody parses its text to know what to do."""

    text: str
    do: Callable[[], None]
    tools: tuple[str, ...] = ()
    """Programs that it calls."""

    def __str__(self) -> str:
        return self.text
