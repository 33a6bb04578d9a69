"""Profiles as files: which there are, what is wrong with one, what one comes to on each host, and a new one.

Works on the controller alone; what the hosts have comes from the catalog.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from magi.catalog import Known
from magi.documents import DocumentError, Remark, Where, load
from magi.domain import (
    FileWriteError,
    InstanceError,
    Model,
    PlanError,
    Profile,
    Rejected,
    Wanted,
    examine_profile,
    option_layers,
    printable,
    resolve_options,
    select_models,
    write_atomic,
)
from magi.errors import ProfileError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


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
    if not _NAME.fullmatch(path.stem) or path.suffix != ".yml":
        found.append(((), "a profile's file is called <name>.yml, the name of letters, digits, '.', '_' and '-'."))
    found += _unknown_options(profile, hosts)
    remarks = sorted({document.remark(where, message) for where, message in found}, key=lambda r: (r.line or 0, str(r)))
    return Checked(path, None if remarks else profile, tuple(remarks))


def _unknown_options(profile: Profile | None, hosts: Iterable[Known]) -> Iterator[tuple[Where, str]]:
    if profile is None:
        return
    layers = [(("options",), "options", profile.options)]
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


# ---- what a profile comes to ------------------------------------------------------------------------


@dataclass(frozen=True)
class Resolved:
    """One instance that a profile enables on a host."""

    instance: str
    model_id: str
    tier: str
    port: int | None
    """None: the first free one of the host's range."""
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Resolution:
    """What a profile comes to on one host."""

    host: str
    instances: tuple[Resolved, ...]
    missing: tuple[str, ...]
    """A sentence for each entry that finds nothing there."""
    build: str | None
    """The llama-server that the options were resolved for; None: none is known, so they stand as given."""


def resolve(profile: Profile, host: Known) -> Resolution:
    """Return what ``profile`` enables on ``host`` and with which options: profile < host < entry.

    Raises ProfileError for an option that the host's llama-server does not take.
    """

    def options_of(item: Wanted) -> dict[str, Any]:
        return resolve_options(host.binary, option_layers(profile, host.name, host.options, item))

    try:
        wanted, missing = select_models(
            profile, tuple(map(Model.from_dict, host.models)), tuple(Rejected(**x) for x in host.rejected), host.name
        )
        instances = tuple(
            Resolved(item.name, item.model.id, item.model.tier, item.port, options_of(item)) for item in wanted
        )
    except (PlanError, InstanceError) as error:
        raise ProfileError(f"Host {host.name}: {error}") from None
    return Resolution(host.name, instances, tuple(missing), host.binary.version if host.binary else None)


# ---- a new one --------------------------------------------------------------------------------------


def scalar(text: str) -> str:
    """Return ``text`` as YAML that is read back as this text, quoted only where it must be."""
    try:
        plain = bool(re.fullmatch(r"[\w.-]+", text, re.ASCII)) and yaml.safe_load(text) == text
    except (yaml.YAMLError, ValueError):
        plain = False
    return text if plain else json.dumps(text)


def draft(name: str, hosts: Sequence[Known]) -> str:
    """Return the text of a profile that enables every model of ``hosts``, with comments that say what else it can.

    Depends on nothing but its arguments. Raises ProfileError for a name that can't be one, and without models.
    """
    if not _NAME.fullmatch(name):
        raise ProfileError(f"A profile's name has letters, digits, '.', '_' and '-', unlike {name!a}.")
    models: dict[tuple[str, str], tuple[Mapping[str, Any], list[str]]] = {}
    for host in sorted(hosts, key=lambda host: host.name):
        for model in host.models:
            models.setdefault((model["tier"], model["id"]), (model, []))[1].append(host.name)
    if not models:
        raise ProfileError("No model is known: run magi discover, or name a registry with --registry.")
    lines = [
        f"# Every model of {', '.join(sorted(host.name for host in hosts))}. Remove what shall not be served.",
        f"name: {scalar(name)}",
        "description: Every discovered model",
        "enabled_models:",
    ]
    tier = None
    for (this, model_id), (model, where) in sorted(models.items()):
        if this != tier:
            lines.append(f"  # {printable(this)}; all of this tier, whatever is found: - tier: {printable(this)}")
            tier = this
        size = f"{model['size_bytes'] / 2**30:.1f} GiB"
        on = f", only on {', '.join(where)}" if len(where) < len(hosts) else ""
        lines.append(f"  - {scalar(model_id)}  # {printable(model['display_name'])}, {size}{on}")
    example = scalar(min(models)[1])
    lines += [
        "  # Two instances of one model, the first on a fixed port, with options of llama-server:",
        f"  # - model: {example}",
        "  #   instances: 2",
        "  #   port: 8080",
        "  #   options: {ctx_size: 8192}",
        "# For every instance; the long options of llama-server, with underscores:",
        "# options: {parallel: 2}",
        "# true: fail where a model is missing or a server does not start.",
        "strict: false",
    ]
    return "\n".join(lines) + "\n"


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
