"""What the verbs that deploy found or did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from magi import lines
from magi.errors import DeploymentFailed, ExitCode
from magi.events import Run, line
from magi.instances import unknown
from magi.result import Result
from magi.verdict.lost import beside, lost, not_reached, once, shared, told


def prepared(run: Run) -> Result:
    """Return which hosts have what a deployment needs. Raises HostUnreachable or DeploymentFailed if one lacks it."""
    error = lost(run)
    if error:
        raise error
    hosts = sorted({item.host for item in run.events if item.kind == "ok"})
    return Result({"hosts": hosts}, told=lines.prepared)


def deployed(run: Run, *, check: bool = False, tags: str | None = None) -> Result:
    """Return the report of a deployment and how it ended; if it only looked, or tags left out the report, the plans.

    Raises HostUnreachable or DeploymentFailed without either.
    """
    report, problems = run.last("report"), _problems(run)
    if report is None:
        looked = planned(run)
        if problems and not looked.problem:
            raise DeploymentFailed(problems)
        if not (check or tags):
            raise DeploymentFailed("The deployment ended without a report: run it with -v to see what was done.")
        what = {**({"check": True} if check else {}), **({"tags": tags} if tags else {})}
        code = looked.exit_code if looked.problem else ExitCode.OK
        return Result({**what, **looked.document}, code, looked.problem, lines.looked)
    found = Result(report, told=lines.report)
    summary = report["summary"]
    if any(item["cause"] == "host_unreachable" for item in summary["failed"]):
        return replace(found, exit_code=ExitCode.UNREACHABLE, problem=problems)
    if problems or run.failures:
        return replace(found, exit_code=ExitCode.FAILED, problem=problems)
    return replace(found, exit_code=ExitCode.DEGRADED if summary["failed"] or summary["degraded"] else ExitCode.OK)


def _problems(run: Run) -> str:
    """Return why hosts were not deployed, or do not count as such."""
    said = {host: line(sentence) for host, sentence in (run.last("problems") or {}).items()}
    gone = [host for host in said if host in run.unreachable and "it can't be reached" in said[host]]
    together = not_reached(run) if len(gone) > 1 else ""
    all_said = once(said.values())
    # If a host failed early, the report says only that it did: its own message goes with it.
    early = [(item.host, words) for item in run.failures if (words := told(item)) not in all_said]
    others = [pair for pair in said.items() if not (together and pair[0] in gone)]
    return once([together, shared([*others, *early])])


def planned(run: Run) -> Result:
    """Return the plan of each host, and whether any changes something. Raises what ``deployed`` raises."""
    from magi.domain import ActionKind

    clients = run.last("clients") or {}
    plans = {host: _with_clients(result["plan"], clients.get(host, {})) for host, result in run.of("plan")}
    error = lost(run)
    if error and not plans:
        raise error
    changes = sum(ActionKind(item["action"]).changes for plan in plans.values() for item in plan["actions"])
    done = {host: list(result["done"]) for host, result in run.of("done", "installable")}
    gateways = [{"host": host, "actions": actions} for host, actions in done.items()]
    changes += sum(bool(actions) for actions in done.values())
    document = {"hosts": plans, "gateways": gateways, "changes": changes, "unreachable": list(run.unreachable)}
    return beside(error, Result(document, ExitCode.CHANGES if changes else ExitCode.OK, told=lines.plan))


def _with_clients(plan: Mapping[str, Any], clients: Mapping[str, str]) -> dict[str, Any]:
    """Return the plan of a host; each action says what happens to the clients of a gateway, "" if nothing does."""
    actions = [{**item, "clients": clients.get(item["instance"], "")} for item in plan["actions"]]
    return {**plan, "actions": actions}


def seen(run: Run) -> Result:
    """Return what runs. Raises what ``deployed`` raises where no host answered."""
    status = run.last("status")
    error = lost(run)
    if status is None:
        raise error or DeploymentFailed("No host returned its status.")
    gateways = [result["gateway"] for _host, result in run.of("gateway", "routed")]
    status = {**status, **({"gateways": gateways} if gateways else {})}
    wrong = [*(item["cause"] for item in gateways), *(not item["is_ready"] for item in status.get("workers", ()))]
    ready = status["ready_servers"] == status["total_servers"] and not any(wrong)
    return beside(error, Result(status, ExitCode.OK if ready else ExitCode.DEGRADED, told=lines.status))


def healthy(run: Run) -> Result:
    """Return what serves its clients; the exit code is 0, 3 where not all does, or 1 where nothing does.

    Raises DeploymentFailed where no host answered.
    """
    document = run.last("health")
    if document is None:
        raise DeploymentFailed(str(lost(run) or "The health of no host came back."))
    problems = (run.last("problems") or {}).items()
    problem = once([not_reached(run), shared((host, line(sentence)) for host, sentence in problems)])
    code = ExitCode.DEGRADED if problem else ExitCode.OK
    return Result(document, code if document["ready_servers"] else ExitCode.FAILED, problem, lines.health)


def discovered(run: Run) -> Result:
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
    return beside(error, Result(document, told=lines.models))


def ended(run: Run, names: Sequence[str] = (), done: str = "removed") -> Result:
    """Return what was ``done`` (stopped, removed) on each host to the instances ``names``, or to all if there are none.

    Raises what ``deployed`` raises if no host answered, and InstanceNameError if nothing was stopped and no host has an
    instance of such a name.
    """
    results = [*run.of("actions")]
    by_name: dict[str, dict[str, Any]] = {}
    for host, result in results:  # workers end in a second call
        by_name.setdefault(host, {}).update({item["instance"]: item for item in result["actions"]})
    hosts = {host: [*items.values()] for host, items in by_name.items()}
    error = lost(run)
    if error and not hosts:
        raise error
    if names and not error:  # a lost host may have what the others lack
        error = unknown(names, {host: result["instances"] for host, result in results})
        if error and not any(hosts.values()):
            raise error
    warned = {said for _host, result in run.of("results") for item in result["results"] if (said := item.get("warned"))}
    document = {"hosts": hosts, **({"warnings": sorted(warned)} if warned else {})}
    return beside(error, Result(document, told=lambda document: lines.actions(document, done)))
