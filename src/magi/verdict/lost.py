"""Hosts that were lost in a run, and what they said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from magi.errors import DeploymentFailed, HostUnreachable, MagiError, ProfileError, UsageError
from magi.events import Event, Run, said
from magi.result import Result

USAGE: dict[str, type[UsageError]] = {"magi.models.settings_info": UsageError, "magi.models.profile_info": ProfileError}
"""A failure of these is not a host's fault."""
RAISED = "Module failed: "
"""How Ansible begins the message of a module that raised something; those of ours name their host."""


def once(sentences: Iterable[str]) -> str:
    """Return the sentences, each once: hosts with the same failure say the same."""
    return " ".join(dict.fromkeys(filter(None, sentences)))


def told(failure: Event) -> str:
    """Return the message of a failure, with the host if the message lacks it."""
    from magi.domain import way_to_root

    sentence = said(failure.result)
    raised = sentence.removeprefix(RAISED)
    way = way_to_root(raised)
    if way:
        return f"Host {failure.host}: {raised.rstrip('.')}; {way} and run again."
    return f"Host {failure.host}: {raised}" if raised != sentence or failure.action in USAGE else sentence


def not_reached(run: Run) -> str:
    """Return the sentence on hosts that could not be reached, or an empty string."""
    if not run.unreachable:
        return ""
    from magi.domain import way_to_reach

    reasons = "; ".join(f"{host}: {why.rstrip('.')}" for host, why in run.unreachable.items())
    ways = dict.fromkeys(way_to_reach(why, "bring them back") for why in run.unreachable.values())
    remedy = "; ".join(ways)
    return f"Not reached: {reasons}. {remedy[0].upper()}{remedy[1:]} and run again."


def lost(run: Run) -> MagiError | None:
    """Return what to raise for a run without a result, or to say along with one: hosts were lost, or failed."""
    problem = once([not_reached(run), *map(told, run.failures)])
    kind = HostUnreachable if run.unreachable else DeploymentFailed
    return kind(problem) if problem else None


def beside(error: MagiError | None, found: Result) -> Result:
    """Return what was found on some hosts, with what happened to the others."""
    return replace(found, exit_code=error.exit_code, problem=str(error)) if error else found
