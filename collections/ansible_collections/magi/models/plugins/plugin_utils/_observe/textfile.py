# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What llama-server does not tell: how a host was deployed, as a file for node_exporter's textfile collector. Pure."""

from __future__ import annotations

import calendar
import time
from collections.abc import Iterable, Iterator, Mapping

from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._base.text import printable
from ansible_collections.magi.models.plugins.module_utils._models.drift import Drift
from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import HostResult, cause_of

FILE = "magi.prom"


def textfile(result: HostResult, drifted: Iterable[Drift]) -> str:
    """Return the metrics of a host's deployment, which are the same again where a run changes nothing; ``drifted`` are
    the models of which hosts have different files."""
    lines: dict[str, list[str]] = {}
    for name, value, labels in _samples(result, drifted):
        lines.setdefault(name, []).append(f"{name}{labelled(labels)} {value}")
    return "".join(
        f"# HELP {name} {_HELP[name]}\n# TYPE {name} gauge\n" + "".join(f"{line}\n" for line in found)
        for name, found in lines.items()
    )


def labelled(labels: Mapping[str, str]) -> str:
    """Return labels as they stand in a series."""
    shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{{{shown}}}"


_HELP = {
    "magi_deployment_success": "Whether the last deployment of the host went well, and all of its servers were ready.",
    "magi_deployment_generation": "Deployments that have changed the host.",
    "magi_deployment_time_seconds": "When the last of them changed it.",
    "magi_deployment_info": "The profile that it deployed.",
    "magi_instance_ready": "Whether the server was ready when the last deployment ended.",
    "magi_instance_quarantined": "Whether the server is not started again, as it failed with the same settings before.",
    "magi_model_drift": "Another file than most hosts have for the model.",
}


def _samples(result: HostResult, drifted: Iterable[Drift]) -> Iterator[tuple[str, int, dict[str, str]]]:
    host = {"host": result.name}
    plan = result.plan
    causes = {item.name: cause_of(item, result) for item in result.served}
    well = plan is not None and result.trouble is None and not any(causes.values())
    yield "magi_deployment_success", int(well), host
    now = result.generation or (result.after.generation if result.after else None)
    if now and now.number:
        yield "magi_deployment_generation", now.number, host
        yield "magi_deployment_time_seconds", _seconds(now.applied_at), host
        yield "magi_deployment_info", 1, {**host, "profile": now.profile}
    quarantined = plan.names(ActionKind.QUARANTINE) if plan else ()
    for item in result.served:
        labels = {**host, "instance": item.name, "model_id": item.model_id}
        cause = causes[item.name]
        yield "magi_instance_ready", int(cause is None), {**labels, "cause": cause.code if cause else ""}
        yield "magi_instance_quarantined", int(item.name in quarantined), labels
    for drift in drifted:
        if any(result.name in variant.hosts for variant in drift.variants[1:]):
            yield "magi_model_drift", 1, {**host, "model_id": drift.id}


def _seconds(moment: str) -> int:
    """Return an ISO 8601 time in UTC in seconds since the epoch; 0 if it is none."""
    try:
        return calendar.timegm(time.strptime(moment[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return 0


def _escaped(text: str) -> str:
    return printable(text).replace("\\", "\\\\").replace('"', '\\"')
