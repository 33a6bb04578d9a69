"""Profiles that several people edit: each text has a version, and is saved only over the version that was read."""

from __future__ import annotations

import difflib
import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from magi.domain import PROFILE_NAME, Checked, FileWriteError, Remark, write_atomic
from magi.errors import ProfileError
from magi.profiles import files
from magi.state.catalog import Known

_TEMPLATE = re.compile(r"\{\{|\{%")
LONGEST = 200
"""Characters of a name: file systems have a limit."""


class NoProfileError(ProfileError):
    """There is no profile of that name."""


class ChangedError(ProfileError):
    """A profile is another one than was read."""

    def __init__(self, message: str, now: Text | None, difference: str):
        """``difference`` leads from what is there to what was not saved, as a unified diff."""
        super().__init__(message)
        self.now, self.difference = now, difference


@dataclass(frozen=True)
class Text:
    """A profile as text."""

    name: str
    text: str
    version: str
    """Digest of the text."""


def path_of(folder: Path, name: str) -> Path:
    """Return the path of a profile's file. Raises ProfileError for what is no name."""
    if len(name) > LONGEST or not PROFILE_NAME.fullmatch(name):
        raise ProfileError(
            f"A profile's name has letters, digits, '.', '_' and '-', {LONGEST} at most, unlike {name[:LONGEST]!a}."
        )
    return folder / f"{name}.yml"


def read(folder: Path, name: str) -> Text:
    """Return a profile, whatever is wrong with it. Raises ProfileError."""
    path = path_of(folder, name)
    try:
        data = path.read_bytes()
        return Text(name, data.decode("utf-8"), _version(data))
    except UnicodeDecodeError:
        raise ProfileError(f"{path} is not UTF-8; save it as UTF-8.") from None
    except FileNotFoundError:
        there = ", ".join(item.stem for item in files.files(folder) if item.suffix == ".yml") or "none"
        raise NoProfileError(f"There is no profile {name}; there are {there}.") from None
    except OSError as error:
        raise ProfileError(f"{path} can't be read ({error.strerror}): correct that.") from None


def checked(name: str, text: str, hosts: Iterable[Known] = ()) -> Checked:
    """Return what is wrong with a text as the profile ``name``, which need not be saved. Raises ProfileError.

    Who sends a template expects it to run, so it is refused here; in a file it is text like any other.
    """
    with tempfile.TemporaryDirectory(prefix="magi-profile-") as folder:
        found = files.check(written(Path(folder), name, text), hosts)
    templates = [
        Remark(str(found.path), number, "a template is never run in a profile: write what it should become.")
        for number, line in enumerate(text.splitlines(), 1)
        if _TEMPLATE.search(line)
    ]
    return Checked(found.path, None, (*templates, *found.remarks)) if templates else found


def written(folder: Path, name: str, text: str) -> Path:
    """Write a text as a profile into a folder for the moment, and return its path. Raises ProfileError."""
    path = path_of(folder, name)
    path.write_bytes(_encoded(text))
    return path


def save(folder: Path, name: str, text: str, version: str | None) -> Text:
    """Save a text as a profile, if that still has the ``version`` that was read; None: it must be new.

    Raises ChangedError, with what is there, and ProfileError.
    """
    path, data = path_of(folder, name), _encoded(text)
    try:
        alone = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ProfileError(f"{folder} can't be read ({error.strerror}): name the folder of your profiles.") from None
    try:
        fcntl.flock(alone, fcntl.LOCK_EX)
        now = read(folder, name) if path.exists() else None
        if (now.version if now else None) != version:
            raise ChangedError(_changed(name, now, version), now, _difference(now, text))
        write_atomic(path, data, path.stat().st_mode & 0o777 if now else 0o644)
    except FileWriteError as error:
        raise ProfileError(str(error)) from None
    finally:
        os.close(alone)
    return Text(name, text, _version(data))


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        raise ProfileError("The text can't be written as UTF-8: remove what is no character.") from None


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _changed(name: str, now: Text | None, version: str | None) -> str:
    if now is None:
        return f"Profile {name} was removed since you read it: save it as a new one, without a version, or leave it."
    if version is None:
        return f"There is a profile {name} already: give another name, or read it and save over its version."
    return f"Profile {name} was changed since you read it: look at the difference, and save over version {now.version}."


def _difference(now: Text | None, text: str) -> str:
    before = now.text.splitlines(keepends=True) if now else []
    return "".join(difflib.unified_diff(before, text.splitlines(keepends=True), "saved", "yours"))
