"""What a run means: from what happened to a document, or to the sentence that says what went wrong. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from magi.errors import DeploymentFailed, ExitCode, HostUnreachable, Interrupted, MagiError, ProfileError, UsageError
from magi.events import Event, Run, complaints, line, said

# What fails in these was never a host's fault.
_USAGE = {"magi.models.settings_info": UsageError, "magi.models.profile_info": ProfileError}
# How Ansible ends where --limit leaves nothing of an inventory, where nothing has a name that was given, and where a
# file of an inventory can't be read: then one plugin after the other has said why before.
_NO_HOSTS = "no hosts to target"
_NOBODY = "Could not match supplied host pattern, ignoring: "
_UNREAD = "Completely failed to parse inventory source "
_WHY_UNREAD = re.compile(r"Failed to parse inventory with '(?!auto')\w+' plugin: (.*)")
_GROUP = "model_servers"
_CHANGING = "magi.models.llama_instances"


@dataclass(frozen=True)
class Outcome:
    """What a verb found or did, and how magi ends."""

    document: Mapping[str, Any]
    exit_code: ExitCode = ExitCode.OK
    problem: str = ""
    """The sentence that goes with an exit code that is not that of the document's content."""


def checked(run: Run, inventory: Sequence[str] = (), limit: str | None = None) -> Run:
    """Return ``run`` if what it says can be believed.

    Raises Interrupted; UsageError or ProfileError where nothing was touched since something given is wrong; and
    DeploymentFailed where Ansible did not come to its end.
    """
    if run.interrupted:
        raise Interrupted(interruption(run))
    where = f"; all that Ansible said is in {run.output}" if run.output else ""
    if run.no_hosts:
        raise _not_begun(run, inventory, limit, where)
    # Where other hosts go on, the verb tells what became of them.
    wrong = [error for item in run.failures if (error := _wrong(item))]
    if wrong and not _at_work(run):
        raise wrong[0](_once(said(item.result) for item in run.failures))
    if not run.ended:
        last = (complaints(run.events) or [f"exit status {run.rc}"])[-1]
        raise DeploymentFailed(f"Ansible did not come to its end, so nothing is known to be done: {last}{where}.")
    return run


def _wrong(failure: Event) -> type[UsageError] | None:
    """Return what to raise for a failure that was never the host's, else None."""
    return ProfileError if failure.result.get("wrong") == "profile" else _USAGE.get(failure.action)


def _at_work(run: Run) -> bool:
    """Whether a host was changed, or came through to the end."""
    failed = {item.host for item in run.failures}
    return any(
        item.action == _CHANGING or (item.kind == "ok" and item.host not in failed and item.host not in run.unreachable)
        for item in run.events
    )


def _not_begun(run: Run, inventory: Sequence[str], limit: str | None, where: str) -> UsageError:
    """Return the error for a run that had no host to work on."""
    errors, hosts = complaints(run.events, "ERROR"), f"inventory {', '.join(inventory)}"
    hosts = hosts if inventory else "the inventory of ansible.cfg"
    said_by_ansible = (errors or complaints(run.events) or [f"exit status {run.rc}"])[0]
    if said_by_ansible.startswith(_UNREAD):
        source = said_by_ansible.removeprefix(_UNREAD)
        reasons = [match[1].rstrip(".") for item in complaints(run.events) if (match := _WHY_UNREAD.match(item))]
        why = f" ({reasons[0]})" if reasons else ""
        # Each plugin reads what -e gives too, whose syntax was checked before, but not what a vault or a tag hides.
        what = "The inventory, or a file of -e," if len(reasons) > 1 == len({*reasons}) else "The inventory"
        return UsageError(f"{what} can't be read: {source}{why}; correct it, or give another with -i.")
    nobody = said_by_ansible.removeprefix(_NOBODY) if said_by_ansible.startswith(_NOBODY) else ""
    if limit and nobody not in ("", limit, _GROUP):
        return UsageError(f"--limit {limit}: {nobody} is no host or group of {hosts}; correct it.")
    if run.rc and not nobody and _NO_HOSTS not in said_by_ansible:
        return UsageError(f"Ansible could not begin: {said_by_ansible.rstrip('.')}{where}.")
    limited = f" within --limit {limit}" if limit else ""
    hint = "".join(f" Ansible says: {line}" for line in complaints(run.events)[:1])
    return UsageError(f"No host to work on: {hosts} has none in the group {_GROUP}{limited}.{hint}")


def interruption(run: Run) -> str:
    """Say what an interrupted run did on which host, and what to do."""
    hosts = {item.host: "" for item in run.events if item.host}
    changing = [item for item in run.events if item.action == _CHANGING]
    done = [item.host for item in changing if item.kind == "ok"]
    begun = [item.host for item in changing if item.kind == "start" and item.host not in done]
    parts = [f"done on {', '.join(dict.fromkeys(done))}"] if done else []
    parts += [f"begun on {', '.join(dict.fromkeys(begun))}"] if begun else []
    rest = [name for name in hosts if name not in {*done, *begun}]
    parts += [f"not begun on {', '.join(rest)}"] if rest else []
    return f"Stopped by a signal: {'; '.join(parts) or 'nothing was begun'}. Run it again: it goes on from there."


def _once(sentences: Iterable[str]) -> str:
    """Return the sentences, each once: hosts that fail alike say the same."""
    return " ".join(dict.fromkeys(filter(None, sentences)))


def _told(failure: Event) -> str:
    """Return what a failure says; of what is no host's, with the host that has it so."""
    sentence = said(failure.result)
    return f"Host {failure.host}: {sentence}" if failure.action in _USAGE else sentence


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
    problem = _once([not_reached(run), *map(_told, run.failures)])
    kind = HostUnreachable if run.unreachable else DeploymentFailed
    return kind(problem) if problem else None


def prepared(run: Run) -> Outcome:
    """Return which hosts have what a deployment needs. Raises HostUnreachable or DeploymentFailed if one lacks it."""
    error = lost(run)
    if error:
        raise error
    return Outcome({"hosts": sorted({item.host for item in run.events if item.kind == "ok"})})


def deployed(run: Run, *, check: bool = False, tags: str | None = None) -> Outcome:
    """Return the report of a deployment and how it ended; where it only looked, or tags left out the report, the plans.

    Raises HostUnreachable or DeploymentFailed without either.
    """
    report, problems = run.last("report"), _once(map(line, (run.last("problems") or {}).values()))
    # Of a host that failed early, the report says no more than that it did: its own message goes with it.
    problems = _once([problems, *(words for item in run.failures if (words := _told(item)) not in problems)])
    if report is None:
        looked = planned(run)
        if problems and not looked.problem:
            raise DeploymentFailed(problems)
        if not (check or tags):
            raise DeploymentFailed("The deployment came to no report: see with -v what was done.")
        what = {**({"check": True} if check else {}), **({"tags": tags} if tags else {})}
        code = looked.exit_code if looked.problem else ExitCode.OK
        return Outcome({**what, **looked.document}, code, looked.problem)
    summary = report["summary"]
    if any(item["cause"] == "host_unreachable" for item in summary["failed"]):
        return Outcome(report, ExitCode.UNREACHABLE, problems)
    if problems or run.failures:
        return Outcome(report, ExitCode.FAILED, problems)
    return Outcome(report, ExitCode.DEGRADED if summary["failed"] or summary["degraded"] else ExitCode.OK)


def planned(run: Run) -> Outcome:
    """Return the plan of each host, and whether any changes something. Raises what ``deployed`` raises."""
    plans = {host: result["plan"] for host, result in run.of("plan")}
    error = lost(run)
    if error and not plans:
        raise error
    changes = {
        host: [item for item in plan["actions"] if item["action"] not in ("keep", "quarantine")]
        for host, plan in plans.items()
    }
    document = {"hosts": plans, "changes": sum(map(len, changes.values())), "unreachable": list(run.unreachable)}
    if error:
        return Outcome(document, error.exit_code, str(error))
    return Outcome(document, ExitCode.CHANGES if document["changes"] else ExitCode.OK)


def seen(run: Run) -> Outcome:
    """Return what runs. Raises what ``deployed`` raises where no host answered."""
    status = run.last("status")
    error = lost(run)
    if status is None:
        raise error or DeploymentFailed("The status of no host came back.")
    if error:
        return Outcome(status, error.exit_code, str(error))
    ready = status["ready_servers"] == status["total_servers"]
    return Outcome(status, ExitCode.OK if ready else ExitCode.DEGRADED)


def healthy(run: Run) -> Outcome:
    """Return what serves its clients; the exit code is 0, 3 where not all does, or 1 where nothing does.

    Raises DeploymentFailed where no host answered.
    """
    document = run.last("health")
    if document is None:
        raise DeploymentFailed(str(lost(run) or "The health of no host came back."))
    said = _once([not_reached(run), *map(line, (run.last("problems") or {}).values())])
    if not document["ready_servers"]:
        return Outcome(document, ExitCode.FAILED, said)
    return Outcome(document, ExitCode.DEGRADED if said else ExitCode.OK, said)


def discovered(run: Run) -> Outcome:
    """Return the models of each host, what was set aside, and drift. Raises what ``deployed`` raises."""
    registries = dict(run.of("models", "registry_path"))
    error = lost(run)
    if error and not registries:
        raise error
    document = {
        "hosts": {
            host: {key: result.get(key) for key in ("models", "rejected", "companions")}
            for host, result in registries.items()
        },
        "drift": run.last("drift") or [],
        "unreachable": list(run.unreachable),
    }
    return Outcome(document, error.exit_code if error else ExitCode.OK, str(error or ""))


def ended(run: Run, names: Sequence[str] = ()) -> Outcome:
    """Return what was stopped or removed on each host; ``names`` are the instances that were given, none means all.

    Raises what ``deployed`` raises where no host answered, and InstanceNameError where nothing was stopped and no host
    has an instance of such a name.
    """
    results = dict(run.of("actions"))
    hosts = {host: result["actions"] for host, result in results.items()}
    error = lost(run)
    if error and not hosts:
        raise error
    if names and not error:  # a host that was lost may have what the others lack
        from magi.instances import unknown

        error = unknown(names, {host: result["instances"] for host, result in results.items()})
        if error and not any(hosts.values()):
            raise error
    return Outcome({"hosts": hosts}, error.exit_code if error else ExitCode.OK, str(error or ""))
