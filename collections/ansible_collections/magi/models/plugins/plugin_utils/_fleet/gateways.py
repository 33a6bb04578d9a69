# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a deployment came to at its gateways: entries of the report, and lines for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.text import counted, printable
from ansible_collections.magi.models.plugins.module_utils._llama.cause import Cause
from ansible_collections.magi.models.plugins.plugin_utils._fleet.reach import way_to_reach, way_to_root


def gateway_entries(gateways: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return an entry of the report for each gateway of the run, from what its tasks registered: configured, and
    installed where HAProxy had to be installed first. What --limit or --tags left out registered nothing."""
    entries = []
    for host, seen in gateways.items():
        results = [seen[name] for name in ("installed", "configured") if name in seen and not seen[name].get("skipped")]
        entries += [_entry(host, result) for result in results[:1]]
    return entries


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
    said = " ".join(str(result.get("msg", "")).split()).rstrip(".")
    for words in ("Task failed: ", "Module failed: ", f"Host {host}: "):  # Ansible's own come first
        said = said.removeprefix(words)
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
