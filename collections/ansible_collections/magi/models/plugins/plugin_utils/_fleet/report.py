# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The report of a deployment: each host's plan, what it did and what it answers now, in one document. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.states import State
from ansible_collections.magi.models.plugins.module_utils._base.text import counted, printable
from ansible_collections.magi.models.plugins.module_utils._host.values import WORKER, Running
from ansible_collections.magi.models.plugins.module_utils._llama.cause import Cause
from ansible_collections.magi.models.plugins.plugin_utils._fleet.gateways import NOT_CONFIGURED, gateway_lines
from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import HostResult, cause_of
from ansible_collections.magi.models.plugins.plugin_utils._fleet.status import (
    computes_on,
    members_of,
    memory_of,
    more_than_needed,
    server_table,
    shown_state,
    worker_of,
    worker_table,
)


def build_report(hosts: Sequence[HostResult], gateways: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return the report: total_servers, ready_servers, servers, summary (see the module deployment_report); with
    ``gateways`` (see gateway_entries), these, too."""
    servers: list[dict[str, Any]] = []
    workers: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    degraded: list[dict[str, str]] = []
    warnings: list[str] = []
    launched = 0
    for result in hosts:
        failed += [_failed(result.name, None, item) for item in (result.trouble, result.worse) if item]
        if result.plan is None:
            continue
        degraded += [{"host": result.name, "detail": sentence} for sentence in result.plan.degraded]
        warnings += result.plan.warnings
        warnings += [f"Host {result.name}: {item.cut_off}" for item in result.results if item.cut_off]
        looked = result.after.instances if result.after else ()
        warnings += [said for item in looked if (said := more_than_needed(result.name, item))]
        done = {item.instance: item for item in result.results}
        running = {item.name: item for item in result.after.instances} if result.after else {}
        for instance in result.served:
            outcome, now = done.get(instance.name), running.get(instance.name)
            cause = cause_of(instance, result)
            url, url_from = result.way.url(instance.address, instance.port)
            launched += bool(outcome and outcome.launched)
            servers.append(
                {
                    "model_id": instance.model_id,
                    "instance": instance.name,
                    "display_name": instance.display_name,
                    "aliases": list(instance.aliases),
                    "tier": instance.tier,
                    "task": instance.task,
                    "host": result.name,
                    "address": instance.address,
                    "port": instance.port,
                    "url": url,
                    "url_from": url_from,
                    "pid": now.pid if now else None,
                    "started_at": now.started_at if now else None,
                    "state": _state(now, cause is None, result).value,
                    "is_ready": cause is None,
                    "action": outcome.action.action.value if outcome else None,
                    "devices": computes_on(now),
                    "memory": memory_of(now),
                    **({} if now is None or now.models is None else {"models": dict(now.models)}),
                    **({"members": members_of(instance.environment)} if instance.members else {}),
                }
            )
        for instance in result.plan.workers:
            now, is_ready = running.get(instance.name), cause_of(instance, result) is None
            server = instance.environment[WORKER]
            workers.append(worker_of(result.name, instance.name, server, instance.port, now, is_ready))
        for instance in (*result.served, *result.plan.workers):
            cause = cause_of(instance, result)
            if cause and cause != result.trouble:
                now, outcome = running.get(instance.name), done.get(instance.name)
                log = (outcome and outcome.log) or (now.log if now else ())
                failed.append(_failed(result.name, instance.name, cause, log))
    failed += [
        {"instance": None, "host": item["host"], "cause": item["cause"], "detail": item["detail"], "log": []}
        for item in gateways
        if item["cause"]
    ]
    plans = [result.plan for result in hosts if result.plan]
    ready = sum(server["is_ready"] for server in servers)
    return {
        "total_servers": len(servers),
        "ready_servers": ready,
        "servers": servers,
        **({"workers": workers} if workers else {}),
        **({"gateways": list(gateways)} if gateways else {}),
        "summary": {
            "profile": ", ".join(sorted({plan.profile for plan in plans})),
            "models_discovered": sum(plan.models_discovered for plan in plans),
            "models_enabled": sum(plan.models_enabled for plan in plans),
            "servers_launched": launched,
            "servers_ready": ready,
            "failed": failed,
            "degraded": degraded,
            "warnings": warnings,
        },
    }


def _state(now: Running | None, ready: bool, result: HostResult) -> State:
    if now:
        return shown_state(now, ready)
    return State.ABSENT if result.after else State.UNKNOWN


def _failed(host: str, instance: str | None, cause: Cause, log: Sequence[str] = ()) -> dict[str, Any]:
    where = f"Host {host}, instance {instance}" if instance else f"Host {host}"
    return {
        "instance": instance,
        "host": host,
        "cause": cause.code,
        "detail": f"{where}: {cause.detail}.",
        "log": [line for line in log if line.strip()][-10:],  # llama-server prints empty lines around an error
    }


def _kind(failed: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what failed entries for people have in common that are one line: all hosts that are not reached, and those
    that were not deployed for one and the same reason."""
    if failed["instance"] is not None:
        return failed["cause"], failed["host"], failed["instance"]
    if failed["cause"] == "host_unreachable":
        return (failed["cause"],)
    return failed["cause"], failed["detail"].removeprefix(f"Host {failed['host']}: ")


def summary_lines(report: Mapping[str, Any]) -> list[str]:
    """Return the report for people: the summary, a line for each server, what failed and why, what is missing."""
    summary = report["summary"]
    lines = [
        f"Profile {summary['profile']}: {counted(summary['models_discovered'], 'model')} discovered, "
        f"{summary['models_enabled']} enabled, {counted(summary['servers_launched'], 'server')} launched, "
        f"{report['ready_servers']}/{report['total_servers']} ready"
    ]
    if report["servers"]:
        lines += ["", *server_table(report["servers"])]
    lines += worker_table(report.get("workers", ()))
    if summary["failed"]:
        lines += ["", "Not ready:"]
        alike: dict[Any, list[Mapping[str, Any]]] = {}
        for item in summary["failed"]:
            alike.setdefault(_kind(item), []).append(item)
        for first, *others in alike.values():
            where = ""
            if others:
                where = f"{len(others) + 1} hosts ({', '.join(item['host'] for item in (first, *others))}). The first: "
            lines.append(f"  {first['cause']}: {where}{printable(first['detail'])}")
            lines += [f"    | {printable(line)}" for line in first.get("log", ())[-5:]]
    said = [f"Degraded: {printable(item['detail'])}" for item in summary["degraded"]]
    said += [f"Warning: {printable(item)}" for item in summary["warnings"]]
    through = gateway_lines(report.get("gateways", ()))
    return [*lines, *([""] if said else []), *said, *([""] if through else []), *through]


def problems(report: Mapping[str, Any], hosts: Sequence[HostResult]) -> dict[str, str]:
    """Return by host the sentence to fail with: it was not deployed, no server is ready anywhere, strict is set and it
    is degraded, or a gateway could not be configured. ``report`` is the one for ``hosts``."""
    total, ready = report["total_servers"], report["ready_servers"]
    named = {item["host"] for item in report["summary"]["failed"]}
    degraded = {item["host"] for item in report["summary"]["degraded"]}
    found = not_deployed(hosts)
    for result in hosts:
        if result.plan is None or result.name in found:
            continue
        if total and not ready:
            found[result.name] = f"No server is ready (0 of {total}); the report above says why."
        elif result.plan.strict and result.name in degraded | named:
            found[result.name] = "strict is set and the deployment is degraded; the report above says what is missing."
    strict = any(result.plan and result.plan.strict for result in hosts)
    for item in report.get("gateways", ()):
        if item["cause"] in NOT_CONFIGURED or (item["cause"] and strict):
            # Its host may be no model server: then the run fails on the first of these.
            host = next((each.name for each in hosts if each.name in (item["host"], hosts[0].name)), None)
            if host and host not in found:
                found[host] = item["detail"]
    return found


def not_deployed(hosts: Sequence[HostResult]) -> dict[str, str]:
    """Return by host why it was not deployed, or what was taken back there."""
    found = ((item.name, item.trouble or item.worse) for item in hosts)
    return {name: f"Host {name}: {cause.detail}." for name, cause in found if cause}
