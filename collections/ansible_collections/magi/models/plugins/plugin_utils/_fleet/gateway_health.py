# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a gateway's clients ask, and what they are told. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ansible_collections.magi.models.plugins.module_utils._base.addresses import local_url
from ansible_collections.magi.models.plugins.module_utils._base.text import printable
from ansible_collections.magi.models.plugins.module_utils._llama.cause import Cause
from ansible_collections.magi.models.plugins.plugin_utils._fleet.questions import said_by_uri
from ansible_collections.magi.models.plugins.plugin_utils._fleet.reach import way_to_reach
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import CONTROLLER, HOST, Way


def gateway_questions(
    way: Way,
    address: str,
    port: int,
    names: Iterable[str],
    health_from: str = "auto",
    *,
    whole: bool = False,
    tls: bool = False,
    socket: str = "",
) -> list[dict[str, str]]:
    """Return where to ask the gateway that binds ``address``, with ``tls`` by HTTPS, for the health of ``names``, each
    with name, url, by (CONTROLLER or HOST) and socket; if ``whole``, first for its own, and for its list of names.

    HOST or CONTROLLER asks if ``health_from`` says so; with auto, the controller where it gets there by an address that
    others have, too. Where clients need a key, there is a ``socket`` on the host that needs none: whoever has no key is
    told only that the gateway is there, and the rest is asked on the socket.
    """
    url, url_from = way.url(address, port, tls=tls)
    outside = health_from == CONTROLLER or (health_from == "auto" and way.over_the_network and url_from == CONTROLLER)
    base, by = (url, CONTROLLER) if outside else (local_url(address, port, tls=tls), HOST)
    asked = [(name, f"/models/{quote(name, safe='')}/health") for name in names]
    asked = [("", "/v1/models"), *asked] if whole else asked
    there = {"name": "", "url": f"{base}/health", "by": by, "socket": ""}
    if socket:
        base, by = "http://localhost", HOST
    return [
        *([there] if whole or (socket and asked) else []),
        *({"name": name, "url": f"{base}{path}", "by": by, "socket": socket} for name, path in asked),
    ]


def _asked(results: Sequence[Mapping[str, Any]]) -> Iterator[tuple[dict[str, Any], Mapping[str, Any]]]:
    """Yield each question with its HTTP status (-1: no answer), and its result."""
    for result in results:
        item = result.get("item")
        if isinstance(item, Mapping) and not result.get("skipped"):
            yield {**item, "status": int(result.get("status") or -1)}, result


def asked_of(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return name, url, by, socket and HTTP status (-1: no answer) of each question; ``results`` is what
    ansible.builtin.uri returned in a loop over them."""
    return [asked for asked, _result in _asked(results)]


def not_told(
    host: str, names: Collection[str], results: Sequence[Mapping[str, Any]], excused: Collection[str] = ()
) -> Cause | None:
    """Return why the gateway on ``host``, which routes ``names``, does not serve its clients, or None where it does.

    ``results`` are as for ``asked_of``. Names in ``excused`` have no server that works, whoever asks.
    """
    down: list[str] = []
    unknown: list[str] = []
    for asked, result in _asked(results):
        name, status, url = asked["name"], asked["status"], asked["url"]
        if name in excused:
            continue
        if status < 0:
            return _not_reached(host, asked, result)
        if name and status == 503:
            down.append(name)
        elif name and status == 404:
            unknown.append(name)
        elif status != 200:
            return Cause("not_reached", f"Gateway {host}: {url} answers HTTP status {status}; see the gateway's log")
        elif url.endswith("/v1/models"):
            unknown += sorted({*names} - _listed(result))
    if unknown:
        return Cause("not_routed", f"Gateway {host}: it does not know {_all(unknown)}; magi up tells it again")
    if down:
        remedy = "open their ports for it in the firewall, and see magi routes for their addresses"
        return Cause("not_reached", f"Gateway {host}: it reaches no server of {_all(down)}; {remedy}")
    return None


def _not_reached(host: str, asked: Mapping[str, Any], result: Mapping[str, Any]) -> Cause:
    said = said_by_uri(result)
    if result.get("unreachable"):
        remedy = way_to_reach(said, "bring it back")
        return Cause("host_unreachable", f"Gateway {host}: its host can't be reached any more ({said}); {remedy}")
    outside = asked["by"] == CONTROLLER
    where = "from the controller" if outside else "on its own host"
    remedy = (
        "open its port in the firewall, or, if no client is on that side, set model_gateway_health_from to host"
        if outside
        else "see the gateway's log there"
    )
    what = said or "no answer"
    return Cause("not_reached", f"Gateway {host}: {asked['url']} can't be reached {where} ({what}); {remedy}")


def _listed(result: Mapping[str, Any]) -> set[str]:
    document = result.get("json")
    data = document.get("data") if isinstance(document, Mapping) else None
    return {str(item.get("id")) for item in data or () if isinstance(item, Mapping)}


def _all(names: Sequence[str]) -> str:
    """Return a few of the names, and how many more there are."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return printable(", ".join(names[:5])) + more
