# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a gateway routes to: as an entry of documents, and for people. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.table import text_table
from ansible_collections.magi.models.plugins.module_utils._base.text import printable
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import HOST
from ansible_collections.magi.models.plugins.plugin_utils._gateway.haproxy import backend, server_name
from ansible_collections.magi.models.plugins.plugin_utils._gateway.routes import Route, Server, routes

HEAD = ("names", "host", "instance", "state", "busy", "slots", "waiting")
NUMBERS = ("busy", "slots", "waiting")


def gateway_entry(host: str, url: str, url_from: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry of documents for the gateway on ``host``, which is asked at ``url`` (see Way.url), from what the
    module model_gateway_info ``found`` there (docs/report.md)."""
    there = routes([Server.from_dict(item) for item in found["routed"]])
    states = {(item["backend"], item["server"]): item for item in found["states"]}
    broken = bool(there) and not found["running"]
    detail = ""
    if broken:
        detail = f"Gateway {host}: HAProxy does not answer; magi up starts it again, and its log says why it ended."
    elif not found["running"]:
        detail = "nothing runs there; magi up starts it, or says why not (HAProxy is missing, or its port taken)"
    return {
        "host": host,
        "url": f"{url}/v1",
        "url_from": url_from,
        "names": sorted(name for route in there for name in route.names),
        "is_ready": found["running"],
        "cause": "gateway_down" if broken else None,
        "detail": detail,
        "routes": [_route(route, states) for route in there],
    }


def _route(route: Route, states: Mapping[tuple[str, str], Mapping[str, Any]]) -> dict[str, Any]:
    servers, waiting = [], None
    for server in route.servers:
        state = states.get((backend(route), server_name(server)), {})
        waiting = state.get("queued", waiting)
        servers.append(
            {
                "host": server.host,
                "instance": server.instance,
                "model_id": server.model_id,
                "address": server.address,
                "port": server.port,
                "state": state.get("state", "unknown"),
                "busy": state.get("busy"),
                "slots": state.get("slots", server.slots),
            }
        )
    held = bool(states) and all(item["state"] != "up" for item in servers)
    task = route.servers[0].task
    return {"names": list(route.names), "task": task, "held": held, "waiting": waiting, "servers": servers}


def asked_for(entry: Mapping[str, Any], routed: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the names for which the gateway of ``entry`` may be asked for a token, with their tasks; ``routed`` are
    its servers. Not those of pools alone: whether a model of one is in memory, the pool says itself."""
    pooled = {(item["host"], item["instance"]) for item in routed if item.get("pooled")}
    return {
        route["names"][0]: route["task"]
        for route in entry["routes"]
        if entry["is_ready"]
        and not route["held"]
        and any((item["host"], item["instance"]) not in pooled for item in route["servers"])
    }


def route_rows(entry: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    """Yield a row below ``HEAD`` for each server of a gateway's entry."""
    for route in entry["routes"]:
        for item in route["servers"]:
            state = f"{item['state']}, held" if route["held"] else item["state"]
            numbers = ("-" if value is None else value for value in (item["busy"], item["slots"], route["waiting"]))
            yield (", ".join(route["names"]), item["host"], item["instance"], state, *numbers)


def gateway_title(entry: Mapping[str, Any]) -> str:
    """Return the line above the routes of a gateway: where it is, or why it is not there."""
    if entry["cause"]:
        return printable(entry["detail"])
    if not entry["is_ready"]:
        return f"Note: there is no gateway on {entry['host']}: {printable(entry['detail'])}."
    where = f" (on {entry['host']} itself)" if entry["url_from"] == HOST else ""
    return f"Gateway {entry['host']}: {entry['url']}{where}{'' if entry['routes'] else ' routes to nothing'}"


def routes_lines(entry: Mapping[str, Any]) -> list[str]:
    """Return a gateway's entry for people."""
    table = ["", *text_table(HEAD, list(route_rows(entry)), NUMBERS)] if entry["routes"] else []
    return [gateway_title(entry), *table]
