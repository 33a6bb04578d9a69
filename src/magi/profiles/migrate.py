"""From the configuration of the older service to a profile with the same ports.

That configuration is YAML or JSON with ``models``: by a key such as ``Q2_FAST_1`` an entry with the model's ``name``,
its ``tier``, and where it was served: ``url`` and ``port``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from magi.domain import Document, DocumentError, Remark, file_stem, model_slug, printable, read_document
from magi.errors import UsageError
from magi.profiles.draft import scalar
from magi.state.catalog import Known

# A tier as people write it: Q2 in "Q2", "Q2_K", "IQ2_XS" and "Q2_FAST_1".
_TIER = re.compile(r"(?:^|[^A-Za-z0-9])I?(Q[1-8]|B?F16|F32)(?![A-Za-z0-9])", re.IGNORECASE)


class MigrationError(UsageError):
    """A legacy configuration can't be used; the message names the file, the line and the remedy."""


@dataclass(frozen=True)
class Legacy:
    """One entry of a legacy configuration."""

    key: str
    line: int | None
    name: str
    tier: str | None
    port: int | None
    server: str
    """The host of its URL; empty without one."""


@dataclass(frozen=True)
class Match:
    entry: Legacy
    model_id: str | None
    note: str | None = None
    """What people should know: why there is no model, or the reason for the choice."""


@dataclass(frozen=True)
class Migration:
    text: str
    """The profile."""
    matches: tuple[Match, ...]


def read(path: Path) -> tuple[Legacy, ...]:
    """Return the entries of a legacy configuration. Raises MigrationError."""
    try:
        document = read_document(path)
    except DocumentError as error:
        raise MigrationError(str(error)) from None
    models = document.data.get("models") if isinstance(document.data, Mapping) else None
    if not isinstance(models, Mapping) or not models:
        hint = 'it has no entries under "models"; it needs models: {Q2_FAST_1: {name, tier, url, port}}.'
        raise MigrationError(str(document.remark(("models",), hint)))
    if document.repeated:
        where = document.repeated[0]
        raise MigrationError(str(document.remark(where, f'duplicate key "{where[-1]}"; keep one.')))
    return tuple(_entry(document, key, value) for key, value in models.items())


def _entry(document: Document, key: Any, value: Any) -> Legacy:
    where = ("models", key)

    def refuse(part: str | None, what: str) -> MigrationError:
        remark = document.remark((*where, part) if part else where, f"{key}: {what}")
        return MigrationError(str(remark))

    if not isinstance(value, Mapping):
        raise refuse(None, f"it must be a mapping with name, tier, url and port, not {value!r}.")
    for part in ("name", "tier", "url"):
        if not isinstance(value.get(part), str | None):
            raise refuse(part, f"{part} must be a string, not {value[part]!r}.")
    name, tier, url = ((value.get(part) or "").strip() for part in ("name", "tier", "url"))
    if not name:
        raise refuse("name", "it has no name, so no model can be found for it; add the model's name.")
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        server, from_url = parts.hostname or "", parts.port
    except ValueError as error:
        raise refuse("url", f"url {url!r} is not a URL ({error}).") from None
    port = value.get("port", from_url)
    if isinstance(port, str) and port.isascii() and port.isdigit():
        port = int(port)
    if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535):
        raise refuse("port", f"port must be a number from 1 to 65535, not {port!r}.")
    if from_url is not None and port != from_url:
        raise refuse("port", f"port {port} is not that of its url {url}; make the two equal.")
    bits = _TIER.search(tier) or _TIER.search(str(key))
    line = document.remark(where, "").line
    return Legacy(printable(str(key)), line, name, bits.group(1).upper() if bits else None, port, server)


def match(entry: Legacy, models: Sequence[Mapping[str, Any]]) -> Match:
    """Return the model that ``entry`` means, among the ones that were discovered.

    The first of these rules that finds any model decides, and must leave one: the entry's name is the model's id; the
    file's name; the display name; or all its words are in the model's names. If several are left, the tier decides.
    """
    what = f"{entry.key} ({printable(entry.name)})"
    for ways in (_is_id, _is_file, _is_display_name, _has_words):
        found = [model for model in models if ways(entry.name, model)]
        if not found:
            continue
        of_tier = [model for model in found if model["tier"] == entry.tier] if entry.tier else found
        ids = sorted(model["id"] for model in of_tier or found)
        if not of_tier:
            return Match(
                entry, None, f"{what}: {', '.join(ids)} has its name, but is not of tier {entry.tier}; no entry."
            )
        if len(ids) > 1:
            return Match(entry, None, f"{what}: several models have its name: {', '.join(ids)}; choose one.")
        note = f"{what}: taken for {ids[0]} by the words of its name; check that." if ways is _has_words else None
        return Match(entry, ids[0], note)
    tier = f" of tier {entry.tier}" if entry.tier else ""
    there = ", ".join(sorted(model["id"] for model in models if entry.tier in (None, model["tier"]))) or "none"
    return Match(entry, None, f"{what}: no discovered model has its name; discovered{tier}: {there}.")


def _is_id(name: str, model: Mapping[str, Any]) -> bool:
    return bool(model_slug(name) == model["id"])


def _is_file(name: str, model: Mapping[str, Any]) -> bool:
    return model_slug(file_stem(name)) == model_slug(file_stem(model["path"]))


def _is_display_name(name: str, model: Mapping[str, Any]) -> bool:
    shown = model["display_name"]
    return model_slug(name) in (model_slug(shown), model_slug(re.sub(r" \([^()]*\)$", "", shown)))


def _has_words(name: str, model: Mapping[str, Any]) -> bool:
    words = _words(name)
    return bool(words) and words <= _words(f"{model['id']} {model['display_name']} {file_stem(model['path'])}")


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower()))


def migrate(name: str, source: str, entries: Iterable[Legacy], hosts: Iterable[Known]) -> Migration:
    """Return the profile ``name`` for the entries of the file ``source``. Raises MigrationError when none matches."""
    models = {model["id"]: model for host in hosts for model in host.models}
    if not models:
        remedy = "run magi discover, or name a registry with --registry"
        raise MigrationError(f"{source}: no model is known, so nothing is written; {remedy}.")
    matches = tuple(_without_conflicts(match(entry, tuple(models.values())) for entry in entries))
    if not any(item.model_id for item in matches):
        notes = " ".join(item.note for item in matches if item.note)
        raise MigrationError(
            f"{source}: none of its entries matches a discovered model, so nothing is written. {notes}"
        )
    lines = [
        f"# From {printable(source)}, by magi migrate: the same models on the same ports.",
        f"name: {scalar(name)}",
        "description: " + scalar(f"As in {source}"),
        "enabled_models:",
    ]
    for item in matches:
        if item.note:
            lines.append(f"  # {item.note}")
        if item.model_id and item.entry.port is not None:
            lines.append(f"  - {{model: {scalar(item.model_id)}, port: {item.entry.port}}}  # {item.entry.key}")
        elif item.model_id:
            lines.append(f"  - {scalar(item.model_id)}  # {item.entry.key}")
    return Migration("\n".join(lines) + "\n", matches)


def _without_conflicts(matches: Iterable[Match]) -> Iterator[Match]:
    """A profile applies to every host: the same server on several hosts is one entry, and a port belongs to one
    model."""
    holders: dict[int, Match] = {}
    for item in matches:
        port = item.entry.port
        holder = holders.get(port) if port is not None and item.model_id else None
        if holder is None:
            if port is not None and item.model_id:
                holders[port] = item
            yield item
        elif holder.model_id == item.model_id:
            note = f"the same model and port as {holder.entry.key}, so one entry is enough"
            yield Match(item.entry, None, f"{item.entry.key}: {note}.")
        elif holder.entry.server == item.entry.server:
            note = f"port {port} is that of {holder.entry.key} already; give {item.model_id} another"
            yield Match(item.entry, None, f"{item.entry.key}: {note}.")
        else:
            note = f"shares port {port} with {holder.entry.key}, which was on another host: keep each to its own host"
            yield Match(item.entry, item.model_id, f"{item.entry.key}: {note}.")


def remarks(path: Path, migration: Migration) -> list[Remark]:
    """Return the notes with their lines in the file."""
    return [Remark(str(path), item.entry.line, item.note) for item in migration.matches if item.note]
