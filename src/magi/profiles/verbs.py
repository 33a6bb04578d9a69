"""The verbs that work on profiles: no host is asked; the last look at the hosts tells what they have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from magi.domain import printable, text_table
from magi.errors import ExitCode, UsageError
from magi.profiles import draft, files, migrate
from magi.profiles.resolve import resolve
from magi.profiles.workbench import Workbench
from magi.result import Result


def list_(bench: Workbench) -> Result:
    """The profiles of a folder, broken ones included."""
    folder = bench.folder
    checked = [files.check(path) for path in files.files(folder)]
    rows = [
        (item.name, len(item.profile.entries), item.profile.description or "-")
        if item.profile
        else (item.name, "-", f"broken: {item.remarks[0]}")
        for item in checked
    ]
    data = [
        {
            "name": item.name,
            "path": str(item.path),
            "description": item.profile.description if item.profile else None,
            "valid": item.profile is not None,
        }
        for item in checked
    ]
    lines = text_table(("profile", "entries", "description"), rows) if rows else [f"No profiles in {folder}."]
    return Result.of({"folder": str(folder), "profiles": data}, lines)


def show(bench: Workbench, name: str) -> Result:
    """The instances of a profile on each known host. Raises ProfileError."""
    path, hosts = bench.find(name), bench.hosts
    profile = files.load_profile(path)
    resolutions = [resolve(profile, host) for host in hosts.values()]
    lines = [f"Profile {profile.name}: {printable(profile.description) or 'no description'}"]
    for item in resolutions:
        build = f"llama-server {item.build}" if item.build else "options as given: its llama-server is not known yet"
        lines += ["", f"{item.host} ({build}):"]
        rows = [
            (
                *(one.instance, one.tier, one.port or "free"),
                *(", ".join(f"{k}={v}" for k, v in part.items()) or "-" for part in (one.options, one.environment)),
                ", ".join(one.aliases) or "-",
                str(one.devices or "-"),
                one.where or "-",
            )
            for one in item.instances
        ]
        titles = ("instance", "tier", "port", "options", "environment", "aliases", "devices", "replicas, hosts")
        used = [number for number in range(len(titles)) if number < 4 or any(row[number] != "-" for row in rows)]
        shown = [[row[number] for number in used] for row in rows]
        lines += text_table([titles[number] for number in used], shown) if rows else ["nothing is enabled"]
        lines += [f"  {printable(sentence)}" for sentence in item.missing]
    if not hosts:
        lines += [
            "",
            *map(str, profile.entries),
            "",
            "No host is known yet: run magi discover, or name a registry with --registry.",
        ]
    data = {
        "profile": profile.name,
        "path": str(path),
        "description": profile.description,
        "hosts": [asdict(item) for item in resolutions],
    }
    return Result.of(data, lines)


def validate(bench: Workbench, names: Sequence[str] = ()) -> Result:
    """All mistakes in these profiles, or in all if none is named; exit code 2 if there is any. Raises UsageError."""
    known = tuple(bench.hosts.values())
    checked = [files.check(path, known) for path in bench.paths(names)]
    if not checked:
        raise UsageError(
            f"There is no profile in {bench.folder}: magi profile new writes one, --dir names another folder."
        )
    lines = []
    for item in checked:
        lines += [str(remark) for remark in item.remarks] or [f"{item.path}: ok"]
    data = [
        {"path": str(item.path), "valid": item.profile is not None, "problems": [asdict(one) for one in item.remarks]}
        for item in checked
    ]
    return Result.of(
        {"profiles": data}, lines, ExitCode.OK if all(item.profile for item in checked) else ExitCode.USAGE
    )


def new(bench: Workbench, name: str) -> Result:
    """A new profile that enables every known model. Raises ProfileError."""
    hosts = bench.hosts
    text = draft.draft(name, tuple(hosts.values()))
    path = bench.folder / f"{name}.yml"
    files.write_new(path, text)
    models = sorted({model["id"] for host in hosts.values() for model in host.models})
    said = f"{path} is written; models in it: {len(models)}."
    lines = [f"{said} Remove what you don't want to serve, then run magi plan {name}"]
    return Result.of({"path": str(path), "models": models}, lines)


def migrated(bench: Workbench, source: Path, name: str) -> Result:
    """A new profile from a legacy configuration. Raises UsageError."""
    entries = migrate.read(source)
    result = migrate.migrate(name, source.name, entries, bench.hosts.values())
    path = bench.folder / f"{name}.yml"
    files.write_new(path, result.text)
    matched = [item for item in result.matches if item.model_id]
    data = {
        "path": str(path),
        "entries": [
            {"key": item.entry.key, "model": item.model_id, "port": item.entry.port, "note": item.note}
            for item in result.matches
        ],
    }
    lines = [f"{path} is written, with {len(matched)} of {len(entries)} entries. Look at it, then run magi plan {name}"]
    return Result.of(data, lines + [f"  {remark}" for remark in migrate.remarks(source, result)])
