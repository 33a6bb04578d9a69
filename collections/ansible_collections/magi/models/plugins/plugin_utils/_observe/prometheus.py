# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Prometheus's own configuration. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ansible_collections.magi.models.plugins.plugin_utils._observe.document import document
from ansible_collections.magi.models.plugins.plugin_utils._observe.targets import JOBS, Kind

FROM_GATEWAY = [
    # One series for each state of each check of each server; what is UP is enough.
    {
        "source_labels": ["__name__"],
        "regex": "haproxy_(?:server|backend_agg(?:_server)?)_check_status",
        "action": "drop",
    },
    # A backend is a model, and a server has host and instance in its name; but these backends are the gateway's own.
    {"source_labels": ["proxy"], "regex": ":[a-z].*", "action": "drop"},
    {
        "source_labels": ["__name__", "proxy"],
        "regex": "haproxy_(?:backend|server)_.+;(.+)",
        "target_label": "model_id",
    },
    {"source_labels": ["server"], "regex": "(.+)::([^:]+)", "target_label": "server_host"},
    {"source_labels": ["server"], "regex": "(.+)::([^:]+)", "target_label": "server_instance", "replacement": "$2"},
]
"""What becomes of the metrics of a gateway (metric_relabel_configs)."""

_KEYED = (Kind.KEYED, Kind.KEYED_POOLS)


def prometheus(home: str, interval: int, key_file: str = "", alertmanagers: Sequence[str] = ()) -> str:
    """Return the configuration that asks all targets in the folder ``home`` each ``interval`` seconds, evaluates the
    rules there, and sends alerts to ``alertmanagers`` (addresses with ports). Servers that want a key get that in
    ``key_file``, which is on Prometheus's host."""
    content: dict[str, Any] = {
        "global": {"scrape_interval": f"{interval}s", "evaluation_interval": f"{interval}s"},
        "rule_files": [f"{home}/rules.yml"],
        "scrape_configs": [_job(kind, home, key_file) for kind in Kind if key_file or kind not in _KEYED],
    }
    if alertmanagers:
        content["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": list(alertmanagers)}]}]}
    return document(content, "; the next deployment writes it anew.")


def _job(kind: Kind, home: str, key_file: str) -> dict[str, Any]:
    job: dict[str, Any] = {
        "job_name": f"magi-{kind}",
        "file_sd_configs": [{"files": [f"{home}/targets/{kind}-of-*.json"]}],
    }
    if kind in _KEYED:
        job["authorization"] = {"credentials_file": key_file}
        job["relabel_configs"] = [{"target_label": "job", "replacement": JOBS[kind]}]
    elif kind is Kind.GATEWAYS:
        job["metric_relabel_configs"] = FROM_GATEWAY
    elif kind is Kind.HOSTS:
        job["honor_labels"] = True  # what a deployment writes there has the labels of its instances
    return job
