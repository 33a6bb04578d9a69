# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Profiles as files: a deployment, the verbs and plain Ansible all read them here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.magi.models.plugins.module_utils._config.profile import Profile, examine_profile
from ansible_collections.magi.models.plugins.plugin_utils._profiles.document import (
    DocumentError,
    Remark,
    Where,
    read_document,
)


class ProfileLoadError(ValueError):
    """A profile can't be used; the message names its file and line, what is wrong and the remedy."""


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""The names that a profile may have."""


@dataclass(frozen=True)
class Checked:
    """A profile file, read and checked."""

    path: Path
    profile: Profile | None
    """None if anything is wrong with it."""
    remarks: tuple[Remark, ...]
    """What is wrong, in order of lines."""

    @property
    def name(self) -> str:
        return self.path.stem


def check_profile(path: Path, further: Callable[[Profile], Iterable[tuple[Where, str]]] = lambda _: ()) -> Checked:
    """Return a profile file with all its mistakes. If there are none, ``further`` may find more: pairs of a place in
    the document and a sentence."""
    try:
        # Plain YAML, not Ansible's: a profile is data, and no template in it ever runs.
        document = read_document(path)
    except DocumentError as error:
        return Checked(path, None, (error.remark,))
    profile, problems = examine_profile(path.stem, document.data)
    found = [(problem.where, problem.message) for problem in problems]
    found += [(where, f'duplicate key "{where[-1]}"; keep one.') for where in document.repeated]
    if not NAME.fullmatch(path.stem) or path.suffix != ".yml":
        what = "a profile's file must be called <name>.yml, with a name of letters, digits, '.', '_' and '-'."
        found.append(((), what))
    found += further(profile) if profile else ()
    remarks = sorted({document.remark(*item) for item in found}, key=lambda r: (r.line or 0, str(r)))
    return Checked(path, None if remarks else profile, tuple(remarks))


def load_profile(path: Path) -> Profile:
    """Return the profile in a file. Raises ProfileLoadError."""
    checked = check_profile(path)
    if checked.profile is None:
        raise ProfileLoadError(f"Profile {checked.name}: {' '.join(map(str, checked.remarks))}")
    return checked.profile


def find_profile(folder: Path, name: str) -> Path:
    """Return the file of the profile ``name``. Raises ProfileLoadError, which names the profiles that exist."""
    path = folder / f"{name}.yml"
    if path.is_file():
        return path
    there = ", ".join(sorted(item.stem for item in folder.glob("*.yml"))) or "none"
    raise ProfileLoadError(f"Profile {name} not found: there is no {path}. Profiles there: {there}.")
