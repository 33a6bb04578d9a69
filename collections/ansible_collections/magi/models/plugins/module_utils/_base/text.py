# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Words for people: text from files and hosts made harmless, numbers with their nouns. Pure."""

from __future__ import annotations

import re
from typing import Any

SECRET = re.compile(
    r"(?:^|[_-])(?:\w*API_?KEYS?|\w*ACCESS_?KEYS?|KEYS?|\w*TOKEN|PASS|PWD|CREDENTIALS?)(?:$|[_=-])"
    r"|SECRET|PASSWORD|PASSWD|PASSPHRASE",
    re.IGNORECASE,
)
"""Found in the names of variables and options that hold secrets, or name their files; not in image_max_tokens."""
_MAX_LINE = 200  # characters of a name that a file gives itself


def printable(text: str) -> str:
    """``text`` with an escape for everything that a terminal or a log would not show as itself."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def one_line(value: Any) -> str | None:
    """A string from a file as one line of at most 200 characters without control characters; None if it is not a
    string, or nothing is left of it."""
    if not isinstance(value, str):
        return None
    text = "".join(c if c.isprintable() else " " for c in value[: 8 * _MAX_LINE])
    return " ".join(text.split())[:_MAX_LINE] or None


def shown(value: Any) -> str:
    """``value`` as Python writes it, of which a sentence has 100 characters at most."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def is_utf8(text: str) -> bool:
    """Whether systemd takes ``text`` for UTF-8: it has no surrogate and none of Unicode's noncharacters
    (src/basic/utf8.c, ``unichar_is_valid``)."""
    return not any(0xD800 <= c <= 0xDFFF or 0xFDD0 <= c <= 0xFDEF or c & 0xFFFE == 0xFFFE for c in map(ord, text))


def counted(number: int, noun: str) -> str:
    """``number`` with ``noun``, in the plural unless it is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
