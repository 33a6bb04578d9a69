"""Whether a run can be believed: it finished, or why it did not."""

from __future__ import annotations

import re
from collections.abc import Sequence

from magi.errors import DeploymentFailed, Interrupted, ProfileError, UsageError
from magi.events import Event, Run, complaints, said
from magi.verdict.lost import USAGE, once

# How Ansible ends if --limit leaves no host of an inventory, if nothing has a given name, and if a file of an
# inventory can't be read: before that, one plugin after the other has said why.
_NO_HOSTS = "no hosts to target"
_NOBODY = "Could not match supplied host pattern, ignoring: "
_UNREAD = "Completely failed to parse inventory source "
_WHY_UNREAD = re.compile(r"Failed to parse inventory with '(?!auto')\w+' plugin: (.*)")
SERVERS = "model_servers"
"""The group that most playbooks are for."""
_CHANGING = "magi.models.llama_instances"


def checked(run: Run, inventory: Sequence[str] = (), limit: str | None = None, group: str = SERVERS) -> Run:
    """Return ``run``, which was for the hosts of ``group``, if it can be believed.

    Raises Interrupted; UsageError or ProfileError if the input is wrong and nothing was touched; and DeploymentFailed
    if Ansible did not finish.
    """
    if run.interrupted:
        raise Interrupted(interruption(run))
    where = f"; all that Ansible said is in {run.output}" if run.output else ""
    if run.no_hosts:
        raise _not_begun(run, inventory, limit, group, where)
    # If other hosts go on, the verb reports on them.
    wrong = [error for item in run.failures if (error := _wrong(item))]
    if wrong and not _at_work(run):
        raise wrong[0](once(said(item.result) for item in run.failures))
    if not run.ended:
        last = (complaints(run.events) or [f"exit status {run.rc}"])[-1]
        raise DeploymentFailed(f"Ansible did not finish, so nothing is known to be done: {last}{where}.")
    return run


def _wrong(failure: Event) -> type[UsageError] | None:
    """Return what to raise for a failure that is not the host's fault, else None."""
    return ProfileError if failure.result.get("wrong") == "profile" else USAGE.get(failure.action)


def _at_work(run: Run) -> bool:
    """Whether a host was changed, or finished."""
    failed = {item.host for item in run.failures}
    return any(
        item.action == _CHANGING or (item.kind == "ok" and item.host not in failed and item.host not in run.unreachable)
        for item in run.events
    )


def _not_begun(run: Run, inventory: Sequence[str], limit: str | None, group: str, where: str) -> UsageError:
    """Return the error for a run that had no host to work on."""
    errors, hosts = complaints(run.events, "ERROR"), f"inventory {', '.join(inventory)}"
    hosts = hosts if inventory else "the inventory of ansible.cfg"
    said_by_ansible = (errors or complaints(run.events) or [f"exit status {run.rc}"])[0]
    if said_by_ansible.startswith(_UNREAD):
        source = said_by_ansible.removeprefix(_UNREAD)
        reasons = [match[1].rstrip(".") for item in complaints(run.events) if (match := _WHY_UNREAD.match(item))]
        why = f" ({reasons[0]})" if reasons else ""
        # Each plugin also reads the values of -e. Their syntax was checked before, but not what a vault or a tag hides.
        what = "The inventory, or a file of -e," if len(reasons) > 1 == len({*reasons}) else "The inventory"
        return UsageError(f"{what} can't be read: {source}{why}; correct it, or give another with -i.")
    nobody = said_by_ansible.removeprefix(_NOBODY) if said_by_ansible.startswith(_NOBODY) else ""
    if limit and nobody not in ("", limit, group):
        return UsageError(f"--limit {limit}: {nobody} is no host or group of {hosts}; correct it.")
    if run.rc and not nobody and _NO_HOSTS not in said_by_ansible:
        return UsageError(f"Ansible could not begin: {said_by_ansible.rstrip('.')}{where}.")
    limited = f" within --limit {limit}" if limit else ""
    hint = "".join(f" Ansible says: {line}" for line in complaints(run.events)[:1])
    return UsageError(f"No host to work on: {hosts} has none in the group {group}{limited}.{hint}")


def interruption(run: Run) -> str:
    """Return what an interrupted run did on which host, and what to do now."""
    hosts = {item.host: "" for item in run.events if item.host}
    changing = [item for item in run.events if item.action == _CHANGING]
    done = [item.host for item in changing if item.kind == "ok"]
    begun = [item.host for item in changing if item.kind == "start" and item.host not in done]
    parts = [f"done on {', '.join(dict.fromkeys(done))}"] if done else []
    parts += [f"begun on {', '.join(dict.fromkeys(begun))}"] if begun else []
    rest = [name for name in hosts if name not in {*done, *begun}]
    parts += [f"not begun on {', '.join(rest)}"] if rest else []
    return f"Stopped by a signal: {'; '.join(parts) or 'nothing was begun'}. Run it again: it goes on from there."
