"""Hosts that were lost in a run, and what they said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def shared(said: Iterable[tuple[str, str]]) -> str:
    """Return the sentences of hosts, each once: what several hosts say has their names before it."""
    alike: dict[tuple[bool, str], dict[str, None]] = {}
    for host, sentence in said:
        rest = sentence.removeprefix(f"Host {host}: ")
        alike.setdefault((rest != sentence, rest), {})[host] = None
    return once(f"{_hosts([*names])}: {rest}" if named else rest for (named, rest), names in alike.items())


def _hosts(names: Sequence[str]) -> str:
    return f"Host {names[0]}" if len(names) == 1 else f"{len(names)} hosts ({', '.join(names)})"


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

    ways: dict[str, list[tuple[str, str]]] = {}
    for host, why in run.unreachable.items():
        ways.setdefault(way_to_reach(why, "bring them back"), []).append((host, why.rstrip(".")))
    # What has the same remedy is said once, in the words of the first host.
    reasons = "; ".join(
        f"{hosts[0][0]}: {hosts[0][1]}"
        if len(hosts) == 1
        else f"{_hosts([host for host, _why in hosts])}, the first: {hosts[0][1]}"
        for hosts in ways.values()
    )
    remedy = "; ".join(ways)
    return f"Not reached: {reasons}. {remedy[0].upper()}{remedy[1:]} and run again."


def lost(run: Run) -> MagiError | None:
    """Return what to raise for a run without a result, or to say along with one: hosts were lost, or failed."""
    problem = once([not_reached(run), shared((item.host, told(item)) for item in run.failures)])
    kind = HostUnreachable if run.unreachable else DeploymentFailed
    return kind(problem) if problem else None


def beside(error: MagiError | None, found: Result) -> Result:
    """Return what was found on some hosts, with what happened to the others."""
    return replace(found, exit_code=error.exit_code, problem=str(error)) if error else found
