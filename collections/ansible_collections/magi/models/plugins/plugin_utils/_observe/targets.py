# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What Prometheus asks: all servers, gateways and hosts, as documents for its file_sd_configs. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from ansible_collections.magi.models.plugins.module_utils._base.states import Word
from ansible_collections.magi.models.plugins.module_utils._base.text import printable
from ansible_collections.magi.models.plugins.module_utils._plan.devices import meant_for
from ansible_collections.magi.models.plugins.module_utils._plan.values import Instance
from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import HostResult
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import Way
from ansible_collections.magi.models.plugins.plugin_utils._gateway.haproxy import endpoint
from ansible_collections.magi.models.plugins.plugin_utils._gateway.routes import address_from, unknown_hosts


class Kind(Word):
    """What is asked; the targets of each kind have files of their own, and a job in Prometheus's configuration."""

    SERVERS = "servers"
    KEYED = "keyed-servers"
    """Servers that want a key."""
    POOLS = "pools"
    """The models of pools: one that is not in memory has no metrics, and is not loaded to have some."""
    KEYED_POOLS = "keyed-pools"
    GATEWAYS = "gateways"
    HOSTS = "hosts"
    """node_exporter."""
    GPUS = "gpus"
    """Exporters of GPU metrics, which others installed."""


JOBS = {
    Kind.SERVERS: "magi-servers",
    Kind.KEYED: "magi-servers",
    Kind.POOLS: "magi-pools",
    Kind.KEYED_POOLS: "magi-pools",
    Kind.GATEWAYS: "magi-gateways",
    Kind.HOSTS: "magi-hosts",
    Kind.GPUS: "magi-gpus",
}
"""The label job of each kind."""


@dataclass(frozen=True)
class Exporter:
    """Where a host offers metrics that are not a server's."""

    host: str
    way: Way
    kind: Kind
    address: str
    """What it binds."""
    port: int
    remedy: str
    """How it can be reached from elsewhere."""
    name: str = ""
    """What it is, if that is more than its kind."""


@dataclass(frozen=True)
class Targets:
    files: dict[str, str] = field(default_factory=dict)
    """By name, of the hosts that are known; each has its own."""
    keep: tuple[str, ...] = ()
    """The names of the files that stay as they are: of hosts that this run knows nothing of."""
    warnings: tuple[str, ...] = ()


def targets(
    monitor: str,
    way: Way,
    hosts: Sequence[HostResult],
    exporters: Iterable[Exporter] = (),
    unknown: Iterable[tuple[str, Kind]] = (),
    *,
    has_key: bool = False,
) -> Targets:
    """Return the documents with which Prometheus on the host ``monitor``, which Ansible gets to by ``way``, asks the
    servers that each of ``hosts`` deploys or keeps, and the ``exporters``.

    What Prometheus knows of a host that was not deployed, and of the ``unknown``, it keeps. ``has_key``: it has the key
    of the servers that want one; without it these are left out, since it would take their refusal for a failure.
    """
    not_deployed = unknown_hosts(hosts)
    found: dict[str, list[dict[str, object]]] = {}
    warnings = []
    for result in hosts:
        if result.plan is None or result.name in not_deployed:
            continue
        for instance in result.served:
            address = address_from(monitor, way, instance.address, result.name, result.way)
            where = f"Host {result.name}, instance {instance.name}"
            if not address:
                warnings.append(
                    f"{where}: it binds {instance.address}, where Prometheus on {monitor} can't reach it; set "
                    "model_server_host there to an address that others reach."
                )
            elif instance.api_key_file and not has_key:
                warnings.append(
                    f"{where}: it has an API key file, and Prometheus on {monitor} has no key; set "
                    "observability_key_file to a file there with a key of the server."
                )
            else:
                kinds = (Kind.POOLS, Kind.KEYED_POOLS) if instance.members else (Kind.SERVERS, Kind.KEYED)
                documents = found.setdefault(_name(kinds[bool(instance.api_key_file)], result.name), [])
                for part in instance.each:
                    labels = _labels(result.name, result.plan.profile, instance, part)
                    documents.append(_target(address, instance.port, labels))
    for item in exporters:
        address = address_from(monitor, way, item.address, item.host, item.way)
        if address:
            labels = {"host": item.host, "instance": f"{item.name or item.kind.value.removesuffix('s')} {item.host}"}
            found.setdefault(_name(item.kind, item.host), []).append(_target(address, item.port, labels))
        else:
            warnings.append(
                f"Host {item.host}: its metrics are at {item.address}, where Prometheus on {monitor} can't reach them; "
                f"{item.remedy}."
            )
    return Targets(
        {name: json.dumps(documents, indent=1) + "\n" for name, documents in sorted(found.items())},
        tuple(sorted(_kept(not_deployed, unknown))),
        tuple(warnings),
    )


def gateway_exporters(gateways: Mapping[str, Mapping[str, Any]]) -> tuple[list[Exporter], list[tuple[str, Kind]]]:
    """Return where the gateways offer their metrics, from what their tasks registered, and those of which this run does
    not know it."""
    found, unknown = [], []
    for host, seen in gateways.items():
        results = [seen[name] for name in ("installed", "configured") if name in seen and not seen[name].get("skipped")]
        result = results[0] if results else {}
        if result.get("failed") or "gateway" not in result:
            unknown.append((host, Kind.GATEWAYS))
        elif not result.get("missing") and result["gateway"]["metrics"]["port"]:
            metrics = result["gateway"]["metrics"]
            remedy = "set model_gateway_metrics_address there to an address that others reach"
            way = Way(**metrics["way"])
            found.append(Exporter(host, way, Kind.GATEWAYS, metrics["address"], metrics["port"], remedy))
    return found, unknown


def host_exporters(
    ways: Mapping[str, Way | None], address: str, port: int
) -> tuple[list[Exporter], list[tuple[str, Kind]]]:
    """Return where node_exporter, which binds ``address``, is on each host; ``ways`` has None for those to which this
    run knows no way, which are returned, too. Port 0: it is on none."""
    remedy = "let node_exporter bind another address, and set observability_node_address to it"
    found = [Exporter(host, way, Kind.HOSTS, address, port, remedy) for host, way in ways.items() if way and port]
    return found, [(host, Kind.HOSTS) for host, way in ways.items() if port and not way]


def gpu_exporters(
    ways: Mapping[str, Way | None], gpus: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Exporter], list[tuple[str, Kind]]]:
    """Return the exporters of GPU metrics, from what the module gpu_exporter_info returned on each host, and the hosts
    of which this run does not know them; ``ways`` as for host_exporters."""
    remedy = "let its exporter bind another address"
    found, unknown = [], []
    for host, way in ways.items():
        exporters = gpus.get(host, {}).get("exporters")
        if way is None or exporters is None:
            unknown.append((host, Kind.GPUS))
        else:
            found += [
                Exporter(host, way, Kind.GPUS, item["address"], item["port"], remedy, item["name"])
                for item in exporters
            ]
    return found, unknown


def _kept(not_deployed: Iterable[str], unknown: Iterable[tuple[str, Kind]]) -> Iterator[str]:
    for host in not_deployed:
        kinds = (Kind.SERVERS, Kind.KEYED, Kind.POOLS, Kind.KEYED_POOLS)
        yield from (_name(kind, host) for kind in kinds)
    yield from (_name(kind, host) for host, kind in unknown)


def _name(kind: Kind, host: str) -> str:
    return f"{kind.value}-of-{quote(host, safe='')}.json"


def _target(address: str, port: int, labels: dict[str, str]) -> dict[str, object]:
    return {"targets": [endpoint(address, port)], "labels": labels}


def _labels(host: str, profile: str, instance: Instance, part: Instance) -> dict[str, str]:
    device = part.environment.get("LLAMA_ARG_DEVICE") or meant_for(instance.environment) or "cpu"
    return {
        "host": host,
        "instance": instance.name,
        "model_id": part.model_id,
        "tier": part.tier,
        "profile": printable(profile),
        "device": printable(device),
        # Prometheus makes the parameters of its question of these, and no labels.
        **({"__param_model": part.model_id, "__param_autoload": "false"} if instance.members else {}),
    }
