"""The tokens of the API's clients: a file for its owner alone, made at the first start."""

from __future__ import annotations

import errno
import secrets
from pathlib import Path

from magi.domain import FileWriteError, write_atomic
from magi.errors import UsageError
from magi.state.folder import unwritable
from magi.web.guard import Role, Tokens

PREFIX = "magi-serve-"
"""What a token begins with: who finds one in a log knows what it opens."""
SHORTEST = 16
"""Characters; a shorter one can be guessed."""
_HEAD = "# Tokens of magi serve, one a line: role (view or deploy) and token. Restart magi serve after a change.\n"


def load(path: Path) -> tuple[Tokens, dict[Role, str]]:
    """Return the tokens of a file, and those that are new: a missing file is made, with one for each role.

    Raises UsageError if others can read the file, if it has no tokens, or can't be read or written.
    """
    made = {} if path.exists() else _make(path)
    try:
        if path.stat().st_mode & 0o077:
            raise UsageError(f"{path} can be read by others: run chmod 600 {path}, and put new tokens in it.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} can't be read ({error}): correct --token-file.") from None
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or words[0] not in {*map(str, Role)} or len(words[1]) < SHORTEST:
            raise UsageError(
                f"{path}, line {number}, must be a role (view or deploy) and a token of {SHORTEST} or more characters."
            )
        found.append((Role(words[0]), words[1]))
    if not found:
        raise UsageError(f"{path} has no token: remove it, and magi serve makes another.")
    return Tokens(found), made


def _make(path: Path) -> dict[Role, str]:
    made = {role: PREFIX + secrets.token_urlsafe(32) for role in Role}
    text = _HEAD + "".join(f"{role} {token}\n" for role, token in made.items())
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, text.encode(), 0o600, replace=False)
    except FileWriteError as error:
        if error.errno == errno.EEXIST:  # another magi serve was faster
            return {}
        raise UsageError(f"{error} Give another path with --token-file.") from None
    except OSError as error:
        raise UsageError(unwritable(error, path)) from None
    return made
