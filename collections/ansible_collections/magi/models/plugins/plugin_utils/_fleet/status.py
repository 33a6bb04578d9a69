# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What runs on each host, as a document and for people. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.states import State
from ansible_collections.magi.models.plugins.module_utils._base.table import text_table
from ansible_collections.magi.models.plugins.module_utils._base.text import printable
from ansible_collections.magi.models.plugins.module_utils._host.values import Host, Running
from ansible_collections.magi.models.plugins.module_utils._llama.cause import Cause
from ansible_collections.magi.models.plugins.module_utils._llama.need import HOST, shown
from ansible_collections.magi.models.plugins.module_utils._plan.devices import meant_for, told_of
from ansible_collections.magi.models.plugins.module_utils._plan.ledger import planned_need
from ansible_collections.magi.models.plugins.module_utils._plan.pool import models_of
from ansible_collections.magi.models.plugins.plugin_utils._fleet.readiness import lost_device, wrong_though_healthy
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import Way


def build_status(hosts: Mapping[str, Host | None], ways: Mapping[str, Way]) -> dict[str, Any]:
    """Return what runs, in the shape of a report: ``hosts`` by name, None for one that could not be asked; ``ways`` how
    to get to the others. summary.failed says why servers that look healthy are not ready, and
    which don't start without their GPU."""
    servers, workers, failed, warnings = [], [], [], []
    for name, host in hosts.items():
        if host is None:
            continue
        for item in host.instances:
            wrong = wrong_though_healthy(item, host) if item.health == 200 else lost_device(item)
            warnings += [over] if (over := more_than_needed(name, item)) else []
            serves = item.health == 200 and wrong is None
            if item.server:
                workers.append(worker_of(name, item.name, item.server, item.port, item, serves))
                continue
            failed += [not_serving(name, item.name, wrong)] if wrong else []
            address = item.environment.get("LLAMA_ARG_HOST")
            url, url_from = ways[name].url(address, item.port) if address and item.port else (None, None)
            servers.append(
                {
                    "model_id": item.environment.get("MAGI_MODEL_ID", item.name),
                    "instance": item.name,
                    "display_name": item.environment.get("MAGI_DISPLAY_NAME", item.name),
                    "aliases": item.environment.get("LLAMA_ARG_ALIAS", "").split(",")[1:],
                    "tier": item.environment.get("MAGI_TIER"),
                    "task": item.environment.get("MAGI_TASK"),
                    "host": name,
                    "address": address,
                    "port": item.port,
                    "url": url,
                    "url_from": url_from,
                    "pid": item.pid,
                    "started_at": item.started_at,
                    "state": shown_state(item, serves).value,
                    "is_ready": serves,
                    "devices": computes_on(item),
                    "memory": memory_of(item),
                    **({} if item.models is None else {"models": dict(item.models)}),
                    **({"members": members} if (members := members_of(item.environment)) else {}),
                }
            )
    ready = sum(bool(server["is_ready"]) for server in servers)
    known = [host for host in hosts.values() if host]
    return {
        "total_servers": len(servers),
        "ready_servers": ready,
        "servers": servers,
        **({"workers": workers} if workers else {}),
        "summary": {
            "profile": ", ".join(sorted({host.generation.profile for host in known} - {""})) or None,
            "servers_ready": ready,
            "failed": failed,
            "warnings": warnings,
            "unreachable": [name for name, host in hosts.items() if not host],
        },
    }


def worker_of(
    host: str, name: str, server: str, port: int | None, now: Running | None, is_ready: bool
) -> dict[str, Any]:
    """Return a worker for a report or a status; ``now`` is what is known of it."""
    return {
        "instance": name,
        "host": host,
        "server": server,
        "address": now.environment.get("LLAMA_ARG_HOST") if now else None,
        "port": port,
        "pid": now.pid if now else None,
        "started_at": now.started_at if now else None,
        "state": shown_state(now, is_ready).value if now else State.ABSENT.value,
        "is_ready": is_ready,
        "devices": computes_on(now),
        "memory": memory_of(now),
    }


def worker_table(workers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the workers of a report or a status for people; nothing without any."""
    rows = [
        [
            *(item[key] or "-" for key in ("instance", "server", "host", "port", "pid", "state")),
            memory_shown(item) or "-",
        ]
        for item in workers
    ]
    head = ("worker", "computes for", "host", "port", "pid", "state", "memory")
    return ["", *text_table(head, rows)] if rows else []


def computes_on(now: Running | None) -> list[str] | None:
    """Return the GPUs that a running instance computes on, [] for the CPU alone, or None if that is not known.

    A start that does not find a device that it is told to use fails, so those of the option device are what it has. One
    that is told none has what its host listed, if the driver sees it there; it says itself if it can use none.
    """
    if now is None or not now.pid:
        return None
    named, listed = told_of(now.environment), meant_for(now.environment)
    if now.fell_back or named == "none" or not (named or listed):
        return []
    return named.split(",") if named else listed.split(",") if now.used_gpu else None


def memory_shown(server: Mapping[str, Any]) -> str:
    """Return what a server of a report or a status uses of memory, and the GPUs that it computes on."""
    used, on_gpu = server["memory"]["used"], server["memory"]["used_gpu"]
    gpus = [*([shown(on_gpu)] if on_gpu else []), ",".join(server["devices"])] if server["devices"] else []
    return ", ".join([*([shown(used)] if used else []), *([" on ".join(gpus)] if gpus else [])])


def memory_of(now: Running | None) -> dict[str, Any]:
    """Return what an instance was planned to need, by device in bytes, null if unknown; and what it uses of the host's
    memory and of all GPUs."""
    need = planned_need(now.environment) if now else None
    return {
        "need": need and {device: need.total(device) for device in need.own},
        "used": now.used_memory if now else None,
        "used_gpu": now.used_gpu if now else None,
    }


TOLERATED = 1.1
"""How many times its need an instance may use."""


def more_than_needed(host: str, now: Running) -> str:
    """Return that an instance uses more memory than it was planned to need, with both numbers; or an empty string."""
    need = planned_need(now.environment)
    if need is None:
        return ""
    of_gpus = sum(size for device, size in need.own.items() if device != HOST)
    pairs = (("memory", now.used_memory, need.total()), ("its GPUs", now.used_gpu, of_gpus))
    over = [
        f"{shown(used)} of {name}, and was planned with {shown(planned)}"
        for name, used, planned in pairs
        if used is not None and used > planned * TOLERATED
    ]
    return f"Host {host}: {now.name} uses {'; '.join(over)}; leave more free (docs/capacity.md)." if over else ""


def not_serving(host: str, instance: str, cause: Cause) -> dict[str, Any]:
    """Return the entry of summary.failed for an instance that does not serve."""
    detail = f"Host {host}, instance {instance}: {cause.detail}."
    return {"instance": instance, "host": host, "cause": cause.code, "detail": detail}


def status_lines(status: Mapping[str, Any]) -> list[str]:
    """Return what runs for people, and why something is not ready where that is known."""
    summary = status["summary"]
    if status["servers"]:
        profile = summary["profile"] or "none"
        lines = [f"Profile {profile}: {status['ready_servers']}/{status['total_servers']} ready", ""]
        lines += server_table(status["servers"])
    else:
        lines = ["No server runs." if status.get("workers") else "Nothing runs."]
    lines += worker_table(status.get("workers", ()))
    lines += [f"{name}: not reachable, or it could not be asked" for name in summary["unreachable"]]
    said = [f"  {item['cause']}: {printable(item['detail'])}" for item in summary["failed"]]
    warned = [f"Warning: {printable(item)}" for item in summary["warnings"]]
    return [*lines, *(["", "Not ready:", *said] if said else []), *(["", *warned] if warned else [])]


def members_of(environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return what clients may ask a pool for, from the environment of its process; [] where it is no pool's."""
    return [
        {"model_id": item["model"], "tier": item["tier"], "task": item["task"], "aliases": item["aliases"]}
        for item in models_of(environment)
    ]


def server_table(servers: Sequence[Mapping[str, Any]]) -> list[str]:
    def since(seconds: float | None) -> str:
        return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds)) if seconds else "-"

    rows = []
    for s in servers:
        keys = ("instance", "display_name", "tier", "host", "port", "pid", "state")
        shown = (memory_shown(s) or "-", since(s["started_at"]), "yes" if s["is_ready"] else "no")
        rows.append([*(s[key] or "-" for key in keys), *shown])
        for model, state in s.get("models", {}).items():
            rows.append([f"  {model}", *["-"] * 5, state, *["-"] * 3])
    head = ("instance", "display name", "tier", "host", "port", "pid", "state", "memory", "since", "ready")
    return text_table(head, rows)


def shown_state(now: Running, ready: bool) -> State:
    """Return the service manager's state; a server that answers is running, though supervisor calls it starting for as
    long as a start may take, or it sleeps."""
    if ready and now.asleep:
        return State.ASLEEP
    return State.RUNNING if ready and now.state is State.STARTING else now.state
