"""What servers and gateways do, from what each host told: by model, by server and by host. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from http import HTTPStatus
from typing import Any

Seen = Mapping[str, Mapping[str, Any]]
"""By host, what the module model_activity_info saw last."""
Row = Mapping[str, Any]


class Sort(str, Enum):
    """By what rows are sorted."""

    TOKENS = "tokens"
    BUSY = "busy"
    QUEUE = "queue"
    FIRST_TOKEN = "first-token"  # noqa: S105 - no secret, but a word
    MEMORY = "memory"
    NAME = "name"


KEYS: Mapping[Sort, Callable[[Row], float | None]] = {
    Sort.TOKENS: lambda row: row["tokens_per_second"],
    Sort.BUSY: lambda row: row["busy"],
    Sort.QUEUE: lambda row: row.get("queue"),
    Sort.FIRST_TOKEN: lambda row: row["first_token"]["p95"] if row.get("first_token") else None,
    Sort.MEMORY: lambda row: row["memory"],
    Sort.NAME: lambda row: 0,
}
"""The number that comes first where it is largest; None comes last. Equal rows are in the order of their names."""


def shown_line(text: str) -> tuple[str, str, Any] | None:
    """Return host, kind (``activity`` or ``problem``) and content of a line that playbooks/top.yml shows; None for its
    other output."""
    try:
        item = json.loads(text)
    except ValueError:
        return None
    for kind in ("activity", "problem"):
        if isinstance(item, dict) and {*item} == {"host", kind}:
            return str(item["host"]), kind, item[kind]
    return None


def document(seen: Seen, sort: Sort = Sort.TOKENS) -> dict[str, Any]:
    """Return what all do, each list sorted: ``models``, ``servers``, ``hosts``, ``gateways``."""
    gateways = {host: item["gateway"] for host, item in seen.items() if item["gateway"]}
    times: dict[str, list[int]] = {}
    for gateway in gateways.values():
        for name, found in gateway["first_tokens"].items():
            times.setdefault(name, []).extend(found)
    servers = [
        {
            "instance": item["instance"],
            "model_id": item["model_id"],
            "host": host,
            "port": item["port"],
            "state": state_of(item),
            "asleep": item["asleep"],
            "tokens_per_second": item["tokens_per_second"],
            "busy": item["busy"],
            "slots": item["slots"],
            "queue": item["waiting"],
            "first_token": first_token(times.get(f"{host}::{item['instance']}", ())),
            "memory": item["memory"],
        }
        for host, found in seen.items()
        for item in found["servers"]
    ]
    models = {name: [item for item in servers if item["model_id"] == name] for name in _each(servers, "model_id")}
    queues = _queues(gateways.values(), servers)
    return {
        "models": _sorted(
            (_model(name, items, queues.get(name, 0), times) for name, items in models.items()), sort, "model_id"
        ),
        "servers": _sorted(servers, sort, "instance", "host"),
        "hosts": _sorted((_host(host, item, servers) for host, item in seen.items()), sort, "host"),
        "gateways": [
            {"host": host, "requests": sum(map(len, item["first_tokens"].values()))}
            for host, item in sorted(gateways.items())
        ],
    }


def state_of(server: Row) -> str:
    """Return the word for what a server is at."""
    from magi.domain import State  # slow to import

    if server["asleep"]:
        return "asleep"
    if server["status"] == HTTPStatus.OK:
        return "ready"
    if server["pid"] and server["state"] == State.RUNNING:
        return {
            HTTPStatus.SERVICE_UNAVAILABLE: "loading",
            HTTPStatus.NOT_IMPLEMENTED: "no metrics",
            HTTPStatus.UNAUTHORIZED: "other key",
            0: "no answer",
        }.get(server["status"], f"HTTP {server['status']}")
    return str(server["state"])


def first_token(milliseconds: Sequence[int]) -> dict[str, float] | None:
    """Return how long it took until half, and all but a twentieth, of the answers began (``p50``, ``p95``, in seconds),
    and of how many ``requests``; None of none."""
    ordered = sorted(milliseconds)
    if not ordered:
        return None
    p50, p95 = (ordered[math.ceil(share * len(ordered)) - 1] / 1000 for share in (0.5, 0.95))
    return {"p50": p50, "p95": p95, "requests": len(ordered)}


def _queues(gateways: Iterable[Mapping[str, Any]], servers: Sequence[Row]) -> dict[str, int]:
    """Return how many requests wait at the gateways for each model. What waits is counted once for each backend, which
    is a name; its servers tell the model."""
    of = {f"{item['host']}::{item['instance']}": item["model_id"] for item in servers}
    found: dict[str, int] = {}
    for gateway in gateways:
        waiting = {item["backend"]: (item["server"], item["queued"]) for item in gateway["servers"]}
        for server, queued in waiting.values():
            model = of.get(server, "")
            found[model] = found.get(model, 0) + queued
    return found


def _model(name: str, servers: Sequence[Row], queued: int, times: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    return {
        "model_id": name,
        "servers": len(servers),
        "asleep": sum(item["asleep"] for item in servers),
        "tokens_per_second": _sum(servers, "tokens_per_second"),
        "busy": _sum(servers, "busy"),
        "slots": _sum(servers, "slots"),
        "queue": queued + (_sum(servers, "queue") or 0),
        "first_token": first_token(
            [each for item in servers for each in times.get(f"{item['host']}::{item['instance']}", ())]
        ),
        "memory": _sum(servers, "memory"),
    }


def _host(name: str, seen: Mapping[str, Any], servers: Sequence[Row]) -> dict[str, Any]:
    own = [item for item in servers if item["host"] == name]
    return {
        "host": name,
        "servers": len(own),
        "tokens_per_second": _sum(own, "tokens_per_second"),
        "busy": _sum(own, "busy"),
        "slots": _sum(own, "slots"),
        "memory": _sum(own, "memory"),
        "memory_total": seen["memory"]["total"],
        "memory_available": seen["memory"]["available"],
    }


def _sum(items: Iterable[Row], key: str) -> Any:
    known = [item[key] for item in items if item[key] is not None]
    return sum(known) if known else None


def _each(items: Iterable[Row], key: str) -> list[str]:
    return list(dict.fromkeys(str(item[key]) for item in items))


def _sorted(rows: Iterable[Row], sort: Sort, *names: str) -> list[Row]:
    def place(row: Row) -> tuple[float, list[str]]:
        value = KEYS[sort](row)
        return (math.inf if value is None else -value), [row[name] for name in names]

    return sorted(rows, key=place)
