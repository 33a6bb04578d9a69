"""The instances that a profile enables on each host, with their options and variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from magi.domain import (
    Entry,
    InstanceError,
    Inventory,
    PlanError,
    Profile,
    Wanted,
    option_layers,
    resolve_options,
    select_models,
    variables_of,
)
from magi.errors import ProfileError
from magi.state.catalog import Known


@dataclass(frozen=True)
class Resolved:
    """One instance that a profile enables on a host."""

    instance: str
    model_id: str
    tier: str
    port: int | None
    """None: the first free one of the host's range."""
    options: Mapping[str, Any]
    environment: Mapping[str, str]
    aliases: tuple[str, ...]
    devices: int | None = None
    """How many GPUs the plan chooses for it; None: as many as it takes, or those that the options name."""
    where: str = ""
    """Over which hosts how many run, where the fleet decides that; the pool that it is a model of; else empty."""


@dataclass(frozen=True)
class Resolution:
    """The instances of a profile on one host, and the models of its pools."""

    host: str
    instances: tuple[Resolved, ...]
    missing: tuple[str, ...]
    """A sentence for each entry that finds nothing there."""
    build: str | None
    """The llama-server that the options were resolved for; None: none is known, so they are as given."""


def _where(entry: Entry) -> str:
    if entry.kind == "pool":
        return f"{entry}, {entry.loaded} at a time"
    if entry.rpc:
        return f"{entry.hosts or 'one host'}, with workers on {', '.join(entry.rpc)}"
    if entry.replicas is None:
        return entry.hosts or ""
    return f"{entry.replicas} over {entry.hosts or 'all hosts'}"


def resolve(profile: Profile, host: Known) -> Resolution:
    """Return what ``profile`` enables on ``host`` and with which options: profile < host < entry.

    Raises ProfileError for an option that the host's llama-server does not take.
    """

    def options_of(item: Wanted) -> dict[str, Any]:
        return resolve_options(host.binary, option_layers(profile, host.name, host.options, item))

    try:
        there = Inventory.from_dict({"models": host.models, "rejected": host.rejected, "companions": host.companions})
        wanted, missing = select_models(profile, there.models, (*there.rejected, *there.companions), host.name)
        instances = tuple(
            Resolved(
                part.name,
                part.model.id,
                part.model.tier,
                item.port,
                options_of(part),
                variables_of(profile, host.environment, part),
                part.entry.aliases,
                item.entry.devices,
                _where(item.entry),
            )
            for item in wanted
            for part in item.each
        )
    except (PlanError, InstanceError) as error:
        raise ProfileError(f"Host {host.name}: {error}") from None
    return Resolution(host.name, instances, tuple(missing), host.binary.version if host.binary else None)
