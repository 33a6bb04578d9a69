"""What the gateways know of their clients' keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from magi.errors import DeploymentFailed, UsageError
from magi.events import Run
from magi.result import Result
from magi.verdict.lost import beside, lost


def listed(run: Run) -> Result:
    """Return the keys of each gateway. Raises HostUnreachable or DeploymentFailed if none answered."""
    return replace(_held(run), told=_listed)


def added(run: Run, name: str, key: str) -> Result:
    """Return the ``key`` of this name, and the gateways that have it. Raises what ``listed`` raises."""
    found = _held(run)
    hosts = [host for host, item in found.document["gateways"].items() if name in _names(item)]
    return replace(found, document={"name": name, "key": key, **found.document, "hosts": hosts}, told=_added)


def revoked(run: Run, name: str) -> Result:
    """Return the gateways that have lost the key of this name. Raises UsageError if no gateway had one, and none was
    lost that may have it, and what ``listed`` raises."""
    found = _held(run)
    if not (found.problem or any(result.get("changed") for _host, result in run.of("keys", "in_use"))):
        known = sorted({one for item in found.document["gateways"].values() for one in _names(item)})
        raise UsageError(f"No gateway has a key {name!r}: there are {', '.join(known) or 'none'}; see magi key list.")
    return replace(found, document={"name": name, **found.document}, told=_revoked)


def _held(run: Run) -> Result:
    gateways = {host: {"keys": result["keys"], "in_use": result["in_use"]} for host, result in run.of("keys", "in_use")}
    error = lost(run)
    if not gateways:
        raise error or DeploymentFailed("No gateway returned its keys: run it with -v to see what was done.")
    return beside(error, Result({"gateways": gateways}))


def _names(gateway: Mapping[str, Any]) -> list[str]:
    return [item["name"] for item in gateway["keys"]]


def _later(document: Mapping[str, Any]) -> list[str]:
    """Return a sentence for gateways that don't use their file of keys yet."""
    later = [host for host, item in document["gateways"].items() if not item["in_use"]]
    return [f"Not in use yet on {', '.join(later)}: the next deployment (magi up) does that."] if later else []


def _added(document: Mapping[str, Any]) -> list[str]:
    where = ", ".join(document["hosts"])
    return [f"The key {document['name']} is on {where}. It is shown only now: keep it.", *_later(document)]


def _revoked(document: Mapping[str, Any]) -> list[str]:
    return [f"The key {document['name']} is gone from {', '.join(document['gateways'])}.", *_later(document)]


def _listed(document: Mapping[str, Any]) -> list[str]:
    from magi.domain import text_table  # slow to import: once Ansible is done

    rows = [
        (
            *(host, item["name"], ", ".join(item["models"]) or "all"),
            *(item[limit] or "any" for limit in ("concurrent", "per_minute")),
            item["expires"] or "never",
        )
        for host, gateway in document["gateways"].items()
        for item in gateway["keys"]
    ]
    head = ("gateway", "key", "models", "at once", "a minute", "expires")
    table = text_table(head, rows) if rows else ["There are no keys; magi key add NAME makes one."]
    return [*table, *_later(document)]
