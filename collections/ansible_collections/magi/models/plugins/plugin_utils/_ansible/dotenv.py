# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The file .env: variables for everyone who works in a folder, below those of the real environment."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

NAME = ".env"
VARIABLE = "MAGI_DOTENV"
"""Variable that names another file instead; /dev/null for none."""

_BLANK = re.compile(r"[^\S\n]*(#[^\n]*|[A-Za-z_][\w.]*[^\S\n]*)?(\n|\Z)")
"""Nothing, a comment, or a name alone."""
_VARIABLE = re.compile(
    r"[^\S\n]*(?:export[^\S\n]+)?(?P<name>[A-Za-z_][\w.]*)[^\S\n]*=[^\S\n]*"
    r"(?:(?:'(?P<single>(?:\\.|[^'\\])*)'|\"(?P<double>(?:\\.|[^\"\\])*)\")[^\S\n]*(?:\#[^\n]*)?|(?P<plain>[^'\"\n][^\n]*|))"
    r"(?:\n|\Z)",
    re.DOTALL,
)
_REFERENCE = re.compile(r"\$\{(?P<name>[^}:]*)(?::-(?P<otherwise>[^}]*))?\}")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


class DotenvError(ValueError):
    """A .env file can't be read; the message names file, line and remedy."""


def find_dotenv(folders: Iterable[str | Path], environment: Mapping[str, str]) -> Path | None:
    """Return the file that ``environment`` names, else the file .env of the first of ``folders`` that has one."""
    if environment.get(VARIABLE):
        return Path(environment[VARIABLE]).expanduser().absolute()
    return next((path for folder in folders if (path := Path(folder) / NAME).is_file()), None)


def read_dotenv(path: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return what the file sets. ``environment`` is what it may refer to. Raises DotenvError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DotenvError(f"{path} can't be read ({error}): correct it, or remove it.") from None
    try:
        return parse(text, environment)
    except ValueError as error:
        raise DotenvError(f"{path}, {error}: write NAME=value, or put # before it.") from None


def parse(text: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of ``text``: NAME=value, with quotes, comments and ``export`` as in a shell, and ${NAME} for
    one above or of ``environment``, except between single quotes.

    Raises ValueError naming the first line that is none of these.
    """
    text = text.replace("\r\n", "\n")
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        blank, match = _BLANK.match(text, at), _VARIABLE.match(text, at)
        if blank:
            at = blank.end()
        elif match:
            at = match.end()
            found[match["name"]] = _value(match, {**environment, **found})
        else:
            raise ValueError(f"line {text.count(chr(10), 0, at) + 1} is no variable")
    return found


def _value(match: re.Match[str], known: Mapping[str, str]) -> str:
    if match["single"] is not None:
        return re.sub(r"\\([\\'])", r"\1", match["single"])
    value = match["plain"]
    if match["double"] is not None:
        value = re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), match["double"], flags=re.DOTALL)
    else:
        value = "" if value.startswith("#") else re.sub(r"\s+#.*", "", value).rstrip()
    return _REFERENCE.sub(lambda found: known.get(found["name"]) or found["otherwise"] or "", value)
