# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The report of a deployment: from what each host was planned, did and answers now to one document. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.addresses import local_url
from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind, State
from ansible_collections.magi.models.plugins.module_utils._base.table import text_table
from ansible_collections.magi.models.plugins.module_utils._base.text import counted, printable
from ansible_collections.magi.models.plugins.module_utils._host.values import Host, Running
from ansible_collections.magi.models.plugins.module_utils._llama.cause import (
    Cause,
    find_cause,
    not_ready,
    quarantined,
    wrong_server,
)
from ansible_collections.magi.models.plugins.module_utils._plan.values import ActionResult, Instance, Plan


@dataclass(frozen=True)
class HostResult:
    """What became of a host. ``plan`` is None where the run ended before there was one."""

    name: str
    plan: Plan | None = None
    results: Sequence[ActionResult] = ()
    """The actions that llama_instances returned."""
    after: Host | None = None
    max_startup_time: int = 0
    """Seconds."""
    trouble: Cause | None = None
    """Why the host as a whole was not deployed: host_unreachable, host_failed or held_back."""


def build_report(profile: str, hosts: Sequence[HostResult]) -> dict[str, Any]:
    """Return the report: total_servers, ready_servers, servers, summary (see the module deployment_report)."""
    servers, failed, degraded, warnings = [], [], [], []
    launched = 0
    for result in hosts:
        if result.trouble:
            failed.append(_failed(result.name, None, result.trouble))
        if result.plan is None:
            continue
        degraded += [{"host": result.name, "detail": sentence} for sentence in result.plan.degraded]
        warnings += result.plan.warnings
        done = {item.instance: item for item in result.results}
        running = {item.name: item for item in result.after.instances} if result.after else {}
        for instance in result.plan.instances:
            outcome, now = done.get(instance.name), running.get(instance.name)
            cause = cause_of(instance, result)
            launched += bool(outcome and outcome.launched)
            servers.append(
                {
                    "model_id": instance.model_id,
                    "instance": instance.name,
                    "display_name": instance.display_name,
                    "tier": instance.tier,
                    "host": result.name,
                    "address": instance.address,
                    "port": instance.port,
                    "url": instance.url,
                    "pid": now.pid if now else None,
                    "started_at": now.started_at if now else None,
                    "state": (_state(now, cause is None) if now else State.ABSENT).value,
                    "is_ready": cause is None,
                    "action": outcome.action.action.value if outcome else None,
                }
            )
            if cause and cause != result.trouble:
                failed.append(
                    _failed(result.name, instance.name, cause, (outcome and outcome.log) or (now.log if now else ()))
                )
    plans = [result.plan for result in hosts if result.plan]
    ready = sum(server["is_ready"] for server in servers)
    return {
        "total_servers": len(servers),
        "ready_servers": ready,
        "servers": servers,
        "summary": {
            "profile": profile,
            "models_discovered": sum(plan.models_discovered for plan in plans),
            "models_enabled": sum(plan.models_enabled for plan in plans),
            "servers_launched": launched,
            "servers_ready": ready,
            "failed": failed,
            "degraded": degraded,
            "warnings": warnings,
        },
    }


def _state(now: Running, ready: bool) -> State:
    """Return the state that the service manager tells; one that answers runs, though for supervisor it starts all the
    time that a start may take."""
    return State.RUNNING if ready and now.state is State.STARTING else now.state


def _failed(host: str, instance: str | None, cause: Cause, log: Sequence[str] = ()) -> dict[str, Any]:
    where = f"Host {host}, instance {instance}" if instance else f"Host {host}"
    return {
        "instance": instance,
        "host": host,
        "cause": cause.code,
        "detail": f"{where}: {cause.detail}.",
        "log": [line for line in log if line.strip()][-10:],  # llama-server prints empty lines around an error
    }


def cause_of(instance: Instance, result: HostResult) -> Cause | None:
    """Return why the instance is not ready, or None when it is: it answers healthy, and it is the one that answers."""
    outcome = next((item for item in result.results if item.instance == instance.name), None)
    if outcome and outcome.cause:
        return outcome.cause
    if result.after is None:
        return result.trouble or Cause("host_failed", "the host could not be asked; run again")
    now = next((item for item in result.after.instances if item.name == instance.name), None)
    if result.trouble:  # nothing was launched, so nobody waited: what serves, serves
        return None if now and is_ready(now, result.after) else result.trouble
    if now is None or now.state in (State.FAILED, State.STOPPED, State.BACKOFF):
        cause = find_cause(now.log if now else (), now.exit_status if now else None)
        return quarantined(cause) if outcome and outcome.action.action is ActionKind.QUARANTINE else cause
    if now.health != 200:
        return not_ready(result.max_startup_time, now.health or 0)
    return None if is_ready(now, result.after) else wrong_server(instance.name, now.model_ids or ())


def is_ready(now: Running, host: Host) -> bool:
    """Whether an instance of ``host`` serves: /health answers 200, and it is this instance that answers.

    /v1/models tells by its name; where that can't be asked (the API keys can't be read, or are not those that it
    started with), the listener on its port must be its own process.
    """
    if now.health != 200:
        return False
    if now.model_ids is not None:
        return now.name in now.model_ids
    return any(item.port == now.port and item.instance == now.name for item in host.listeners)


def build_status(hosts: Mapping[str, Host | None]) -> dict[str, Any]:
    """Return what runs, in the shape of a report: ``hosts`` by name, None for one that could not be asked."""
    servers = []
    for name, host in hosts.items():
        for item in host.instances if host else ():
            serves = is_ready(item, host)
            address = item.environment.get("LLAMA_ARG_HOST")
            servers.append(
                {
                    "model_id": item.environment.get("MAGI_MODEL_ID", item.name),
                    "instance": item.name,
                    "display_name": item.environment.get("MAGI_DISPLAY_NAME", item.name),
                    "tier": item.environment.get("MAGI_TIER"),
                    "host": name,
                    "address": address,
                    "port": item.port,
                    "url": local_url(address, item.port) if address and item.port else None,
                    "pid": item.pid,
                    "started_at": item.started_at,
                    "state": _state(item, serves).value,
                    "is_ready": serves,
                }
            )
    ready = sum(server["is_ready"] for server in servers)
    known = [host for host in hosts.values() if host]
    return {
        "total_servers": len(servers),
        "ready_servers": ready,
        "servers": servers,
        "summary": {
            "profile": ", ".join(sorted({host.generation.profile for host in known} - {""})) or None,
            "servers_ready": ready,
            "unreachable": [name for name, host in hosts.items() if not host],
        },
    }


def status_lines(status: Mapping[str, Any]) -> list[str]:
    """Return what runs for people."""
    summary = status["summary"]
    if status["servers"]:
        profile = summary["profile"] or "none"
        lines = [f"Profile {profile}: {status['ready_servers']}/{status['total_servers']} ready", ""]
        lines += _server_table(status["servers"])
    else:
        lines = ["Nothing runs."]
    return lines + [f"{name}: not reachable, or it could not be asked" for name in summary["unreachable"]]


def _server_table(servers: Sequence[Mapping[str, Any]]) -> list[str]:
    def since(seconds: float | None) -> str:
        return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds)) if seconds else "-"

    return text_table(
        ("instance", "display name", "tier", "host", "port", "pid", "state", "since", "ready"),
        [
            [
                *(s[key] or "-" for key in ("instance", "display_name", "tier", "host", "port", "pid", "state")),
                since(s["started_at"]),
                "yes" if s["is_ready"] else "no",
            ]
            for s in servers
        ],
    )


def summary_lines(report: Mapping[str, Any]) -> list[str]:
    """Return the report for people: the summary, one line per server, what failed and why, what is missing."""
    summary = report["summary"]
    lines = [
        f"Profile {summary['profile']}: {counted(summary['models_discovered'], 'model')} discovered, "
        f"{summary['models_enabled']} enabled, {counted(summary['servers_launched'], 'server')} launched, "
        f"{report['ready_servers']}/{report['total_servers']} ready"
    ]
    if report["servers"]:
        lines += ["", *_server_table(report["servers"])]
    if summary["failed"]:
        lines += ["", "Not ready:"]
        for item in summary["failed"]:
            lines.append(f"  {item['cause']}: {printable(item['detail'])}")
            lines += [f"    | {printable(line)}" for line in item.get("log", ())[-5:]]
    said = [f"Degraded: {printable(item['detail'])}" for item in summary["degraded"]]
    said += [f"Warning: {printable(item)}" for item in summary["warnings"]]
    return [*lines, *([""] if said else []), *said]


def problems(report: Mapping[str, Any], hosts: Sequence[HostResult]) -> dict[str, str]:
    """Return by host the sentence to fail with: it was not deployed, no server is ready anywhere, or strict is set and
    it is degraded. ``report`` is that of ``hosts``."""
    total, ready = report["total_servers"], report["ready_servers"]
    named = {item["host"] for item in report["summary"]["failed"]}
    found = not_deployed(hosts)
    for result in hosts:
        if result.plan is None or result.name in found:
            continue
        if total and not ready:
            found[result.name] = f"No server is ready, of {total}; the report above says why for each."
        elif result.plan.strict and (result.plan.degraded or result.name in named):
            found[result.name] = "strict is set and the deployment is degraded; the report above says what is missing."
    return found


def not_deployed(hosts: Sequence[HostResult]) -> dict[str, str]:
    """Return by host why it was not deployed."""
    return {item.name: f"Host {item.name}: {item.trouble.detail}." for item in hosts if item.trouble}
