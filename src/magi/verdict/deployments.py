"""What the verbs that deploy found or did."""

from __future__ import annotations

from collections.abc import Sequence

from magi import lines
from magi.errors import DeploymentFailed, ExitCode
from magi.events import Run, line
from magi.instances import unknown
from magi.result import Result
from magi.verdict.lost import lost, once, told


def deployed(run: Run, *, check: bool = False, tags: str | None = None) -> Result:
    """Return the report of a deployment and how it ended; where it only looked, or tags left out the report, the plans.

    Raises HostUnreachable or DeploymentFailed without either.
    """
    report, problems = run.last("report"), once(map(line, (run.last("problems") or {}).values()))
    # Of a host that failed early, the report says no more than that it did: its own message goes with it.
    problems = once([problems, *(words for item in run.failures if (words := told(item)) not in problems)])
    if report is None:
        looked = planned(run)
        if problems and not looked.problem:
            raise DeploymentFailed(problems)
        if not (check or tags):
            raise DeploymentFailed("The deployment came to no report: see with -v what was done.")
        what = {**({"check": True} if check else {}), **({"tags": tags} if tags else {})}
        code = looked.exit_code if looked.problem else ExitCode.OK
        return Result({**what, **looked.document}, code, looked.problem)
    summary = report["summary"]
    if any(item["cause"] == "host_unreachable" for item in summary["failed"]):
        return Result(report, ExitCode.UNREACHABLE, problems)
    if problems or run.failures:
        return Result(report, ExitCode.FAILED, problems)
    return Result(report, ExitCode.DEGRADED if summary["failed"] or summary["degraded"] else ExitCode.OK)


def planned(run: Run) -> Result:
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
        return Result(document, error.exit_code, str(error))
    return Result(document, ExitCode.CHANGES if document["changes"] else ExitCode.OK)


def seen(run: Run) -> Result:
    """Return what runs. Raises what ``deployed`` raises where no host answered."""
    status = run.last("status")
    error = lost(run)
    if status is None:
        raise error or DeploymentFailed("The status of no host came back.")
    if error:
        return Result(status, error.exit_code, str(error))
    ready = status["ready_servers"] == status["total_servers"]
    return Result(status, ExitCode.OK if ready else ExitCode.DEGRADED)


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
    return Result(document, error.exit_code if error else ExitCode.OK, str(error or ""))


def ended(run: Run, names: Sequence[str] = ()) -> Result:
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
    return Result({"hosts": hosts}, error.exit_code if error else ExitCode.OK, str(error or ""))
