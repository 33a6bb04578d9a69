# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a deployment came to at its gateways: entries of the report, and lines for people. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.text import counted, printable
from ansible_collections.magi.models.plugins.module_utils._llama.cause import Cause
from ansible_collections.magi.models.plugins.plugin_utils._fleet.gateway_health import asked_of, not_told
from ansible_collections.magi.models.plugins.plugin_utils._fleet.reach import said_of, way_to_reach, way_to_root

NOT_CONFIGURED = ("gateway_failed", "host_unreachable")
"""The causes with which a deployment fails; with the others, it is degraded."""


def gateway_entries(gateways: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return an entry of the report for each gateway of the run, from what its tasks registered: configured, and
    installed where HAProxy had to be installed first; and reached, what clients are told. What --limit or --tags left
    out registered nothing."""
    entries = []
    for host, seen in gateways.items():
        results = [seen[name] for name in ("installed", "configured") if name in seen and not seen[name].get("skipped")]
        entries += [_told(_entry(host, result), _answers(seen)) for result in results[:1]]
    return entries


def health_entries(
    gateways: Mapping[str, Mapping[str, Any]], servers: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the entry of each gateway of a health, from what its tasks registered: looked, reached and probed. That
    none of the ``servers`` (of the same health) of a name serves is no fault of the gateway."""
    serves = {(item["host"], item["instance"]): item["is_ready"] for item in servers}
    entries = []
    for host, seen in gateways.items():
        looked = seen.get("looked") or {}
        if "gateway" not in looked:
            entries += [{**_entry(host, looked), "routes": []}] if looked else []
            continue
        entry = dict(looked["gateway"])
        excused = [
            route["names"][0]
            for route in entry["routes"]
            if all(serves.get((item["host"], item["instance"])) is False for item in route["servers"])
        ]
        entry = _told(entry, _answers(seen), excused)
        lazy = {
            name: said
            for name, said in ((seen.get("probed") or {}).get("probes") or {}).items()
            if said and name not in excused
        }
        if lazy and not entry["cause"]:
            name, said = next(iter(lazy.items()))
            more = f" (and so for {counted(len(lazy) - 1, 'other name')})" if len(lazy) > 1 else ""
            entry.update(is_ready=False, cause="no_work", detail=f"Gateway {host}, model {name}: {said}{more}.")
        entries.append(entry)
    return entries


def _answers(seen: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return (seen.get("reached") or {}).get("results") or ()


def _told(entry: dict[str, Any], results: Sequence[Mapping[str, Any]], excused: Collection[str] = ()) -> dict[str, Any]:
    """Return the entry with what clients were told, and why it is not ready if they were told no good."""
    if not results:
        return entry
    entry["asked"] = asked_of(results)
    cause = None if entry["cause"] else not_told(entry["host"], entry["names"], results, excused)
    if cause:
        entry.update(is_ready=False, cause=cause.code, detail=f"{cause.detail}.")
    return entry


def _entry(host: str, result: Mapping[str, Any]) -> dict[str, Any]:
    gateway = result.get("gateway") or {}
    trouble = _trouble(host, result)
    return {
        "host": host,
        "url": gateway.get("url"),
        "url_from": gateway.get("url_from"),
        "asks_key": gateway.get("asks_key", False),
        "names": sorted(name for route in gateway.get("routes", ()) for name in route["names"]),
        "is_ready": not (trouble or result.get("missing")),
        "cause": trouble.code if trouble else None,
        "detail": f"Gateway {host}: {trouble.detail}." if trouble else result.get("missing") or "",
    }


def _trouble(host: str, result: Mapping[str, Any]) -> Cause | None:
    said = said_of(host, result)
    if result.get("unreachable"):
        return Cause(
            "host_unreachable", f"it can't be reached ({said}); {way_to_reach(said, 'bring it back')} and run again"
        )
    if result.get("failed"):
        way = way_to_root(said)
        return Cause("gateway_failed", f"{said}; {way} and run again" if way else said or "see the output above")
    if result.get("missing") and result.get("installable"):
        return Cause("gateway_failed", "HAProxy could not be installed; see the output above")
    return None


def gateway_lines(gateways: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the entries of the report for people."""
    lines = []
    for item in gateways:
        if item["is_ready"]:
            where = f" (on {item['host']} itself)" if item["url_from"] == "host" else ""
            names = ", ".join(item["names"]) or "none"
            lines.append(
                f"Gateway: {item['url']}{where} routes {counted(len(item['names']), 'name')}: {printable(names)}"
            )
        elif not item["cause"]:
            lines.append(f"Note: there is no gateway on {item['host']}: {printable(item['detail'])}.")
    return lines
