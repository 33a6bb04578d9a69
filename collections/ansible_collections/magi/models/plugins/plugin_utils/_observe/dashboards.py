# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Dashboards for Grafana: small data, rendered to its JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.magi.models.plugins.plugin_utils._observe.document import document
from ansible_collections.magi.models.plugins.plugin_utils._observe.rules import GATEWAYS, HOSTS, SERVERS

HOST, MODEL = 'host=~"$host"', 'model_id=~"$model"'
"""What the variables at the top of a dashboard choose."""


@dataclass(frozen=True)
class Panel:
    """A graph: each query with the name of its lines."""

    title: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    """Of Grafana's: short, s, bytes, percentunit."""


@dataclass(frozen=True)
class Dashboard:
    name: str
    title: str
    panels: Sequence[Panel]


_WHO = "{{instance}} on {{host}}"
_AT = "{{model_id}} at {{host}}"
_TOKENS = Panel("Tokens written each second", [(f"magi:tokens:rate1m{{{HOST},{MODEL}}}", _WHO)])
_BUSY = Panel("Busy slots", [(f"magi:slots:busy_share{{{MODEL}}}", _AT)], "percentunit")
_QUEUE = Panel("Requests that wait for a slot", [(f"magi:queue{{{MODEL}}}", _AT)])

DASHBOARDS = (
    Dashboard(
        "fleet",
        "magi: the fleet",
        (
            Panel(
                "Answering",
                [
                    (f"sum by (host) (up{{{SERVERS},{HOST}}})", "servers on {{host}}"),
                    (f"sum(up{{{GATEWAYS}}})", "gateways"),
                    (f"sum(up{{{HOSTS}}})", "node_exporters"),
                ],
            ),
            Panel("Alerts", [('sum by (alertname) (ALERTS{alertstate="firing"}) or vector(0)', "{{alertname}}")]),
            _TOKENS,
            _BUSY,
            Panel(
                "Last deployment went well",
                [(f"magi_deployment_success{{{HOST}}}", "{{host}}")],
            ),
            Panel(
                "Since the last deployment",
                [(f"time() - magi_deployment_time_seconds{{{HOST}}}", "{{host}}")],
                "s",
            ),
        ),
    ),
    Dashboard(
        "model",
        "magi: a model",
        (
            _TOKENS,
            Panel("Prompt tokens read each second", [(f"magi:prompt_tokens:rate1m{{{HOST},{MODEL}}}", _WHO)]),
            Panel("Requests at work", [(f"llamacpp:requests_processing{{{HOST},{MODEL}}}", _WHO)]),
            _QUEUE,
            Panel("To the first token", [(f"magi:first_token:seconds{{{MODEL}}}", _AT)], "s"),
            Panel("Requests that fail", [(f"magi:errors:share5m{{{MODEL}}}", _AT)], "percentunit"),
        ),
    ),
    Dashboard(
        "gateway",
        "magi: the gateways",
        (
            Panel(
                "Requests each second",
                [(f"rate(haproxy_backend_http_requests_total{{{HOST},{MODEL}}}[1m])", _AT)],
            ),
            Panel(
                "Answers each second",
                [
                    (
                        f"sum by (host, code) (rate(haproxy_backend_http_responses_total{{{HOST},{MODEL}}}[1m]))",
                        "{{code}} at {{host}}",
                    )
                ],
            ),
            _QUEUE,
            _BUSY,
            Panel(
                "Servers that are up",
                [
                    (
                        "sum by (host, model_id) "
                        f'(haproxy_server_status{{state="UP",server!="itself",{HOST},{MODEL}}})',
                        _AT,
                    )
                ],
            ),
            Panel(
                "Time in the queue",
                [(f"haproxy_backend_queue_time_average_seconds{{{HOST},{MODEL}}}", _AT)],
                "s",
            ),
        ),
    ),
    Dashboard(
        "capacity",
        "magi: capacity",
        (
            Panel("Memory in use", [(f"magi:memory:used_share{{{HOST}}}", "{{host}}")], "percentunit"),
            Panel("Memory that is free", [(f"node_memory_MemAvailable_bytes{{{HOST}}}", "{{host}}")], "bytes"),
            Panel("Disk in use", [(f"magi:disk:used_share{{{HOST}}}", "{{mountpoint}} of {{host}}")], "percentunit"),
            _BUSY,
            Panel(
                "Busiest hour of the day: slots",
                [(f"max_over_time(magi:slots:busy_share{{{MODEL}}}[1h])", _AT)],
                "percentunit",
            ),
            Panel(
                "Tokens a day",
                [
                    (
                        f"sum by (model_id) (increase(llamacpp:tokens_predicted_total{{{HOST},{MODEL}}}[1d]))",
                        "{{model_id}}",
                    )
                ],
            ),
        ),
    ),
)

_SOURCE = {"type": "prometheus", "uid": "${source}"}


def dashboards(home: str) -> dict[str, str]:
    """Return the files for Grafana: a dashboard each, and what provisions them from the folder ``home``."""
    provider = {
        "apiVersion": 1,
        "providers": [{"name": "magi", "folder": "magi", "type": "file", "options": {"path": f"{home}/dashboards"}}],
    }
    return {
        "grafana.yml": document(provider, ". Link it into Grafana's provisioning/dashboards."),
        **{f"dashboards/magi-{item.name}.json": json.dumps(_dashboard(item), indent=1) + "\n" for item in DASHBOARDS},
    }


def _dashboard(item: Dashboard) -> dict[str, Any]:
    return {
        "uid": f"magi-{item.name}",
        "title": item.title,
        "tags": ["magi"],
        "schemaVersion": 38,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [{"title": "magi", "type": "dashboards", "tags": ["magi"], "keepTime": True, "includeVars": True}],
        "templating": {
            "list": [
                {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
                _choice("host", "Host", "label_values(up, host)"),
                _choice("model", "Model", f"label_values(up{{{SERVERS}}}, model_id)"),
            ]
        },
        "panels": [_panel(number, panel) for number, panel in enumerate(item.panels)],
    }


def _choice(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": query,
        "refresh": 2,  # with each change of the time that is shown
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    """Return a panel; there are two in a row of 24 columns."""
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _SOURCE,
        "gridPos": {"h": 8, "w": 12, "x": number % 2 * 12, "y": number // 2 * 8},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": _SOURCE, "expr": expr, "legendFormat": legend}
            for place, (expr, legend) in enumerate(panel.queries)
        ],
    }
