"""Profiles as files: which there are, what is wrong with one, what one comes to on each host, and a new one.

Works on the controller alone; what the hosts have comes from the catalog.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from magi.domain import (
    FileWriteError,
    InstanceError,
    Profile,
    examine_profile,
    resolve_options,
    write_atomic,
)
from magi.errors import ProfileError
from magi.profiles.documents import DocumentError, Remark, Where, load
from magi.state.catalog import Known

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Checked:
    """A profile's file, read and examined."""

    path: Path
    profile: Profile | None
    remarks: tuple[Remark, ...]
    """What is wrong with it, in the order of its lines."""

    @property
    def name(self) -> str:
        return self.path.stem


def files(folder: Path) -> list[Path]:
    """Return the files of the profiles in ``folder``, sorted by name; those too that no deployment finds since they are
    called .yaml. Raises ProfileError without such a folder."""
    if not folder.is_dir():
        raise ProfileError(
            f"There is no folder {folder}; name that of your profiles (--dir, or for hosts model_server_profiles_dir)."
        )
    return sorted(path for path in folder.iterdir() if path.suffix in (".yml", ".yaml"))


def find(folder: Path, given: str) -> Path:
    """Return the file of a profile that is given by name or by path. Raises ProfileError."""
    path = Path(given) if "/" in given or given.endswith((".yml", ".yaml")) else folder / f"{given}.yml"
    if path.is_file():
        return path
    there = ", ".join(item.stem for item in files(folder) if item.suffix == ".yml") or "none"
    raise ProfileError(f"Profile {given} not found: there is no {path}. Profiles in {folder}: {there}.")


def check(path: Path, hosts: Iterable[Known] = ()) -> Checked:
    """Read a profile's file and say all that is wrong with it; options are checked against the builds of ``hosts``."""
    try:
        document = load(path)
    except DocumentError as error:
        return Checked(path, None, (error.remark,))
    profile, problems = examine_profile(path.stem, document.data)
    found = [(problem.where, problem.message) for problem in problems]
    found += [(where, f'duplicate key "{where[-1]}"; keep one.') for where in document.repeated]
    if not NAME.fullmatch(path.stem) or path.suffix != ".yml":
        found.append(((), "a profile's file is called <name>.yml, the name of letters, digits, '.', '_' and '-'."))
    found += _unknown_options(profile, hosts)
    remarks = sorted({document.remark(where, message) for where, message in found}, key=lambda r: (r.line or 0, str(r)))
    return Checked(path, None if remarks else profile, tuple(remarks))


def _unknown_options(profile: Profile | None, hosts: Iterable[Known]) -> Iterator[tuple[Where, str]]:
    if profile is None:
        return
    layers: list[tuple[Where, str, Mapping[str, Any]]] = [(("options",), "options", profile.options)]
    layers += [
        (("enabled_models", index, "options"), f"entry {index + 1}", entry.options)
        for index, entry in enumerate(profile.entries)
    ]
    for binary in {host.binary for host in hosts if host.binary}:
        for where, what, options in layers:
            for key, value in options.items():
                try:
                    resolve_options(binary, [(what, {str(key): value})])
                except InstanceError as error:
                    yield (*where, key), str(error)


def load_profile(path: Path) -> Profile:
    """Return the profile of a file. Raises ProfileError with the first that is wrong, and how much more is."""
    checked = check(path)
    if checked.profile:
        return checked.profile
    more = len(checked.remarks) - 1
    raise ProfileError(f"{checked.remarks[0]}" + (f" ({more} more: magi profile validate {path})" if more else ""))


def write_new(path: Path, text: str) -> None:
    """Write a profile that is not there yet, whole or not at all. Raises ProfileError."""
    try:
        write_atomic(path, text.encode(), 0o644, replace=False)
    except FileWriteError as error:
        if error.errno == errno.EEXIST:
            raise ProfileError(f"{path} exists and stays as it is; give another name, or remove it.") from None
        if error.errno == errno.ENOENT:
            raise ProfileError(f"There is no folder {path.parent}; make it, or name another with --dir.") from None
        raise ProfileError(str(error)) from None
