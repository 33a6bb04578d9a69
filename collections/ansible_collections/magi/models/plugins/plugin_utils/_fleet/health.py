# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether everything deployed serves: from a look at the hosts, and from what clients are told. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.states import State
from ansible_collections.magi.models.plugins.module_utils._host.values import Host, Running
from ansible_collections.magi.models.plugins.module_utils._llama.cause import Cause, find_cause
from ansible_collections.magi.models.plugins.plugin_utils._fleet.gateways import health_entries
from ansible_collections.magi.models.plugins.plugin_utils._fleet.questions import Answer
from ansible_collections.magi.models.plugins.plugin_utils._fleet.readiness import wrong_though_healthy
from ansible_collections.magi.models.plugins.plugin_utils._fleet.status import build_status, not_serving
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import Way


@dataclass(frozen=True)
class HostHealth:
    """What is known about a host."""

    host: Host | None = None
    """None: it could not be asked."""
    answers: Mapping[str, Answer] = field(default_factory=dict)
    """By instance, what its clients are told."""
    probes: Mapping[str, str] = field(default_factory=dict)
    """By instance, why it did not do its work; empty if it did."""
    way: Way = field(default_factory=Way)


def cause_of(now: Running, examined: HostHealth) -> Cause | None:
    """Return why an instance of an examined host does not serve, or None if it does."""
    if now.state is State.STOPPED:
        return Cause("stopped", "it is stopped; magi up starts it")
    if now.state in (State.FAILED, State.BACKOFF):
        return find_cause(now.log, now.exit_status, now.memory_max)
    if now.health == 503:
        return Cause("loading", "it still loads its model; ask again in a moment")
    if now.health != 200:
        said = f"answers HTTP status {now.health}" if now.health else "does not answer"
        return Cause("not_ready", f"it {said} at /health; see its log (magi logs)")
    wrong = examined.host and wrong_though_healthy(now, examined.host)
    if wrong:
        return wrong
    answer = examined.answers.get(now.name)
    if answer and answer.cause:
        return answer.cause
    probed = examined.probes.get(now.name)
    return Cause("no_work", probed) if probed else None


def build_health(
    hosts: Mapping[str, HostHealth], gateways: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Return what runs, as build_status does; summary.failed says what does not serve and why. ``gateways`` are the
    results of their tasks (see health_entries)."""
    document = build_status(
        {name: examined.host for name, examined in hosts.items()},
        {name: examined.way for name, examined in hosts.items()},
    )
    failed: list[dict[str, Any]] = []
    for server in document["servers"]:
        examined = hosts[server["host"]]
        # Whoever has a server was looked at.
        now = next(item for item in examined.host.instances if item.name == server["instance"])  # type: ignore[union-attr]
        cause = cause_of(now, examined)
        server["is_ready"] = cause is None
        answer = examined.answers.get(now.name)
        if answer:
            server["asked"] = {"url": answer.question.url, "by": answer.question.by, "status": answer.status}
        if cause:
            failed.append(not_serving(server["host"], now.name, cause))
    ready = sum(server["is_ready"] for server in document["servers"])
    document["ready_servers"] = document["summary"]["servers_ready"] = ready
    entries = health_entries(gateways or {}, document["servers"])
    if entries:
        document["gateways"] = entries
    failed += [
        {"instance": None, "host": item["host"], "cause": item["cause"], "detail": item["detail"]}
        for item in entries
        if item["cause"]
    ]
    document["summary"]["failed"] = failed
    return document


def health_problems(document: Mapping[str, Any], hosts: Mapping[str, HostHealth]) -> dict[str, str]:
    """Return by host the sentence to fail with; a gateway whose host has no servers is a problem of the first."""
    found: dict[str, str] = {}
    for item in document["summary"]["failed"]:
        host = item["host"] if item["host"] in hosts else next(iter(hosts))
        found[host] = " ".join([*([found[host]] if host in found else []), item["detail"]])
    if not document["servers"]:
        found = {name: f"Host {name}: no server runs; magi up starts what the profile enables." for name in hosts}
    return found
