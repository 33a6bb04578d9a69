# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The configuration of HAProxy for a gateway. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import quote

import jinja2
from ansible_collections.magi.models.plugins.module_utils._base.text import printable
from ansible_collections.magi.models.plugins.module_utils._haproxy.sealed import UNSEALED
from ansible_collections.magi.models.plugins.module_utils._haproxy.sockets import Sockets
from ansible_collections.magi.models.plugins.plugin_utils._gateway.routes import Part, Route, Server
from ansible_collections.magi.models.plugins.plugin_utils._gateway.settings import Gateway

TEMPLATES = ("haproxy.cfg", "gateway.lua")


def encoded(name: str) -> str:
    """Return ``name`` as HAProxy's converter url_enc does: no character of it means anything in a map."""
    return quote(name, safe="", errors="surrogateescape")


def proxy_name(*parts: str) -> str:
    """Return the name of a proxy or server for these ``parts``, of letters, digits and -_.: alone, and different for
    different parts."""
    return "::".join(encoded(part).replace("~", "%7E").replace("%", ":") for part in parts)


def backend(route: Route) -> str:
    return proxy_name(route.names[0])


def server_name(server: Server) -> str:
    return proxy_name(server.host, server.instance, *(["before"] if server.part is Part.GOES else []))


def endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def places(routes: Sequence[Route]) -> dict[Server, tuple[str, ...]]:
    """Return where each server is, as backend/server; first where it is checked, namely in the route of its model if it
    is in that. Its state is known in the others."""
    found: dict[Server, tuple[str, ...]] = {}
    for route in sorted(routes, key=lambda item: item.names[0] != item.servers[0].model_id):
        for server in route.servers:
            found[server] = (*found.get(server, ()), f"{backend(route)}/{server_name(server)}")
    return found


def configuration(
    gateway: Gateway,
    routes: Sequence[Route],
    servers: Sequence[Server],
    environment: jinja2.Environment,
    sockets: Sockets,
    secrets: str,
) -> dict[str, str]:
    """Return the configuration for ``routes`` to ``servers``, rendered with the templates of ``environment``: files by
    name, which lie in one folder. ``secrets`` is the path of the folder with its secret files. Its revision is set on
    the host (sealed), which alone knows these."""
    names = sorted(name for route in routes for name in route.names)
    checked = {server: found[0] for server, found in places(routes).items()}
    files = {
        "routes.map": "".join(f"{encoded(name)} {backend(route)}\n" for route in routes for name in route.names),
        "models.json": json.dumps({"object": "list", "data": [_listed(name) for name in names]}) + "\n",
        "names.txt": "".join(f"{encoded(name)}\n" for name in names),
        "servers.json": json.dumps([item.to_dict() for item in servers], indent=1) + "\n",
    }
    values = {"gateway": gateway, "routes": routes, "sockets": sockets, "secrets": secrets, "checked": checked}
    environment.filters.update(server_name=server_name, backend=backend, printable=printable, encoded=encoded)
    environment.globals.update(endpoint=endpoint)
    rendered = {name: environment.get_template(f"{name}.j2").render(**values, revision=UNSEALED) for name in TEMPLATES}
    return {**files, **rendered}


def _listed(name: str) -> dict[str, str | int]:
    """Return a model as the API of OpenAI lists it; the time is none, so that nothing changes without a reason."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "magi"}
