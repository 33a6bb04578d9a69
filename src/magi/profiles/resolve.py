"""What a profile results in on each host: its instances, with their options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from magi.domain import InstanceError, PlanError, Profile, Wanted, enabled, resolve_options
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
    try:
        wanted, missing = enabled(profile, host.models, host.rejected, host.name)
        instances = tuple(
            Resolved(item.name, item.model["id"], item.model["tier"], item.port, _options(profile, host, item))
            for item in wanted
        )
    except (PlanError, InstanceError) as error:
        raise ProfileError(f"Host {host.name}: {error}") from None
    return Resolution(host.name, instances, tuple(missing), host.binary.version if host.binary else None)


def _options(profile: Profile, host: Known, item: Wanted) -> dict[str, Any]:
    layers = (
        (f"Profile {profile.name}, options", profile.options),
        (f"Host {host.name}, model_server_options", host.options),
        (item.where, item.entry.options),
    )
    if host.binary:
        return resolve_options(host.binary, layers)
    merged = {key.replace("-", "_"): value for _where, options in layers for key, value in options.items()}
    return {key: value for key, value in merged.items() if value is not None}
