"""What a verb comes to: a document for programs, lines for people, and the exit code. Runs and prints nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from magi import config, doctor, instances, migrate, profiles
from magi.catalog import Known
from magi.domain import counted, printable, text_table
from magi.errors import ExitCode, MagiError


@dataclass(frozen=True)
class View:
    document: Mapping[str, Any]
    lines: Sequence[str]
    """The same for people."""
    exit_code: ExitCode = ExitCode.OK


# ---- profiles ---------------------------------------------------------------------------------------


def profile_list(folder: Path) -> View:
    """The profiles of a folder; one that is broken is listed too."""
    checked = [profiles.check(path) for path in profiles.files(folder)]
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
    return View({"folder": str(folder), "profiles": data}, lines)


def profile_show(path: Path, hosts: Mapping[str, Known]) -> View:
    """What a profile comes to on each host that is known. Raises ProfileError."""
    profile = profiles.load_profile(path)
    resolutions = [profiles.resolve(profile, host) for host in hosts.values()]
    lines = [f"Profile {profile.name}: {printable(profile.description) or 'no description'}"]
    for item in resolutions:
        build = f"llama-server {item.build}" if item.build else "options as given: its llama-server is not known yet"
        lines += ["", f"{item.host} ({build}):"]
        rows = [
            (one.instance, one.tier, one.port or "free", ", ".join(f"{k}={v}" for k, v in one.options.items()) or "-")
            for one in item.instances
        ]
        lines += text_table(("instance", "tier", "port", "options"), rows) if rows else ["nothing is enabled"]
        lines += [f"  {printable(sentence)}" for sentence in item.missing]
    if not hosts:
        lines += ["", *map(str, profile.entries), "", "No host is known yet: magi discover, or --registry FILE."]
    data = {
        "profile": profile.name,
        "path": str(path),
        "description": profile.description,
        "hosts": [asdict(item) for item in resolutions],
    }
    return View(data, lines)


def profile_validate(paths: Iterable[Path], hosts: Iterable[Known]) -> View:
    """All that is wrong with some profiles; the exit code is 2 where anything is."""
    known = tuple(hosts)
    checked = [profiles.check(path, known) for path in paths]
    lines = []
    for item in checked:
        lines += [str(remark) for remark in item.remarks] or [f"{item.path}: ok"]
    data = [
        {"path": str(item.path), "valid": item.profile is not None, "problems": [asdict(one) for one in item.remarks]}
        for item in checked
    ]
    return View({"profiles": data}, lines, ExitCode.OK if all(item.profile for item in checked) else ExitCode.USAGE)


def profile_new(folder: Path, name: str, hosts: Mapping[str, Known]) -> View:
    """A new profile in ``folder`` that enables every known model. Raises ProfileError."""
    text = profiles.draft(name, tuple(hosts.values()))
    path = folder / f"{name}.yml"
    profiles.write_new(path, text)
    models = sorted({model["id"] for host in hosts.values() for model in host.models})
    lines = [f"{path} is written; models in it: {len(models)}. Remove what shall not be served, then: magi plan {name}"]
    return View({"path": str(path), "models": models}, lines)


def migrated(source: Path, folder: Path, name: str, hosts: Mapping[str, Known]) -> View:
    """A new profile from a legacy configuration. Raises UsageError."""
    entries = migrate.read(source)
    result = migrate.migrate(name, source.name, entries, hosts.values())
    path = folder / f"{name}.yml"
    profiles.write_new(path, result.text)
    matched = [item for item in result.matches if item.model_id]
    data = {
        "path": str(path),
        "entries": [
            {"key": item.entry.key, "model": item.model_id, "port": item.entry.port, "note": item.note}
            for item in result.matches
        ],
    }
    lines = [f"{path} is written, with {len(matched)} of {len(entries)} entries. Look at it, then: magi plan {name}"]
    return View(data, lines + [f"  {remark}" for remark in migrate.remarks(source, result)])


# ---- settings and doctor ----------------------------------------------------------------------------


def settings(results: Iterable[tuple[str, Mapping[str, Any]]], dotenv: Collection[str]) -> View:
    """The merged settings of the hosts that ``results`` are of, with their sources."""
    hosts = config.config(results, dotenv)
    rows = [
        (
            row.setting if row.everywhere else f"{row.setting} ({', '.join(row.hosts)})",
            _shown(row.value.value),
            row.value.source if row.value.source == "default" else f"{row.value.source} {row.value.name}",
        )
        for row in config.rows(hosts)
    ]
    data = {host: {name: asdict(value) for name, value in values.items()} for host, values in hosts.items()}
    return View({"hosts": data}, text_table(("setting", "value", "from"), rows))


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_shown(part)}" for key, part in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "-"
    return str(value).lower() if isinstance(value, bool) else str(value)


_MARKS = {doctor.OK: "ok", doctor.WARNING: "warning", doctor.PROBLEM: "PROBLEM"}


def diagnosis(findings: Sequence[doctor.Finding], strict: bool = False) -> View:
    """The findings of the doctor; the exit code is 1 where there is a problem, or with ``strict`` a warning."""
    lines = []
    for host in dict.fromkeys(finding.host for finding in findings):
        lines += ["", f"{host or 'This machine'}:"]
        lines += [f"  {_MARKS[item.severity]:8} {printable(item.message)}" for item in findings if item.host == host]
    problems = sum(item.severity == doctor.PROBLEM for item in findings)
    warnings = sum(item.severity == doctor.WARNING for item in findings)
    lines += ["", f"Problems: {problems}, warnings: {warnings}."]
    bad = problems or (strict and warnings)
    data = {"problems": problems, "warnings": warnings, "findings": [asdict(item) for item in findings]}
    return View(data, lines[1:], ExitCode.FAILED if bad else ExitCode.OK)


# ---- instances --------------------------------------------------------------------------------------


def logs(name: str, results: Iterable[tuple[str, Mapping[str, Any]]]) -> View:
    """What an instance printed, on each host that has it. Raises InstanceNameError where none has."""
    found = {host: result for host, result in results if "instances" in result and "log" in result}
    printed = {host: result["log"] for host, result in found.items() if result["log"] is not None}
    if not printed:
        raise instances.missing(name, {host: result["instances"] for host, result in found.items()})
    several = len(printed) > 1
    lines = [
        f"{host} | {printable(line.expandtabs())}" if several else printable(line.expandtabs())
        for host, log in printed.items()
        for line in log
    ]
    return View({"instance": name, "hosts": printed}, lines)


def answer(name: str, results: Iterable[tuple[str, Mapping[str, Any]]]) -> View:
    """What an instance answered. Raises InstanceNameError where no host serves it."""
    present: dict[str, list[str]] = {}
    for host, result in results:
        for item in (result.get("host") or {}).get("instances") or ():
            present.setdefault(host, []).append(item["name"])
        if "finish_reason" in result:
            others = [other for other in result.get("serving") or () if other != host]
            speed = result["tokens_per_second"]
            line = f"{host}: {counted(result['tokens'], 'token')}" + (f", {speed:.1f} tokens/s" if speed else "")
            if result["finish_reason"] == "length":
                line += "; cut at --max-tokens"
            if others:
                line += f"; also served on {', '.join(others)} (--limit asks there)"
            keys = ("text", "reasoning", "finish_reason", "tokens", "tokens_per_second")
            data = {"instance": name, "host": host, "also_on": others, **{key: result[key] for key in keys}}
            return View(data, [line])
    if any(name in names for names in present.values()):
        where = ", ".join(host for host, names in present.items() if name in names)
        raise MagiError(f"Instance {name} on {where} does not answer; magi status and magi doctor say why.")
    raise instances.missing(name, present)
