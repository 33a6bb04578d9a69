"""The answers of the service that this replaces, in its shapes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from magi.domain import State

_SERVER = ("model_id", "display_name", "port", "pid", "is_ready", "tier")


def servers(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what GET /api/models/management/servers says, from the document of a status."""
    found = [{name: item[name] for name in _SERVER} for item in document["servers"]]
    return {"total_servers": document["total_servers"], "ready_servers": document["ready_servers"], "servers": found}


def status(document: Mapping[str, Any], seen_at: float) -> dict[str, Any]:
    """Return what GET /api/models/status says; what is not known of a server is 0."""
    at = datetime.fromtimestamp(seen_at, timezone.utc).isoformat()
    models = [
        {
            "id": item["instance"],
            "name": item["display_name"],
            "tier": item["tier"],
            "port": item["port"],
            "state": _state(item),
            **dict.fromkeys(("memoryUsed", "memoryTotal", "requestCount"), 0),
            "avgResponseTime": 0.0,
            "lastActive": at,
            "errorCount": 0,
            "uptimeSeconds": int(seen_at - item["started_at"]) if item["pid"] and item["started_at"] else 0,
        }
        for item in document["servers"]
    ]
    unknown = {"totalVramGb": 0.0, "totalVramUsedGb": 0.0, "cacheHitRate": 0.0, "activeQueries": 0, "totalRequests": 0}
    return {"models": models, **unknown, "timestamp": at}


def _state(server: Mapping[str, Any]) -> str:
    if server["is_ready"]:
        return "active"
    return "error" if server["state"] == State.FAILED else "offline"
