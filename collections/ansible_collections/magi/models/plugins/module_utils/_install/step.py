# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One step of an installation: its name, and the function that does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


class InstallError(Exception):
    """A step failed; the message is one sentence with the remedy."""


@dataclass(frozen=True)
class Step:
    """Decided, shown and done as one thing: nobody parses its text to know what to do."""

    text: str
    do: Callable[[], None]
    tools: tuple[str, ...] = ()
    """Programs that it calls."""

    def __str__(self) -> str:
        return self.text
