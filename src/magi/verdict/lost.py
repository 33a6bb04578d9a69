"""Hosts that were lost in a run, and what they said."""

from __future__ import annotations

from collections.abc import Iterable

from magi.errors import DeploymentFailed, HostUnreachable, MagiError, ProfileError, UsageError
from magi.events import Event, Run, said

USAGE: dict[str, type[UsageError]] = {"magi.models.settings_info": UsageError, "magi.models.profile_info": ProfileError}
"""What fails in these was never a host's fault."""


def once(sentences: Iterable[str]) -> str:
    """Return the sentences, each once: hosts that fail alike say the same."""
    return " ".join(dict.fromkeys(filter(None, sentences)))


def told(failure: Event) -> str:
    """Return what a failure says; of what is no host's, with the host that has it so."""
    sentence = said(failure.result)
    return f"Host {failure.host}: {sentence}" if failure.action in USAGE else sentence


def not_reached(run: Run) -> str:
    """Return the sentence on the hosts that could not be reached; empty where all were."""
    if not run.unreachable:
        return ""
    from magi.domain import way_to_reach

    reasons = "; ".join(f"{host}: {why.rstrip('.')}" for host, why in run.unreachable.items())
    remedy = way_to_reach(reasons, "bring them back")
    return f"Not reached: {reasons}. {remedy[0].upper()}{remedy[1:]} and run again."


def lost(run: Run) -> MagiError | None:
    """Return what to raise for a run that has no result, or to say beside one: hosts were lost, or failed."""
    problem = once([not_reached(run), *map(told, run.failures)])
    kind = HostUnreachable if run.unreachable else DeploymentFailed
    return kind(problem) if problem else None
