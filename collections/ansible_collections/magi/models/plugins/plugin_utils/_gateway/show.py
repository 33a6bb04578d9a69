# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a gateway routes to, for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.table import text_table
from ansible_collections.magi.models.plugins.plugin_utils._gateway.haproxy import backend, server_name
from ansible_collections.magi.models.plugins.plugin_utils._gateway.routes import Server, routes


def routes_lines(host: str, where: str, found: Mapping[str, Any]) -> list[str]:
    """Return a table of the routes on the gateway ``host``, which listens at ``where``, from what the module
    model_gateway_info ``found`` there."""
    if not (found["routed"] or found["running"]):
        return [f"Gateway {host}: nothing runs."]
    states = {(item["backend"], item["server"]): item for item in found["states"]}
    rows = []
    for route in routes([Server.from_dict(item) for item in found["routed"]]):
        for server in route.servers:
            state = states.get((backend(route), server_name(server)))
            numbers = (state["busy"], state["slots"], state["queued"]) if state else ("-", server.slots, "-")
            shown = "unknown" if state is None else "up" if state["up"] else "down"
            rows.append([", ".join(route.names), server.host, server.instance, shown, *numbers])
    head = ("names", "host", "instance", "state", "busy", "slots", "waiting")
    title = f"Gateway {host}: {where}" if found["running"] else f"Gateway {host}: HAProxy does not answer; run again"
    return [title, "", *text_table(head, rows, ("busy", "slots", "waiting"))]
