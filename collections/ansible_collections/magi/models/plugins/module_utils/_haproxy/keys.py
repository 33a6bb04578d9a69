# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The keys of a gateway's clients: their file, and HAProxy's maps of it. Pure.

A line of the file is a key: its SHA-256, its name, and options. Only digests are in it, never a key.
"""

from __future__ import annotations

import calendar
import datetime
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import unquote

HEAD = """\
# The keys of the gateway's clients, one a line: SHA-256 of the key, its name, and what it may do.
#   models=GLOB,GLOB     only models with such a name    concurrent=N    requests at the same time
#   expires=YYYY-MM-DD   its last day (UTC)              per-minute=N    requests a minute
"""
"""The first lines of a new file."""
MAPS = (
    *("keys.map", "key-concurrent.map", "key-per-minute.map", "key-expires.map"),
    *("key-rights.map", "allowed.map", "key-models.txt"),
)
"""The files that HAProxy gets instead of the keys file."""
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_MOST = 1_000_000


class KeysError(ValueError):
    """A key, or the file of keys, is wrong; the message says where, what is wrong and the remedy."""


@dataclass(frozen=True)
class Key:
    digest: str
    """The SHA-256 of the key, in lower case."""
    name: str
    models: tuple[str, ...] = ()
    """Globs; without any, it may use all models."""
    concurrent: int | None = None
    per_minute: int | None = None
    expires: str | None = None
    """Its last day in UTC, as YYYY-MM-DD."""

    def words(self) -> list[str]:
        """Return it as the words of its line."""
        options = {
            "models": ",".join(self.models) if self.models else None,
            "concurrent": self.concurrent,
            "per-minute": self.per_minute,
            "expires": self.expires,
        }
        return [self.digest, self.name, *(f"{name}={value}" for name, value in options.items() if value is not None)]

    def to_dict(self) -> dict[str, Any]:
        """Return what people may see of it."""
        return {
            "name": self.name,
            "models": list(self.models),
            "concurrent": self.concurrent,
            "per_minute": self.per_minute,
            "expires": self.expires,
        }


def parse(text: str, path: str) -> list[Key]:
    """Return the keys of a file's ``text``. Raises KeysError, whose message repeats no word of a line: somebody may
    have put a key there instead of its digest."""
    keys: list[Key] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{path}, line {number}"
        key = checked(line.split(), where)
        for other in keys:
            if key.name == other.name or key.digest == other.digest:
                what = "name" if key.name == other.name else "key"
                raise KeysError(f"{where}: the {what} of this line is on an earlier one, too; remove one of them.")
        keys.append(key)
    return keys


def checked(words: Sequence[str], where: str) -> Key:
    """Return the key of a line's ``words``. Raises KeysError."""
    digest = words[0].lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise KeysError(
            f"{where}: the first word must be the SHA-256 of a key, 64 hexadecimal digits; magi key add makes a key, "
            "and printf %s KEY | sha256sum prints the digest of one."
        )
    if len(words) < 2 or not re.fullmatch(_NAME, words[1]):
        raise KeysError(
            f"{where}: the name, its second word, must be of letters, digits and '._-', 64 at most; correct it."
        )
    key = Key(digest, words[1])
    for word in words[2:]:
        option, _equals, value = word.partition("=")
        if option not in _OPTIONS:
            raise KeysError(
                f"{where}: an option is none of {', '.join(f'{name}=' for name in _OPTIONS)}; correct or remove it."
            )
        key = _OPTIONS[option](key, value, f"{where}: {option}=")
    return key


def _models(key: Key, value: str, where: str) -> Key:
    globs = tuple(value.split(","))
    if not all(re.fullmatch(r"\S+", glob) and glob.isprintable() for glob in globs):
        raise KeysError(
            f"{where} must be names of models with commas between them, as in models=chat,qwen3-*; correct it."
        )
    return replace(key, models=globs)


def _number(value: str, where: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,6}", value) or int(value) > _MOST:
        raise KeysError(f"{where} must be a whole number from 1 to {_MOST}; correct it.")
    return int(value)


def _expires(key: Key, value: str, where: str) -> Key:
    _after(value, where)
    return replace(key, expires=value)


def _after(day: str, where: str = "") -> int:
    """Return the first second after ``day``, since the epoch."""
    try:
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", day):
            raise ValueError
        following = datetime.date.fromisoformat(day) + datetime.timedelta(days=1)
    except (ValueError, OverflowError):
        raise KeysError(f"{where} must be a day, as in 2027-01-31; correct it.") from None
    return calendar.timegm(following.timetuple())


_OPTIONS: Mapping[str, Callable[[Key, str, str], Key]] = {
    "models": _models,
    "concurrent": lambda key, value, where: replace(key, concurrent=_number(value, where)),
    "per-minute": lambda key, value, where: replace(key, per_minute=_number(value, where)),
    "expires": _expires,
}


def with_key(text: str, key: Key, path: str) -> str:
    """Return the file's ``text`` with one more key; the same text if it is there already. Raises KeysError."""
    keys = parse(text, path)
    if key in keys:
        return text
    if any(key.name == other.name for other in keys):
        raise KeysError(f"{path} has a key {key.name} already; revoke it first, or choose another name.")
    checked(key.words(), f"{path}, the key {key.name}")
    end = "" if not text or text.endswith("\n") else "\n"
    after = f"{text or HEAD}{end}{' '.join(key.words())}\n"
    parse(after, path)  # another may have the same digest
    return after


def without_key(text: str, name: str, path: str) -> str:
    """Return the file's ``text`` without the key ``name``, with all else as it stands. Raises KeysError."""
    parse(text, path)
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if line.lstrip().startswith("#") or line.split()[1:2] != [name])


def maps(keys: Sequence[Key], names: str, models: str) -> dict[str, str]:
    """Return the files of MAPS: what HAProxy looks up for each request, so that it resolves no glob itself.

    ``names`` and ``models`` are the files names.txt and models.json of the configuration: the routed names, encoded,
    and their list for clients.
    """
    rights = sorted({key.models for key in keys if key.models})
    encoded = names.splitlines()
    listed = json.loads(models)
    allowed, lists = [], []
    for number, globs in enumerate(rights, 1):
        theirs = {name: unquote(name, errors="surrogateescape") for name in encoded}
        theirs = {name: plain for name, plain in theirs.items() if any(fnmatchcase(plain, glob) for glob in globs)}
        allowed += [f"{number}/{name} 1\n" for name in theirs]
        data = [item for item in listed["data"] if item["id"] in theirs.values()]
        lists.append(f"{number} {json.dumps({**listed, 'data': data})}\n")
    return {
        "keys.map": "".join(f"{key.digest} {key.name}\n" for key in keys),
        "key-concurrent.map": "".join(f"{key.name} {key.concurrent}\n" for key in keys if key.concurrent),
        "key-per-minute.map": "".join(f"{key.name} {key.per_minute}\n" for key in keys if key.per_minute),
        "key-expires.map": "".join(f"{key.name} {_after(key.expires)}\n" for key in keys if key.expires),
        "key-rights.map": "".join(f"{key.name} {rights.index(key.models) + 1}\n" for key in keys if key.models),
        "allowed.map": "".join(allowed),
        "key-models.txt": "".join(lists),
    }
