"""Profiles as files: finding them, what is wrong with one, and a new one. No host is asked."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from magi.domain import (
    IDLE,
    Checked,
    Entry,
    FileWriteError,
    InstanceError,
    Profile,
    Where,
    check_profile,
    resolve_options,
    write_atomic,
)
from magi.errors import ProfileError
from magi.state.catalog import Known


def files(folder: Path) -> list[Path]:
    """Return the files of the profiles in ``folder``, sorted by name, also those called .yaml, which no deployment
    finds. Raises ProfileError without such a folder."""
    if not folder.is_dir():
        raise ProfileError(
            f"There is no folder {folder}; name that of your profiles (--dir, or for hosts model_server_profiles_dir)."
        )
    return sorted(path for path in folder.iterdir() if path.suffix in (".yml", ".yaml"))


def find(folder: Path, given: str) -> Path:
    """Return the file of a profile by name or path. Raises ProfileError."""
    path = Path(given) if "/" in given or given.endswith((".yml", ".yaml")) else folder / f"{given}.yml"
    if path.is_file():
        return path
    there = ", ".join(item.stem for item in files(folder) if item.suffix == ".yml") or "none"
    raise ProfileError(f"Profile {given} not found: there is no {path}. Profiles in {folder}: {there}.")


def check(path: Path, hosts: Iterable[Known] = ()) -> Checked:
    """Read a profile's file and say all that is wrong with it; options are checked against the builds of ``hosts``."""
    return check_profile(path, lambda profile: _unknown_options(profile, hosts))


def _unknown_options(profile: Profile, hosts: Iterable[Known]) -> Iterator[tuple[Where, str]]:
    enabled = [entry for entry in profile.entries if entry.kind != "pool"]
    pools = [entry for entry in profile.entries if entry.kind == "pool"]
    places: list[tuple[Where, str, Entry]] = [
        *((("enabled_models", index), f"entry {index + 1}", entry) for index, entry in enumerate(enabled)),
        *((("pools", index), str(pool), pool) for index, pool in enumerate(pools)),
    ]
    layers: list[tuple[Where, str, Mapping[str, Any]]] = [(("options",), "options", profile.options)]
    layers += [((*where, "options"), what, entry.options) for where, what, entry in places]
    layers += [((*where, "idle"), what, {IDLE: entry.idle}) for where, what, entry in places if entry.idle is not None]
    for index, pool in enumerate(pools):
        for number, entry in enumerate(pool.members):
            own = {key: value for key, value in entry.options.items() if key not in pool.options}
            layers.append((("pools", index, "models", number, "options"), f"{pool}, model {number + 1}", own))
    for binary in {host.binary for host in hosts if host.binary}:
        for where, what, options in layers:
            for key, value in options.items():
                try:
                    resolve_options(binary, [(what, {str(key): value})])
                except InstanceError as error:
                    yield (*where, key), str(error)


def load_profile(path: Path) -> Profile:
    """Return the profile of a file. Raises ProfileError with the first mistake, and how many more there are."""
    checked = check(path)
    if checked.profile:
        return checked.profile
    more = len(checked.remarks) - 1
    raise ProfileError(f"{checked.remarks[0]}" + (f" ({more} more: magi profile validate {path})" if more else ""))


def write_new(path: Path, text: str) -> None:
    """Write a new profile, whole or not at all. Raises ProfileError."""
    try:
        write_atomic(path, text.encode(), 0o644, replace=False)
    except FileWriteError as error:
        if error.errno == errno.EEXIST:
            raise ProfileError(f"{path} exists and stays as it is; give another name, or remove it.") from None
        if error.errno == errno.ENOENT:
            raise ProfileError(f"There is no folder {path.parent}; make it, or name another with --dir.") from None
        raise ProfileError(str(error)) from None
