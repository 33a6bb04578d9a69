# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What Prometheus records and of what it warns: small data, rendered to its rules and to the runbooks. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ansible_collections.magi.models.plugins.plugin_utils._observe.document import document
from ansible_collections.magi.models.plugins.plugin_utils._observe.targets import JOBS, Kind

RUNBOOKS = "https://github.com/magi-models/magi.models/blob/main/docs/alerts.md"

SERVERS, POOLS, GATEWAYS, HOSTS = (
    f'job="{JOBS[kind]}"' for kind in (Kind.SERVERS, Kind.POOLS, Kind.GATEWAYS, Kind.HOSTS)
)


class LimitError(ValueError):
    """A limit is unknown or no number; the message names it, and the remedy."""


@dataclass(frozen=True)
class Limits:
    """From where on something is worth an alert."""

    down: int = 120
    """Seconds for which a server, gateway or host may not answer; a server that loads its model does not count."""
    loading: int = 600
    """Seconds for which a server may load its model."""
    hung: int = 300
    """Seconds for which a server may answer /health and compute nothing."""
    probe: int = 1200
    """Seconds for which the functional probe, where a host has one, may not run."""
    slow: int = 300
    """Seconds for which it may be slow, full or wrong before anybody is told."""
    queue: float = 20
    """Requests that wait for a slot of a model."""
    first_token: float = 10
    """Seconds to the first token, with the wait for a slot, on average."""
    errors: float = 0.05
    """The share of requests that the gateway or a server answers with status 5xx."""
    memory: float = 0.95
    """The share of a host's memory that is in use."""
    disk: float = 0.9
    """The share of a file system that is in use."""
    restarts: float = 3
    """Starts of a server within a quarter of an hour."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Limits:
        """Return the limits, those ``given`` instead of the defaults. Raises LimitError."""
        kinds = {item.name: item.type for item in fields(cls)}  # as written: int or float
        for name, value in given.items():
            if name not in kinds:
                raise LimitError(f"observability_limits has no limit {name!a}; it knows {', '.join(kinds)}.")
            whole = kinds[name] == "int"
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or value < 0:
                raise LimitError(
                    f"observability_limits: {name} must be a {'whole ' if whole else ''}number, but is {value!a}; "
                    "correct it in the inventory."
                )
        return cls(**given)


@dataclass(frozen=True)
class Record:
    """A series that Prometheus computes, under a name of ours."""

    name: str
    expr: str
    meaning: str


_WHO = "host, instance, model_id"
_LABELS = f"{_WHO}, tier, profile, device"
_AT_GATEWAY = "host, model_id"
_SERVER = 'server!="itself"'
"""That one is the gateway itself: there requests wait while a model has no server."""


def _named(expr: str) -> str:
    """Return a series of the gateway's with the labels of the server that it is about."""
    for label in ("host", "instance"):
        expr = f'label_replace({expr}, "{label}", "$1", "server_{label}", "(.+)")'
    return expr


RECORDS = (
    Record(
        "magi:tokens:rate1m",
        f"sum by ({_LABELS}) (rate(llamacpp:tokens_predicted_total[1m]))",
        "tokens that a server writes, by second",
    ),
    Record(
        "magi:prompt_tokens:rate1m",
        f"sum by ({_LABELS}) (rate(llamacpp:prompt_tokens_total[1m]))",
        "tokens of prompts that a server reads, by second",
    ),
    Record(
        "magi:loading",
        f"max by ({_WHO}) ({_named(f'haproxy_server_check_code{{{_SERVER}}} == bool 503')}) == 1",
        "a server that runs and loads its model: the gateway's check gets status 503",
    ),
    Record(
        "magi:answers",
        f"max by ({_WHO}) ({_named(f'haproxy_server_check_code{{{_SERVER}}} == bool 200')}) == 1",
        "a server that answers the gateway's check",
    ),
    Record(
        "magi:queue",
        f"sum by ({_AT_GATEWAY}) (haproxy_backend_current_queue)",
        "requests that wait for a slot of a model",
    ),
    Record(
        "magi:slots:busy_share",
        f"sum by ({_AT_GATEWAY}) (haproxy_server_current_sessions{{{_SERVER}}}) "
        f"/ sum by ({_AT_GATEWAY}) (haproxy_server_limit_sessions{{{_SERVER}}})",
        "the share of a model's slots that work",
    ),
    Record(
        "magi:first_token:seconds",
        f"max by ({_AT_GATEWAY}) (haproxy_backend_queue_time_average_seconds + "
        "haproxy_backend_response_time_average_seconds and rate(haproxy_backend_http_requests_total[5m]) > 0)",
        "time to the first token, with the wait for a slot: the mean of the last requests of a model",
    ),
    Record(
        "magi:errors:share5m",
        f'sum by ({_AT_GATEWAY}) (rate(haproxy_backend_http_responses_total{{code="5xx"}}[5m])) '
        f"/ (sum by ({_AT_GATEWAY}) (rate(haproxy_backend_http_responses_total[5m])) > 0)",
        "the share of a model's requests that are answered with status 5xx",
    ),
    Record(
        "magi:memory:used_share",
        "1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes",
        "the share of a host's memory that is in use",
    ),
    Record(
        "magi:disk:used_share",
        '1 - node_filesystem_avail_bytes{fstype!~"tmpfs|ramfs|overlay|squashfs"} / node_filesystem_size_bytes '
        "and node_filesystem_readonly == 0",
        "the share of a file system that is in use",
    ),
)


@dataclass(frozen=True)
class Alert:
    """What is worth waking somebody for, or a look in the morning; and its runbook."""

    name: str
    expr: str
    seconds: int
    """For how long it must be so."""
    severity: str
    """critical: clients notice now; warning: they will, or something is wrong that they don't."""
    summary: str
    """Names host and instance, as a template of Prometheus's."""
    meaning: str
    steps: tuple[str, ...]
    """What to look at, and which verb helps; Markdown."""


_GAVE_NOTHING = "magi_probe_success == 0"
"""Of a server that answers /health: others are not asked."""
_INSTANCE = "Server {{ $labels.instance }} on host {{ $labels.host }}"
_MODEL = "Model {{ $labels.model_id }} at gateway {{ $labels.host }}"
_HOST = "Host {{ $labels.host }}"
_VALUE = "{{ $value | humanize }}"
_SHARE = "{{ $value | humanizePercentage }}"
_LOGS = "`magi logs INSTANCE -n 50` shows what it printed, and `magi status` its state and the cause."


def alerts(limits: Limits) -> tuple[Alert, ...]:
    """Return the alerts with these ``limits``."""
    restarts = (
        'sum by (host, instance) (label_replace(increase(node_systemd_service_restart_total{name=~"magi-llama@.+"}'
        '[15m]), "instance", "$1", "name", "magi-llama@(.+)[.]service"))'
    )
    # (Of a pool, a model that is not in memory is not up, and all of them may be.)
    ended = (
        'max by (host, instance) (label_replace(node_systemd_unit_state{name=~"magi-llama@.+",state="active"}, '
        f'"instance", "$1", "name", "magi-llama@(.+)[.]service")) == 0 and on (host, instance) up{{{POOLS}}}'
    )
    return (
        Alert(
            "MagiServerDown",
            f"(up{{{SERVERS}}} == 0 unless on (host, instance) (magi:loading or magi:answers or {_GAVE_NOTHING})) "
            f"or on (host, instance) ({ended}) or on (host, instance) magi_probe_answers == 0",
            limits.down,
            "critical",
            f"{_INSTANCE} does not answer",
            "Prometheus gets no answer from a server: it ended, it hangs, or its host is gone. Or node_exporter tells "
            "that a pool's service is not active, or that the pool did not answer the functional probe.",
            (
                _LOGS,
                "`magi up` starts what should run and does not. It names the cause if that fails.",
                "If `magi stop` ended it on purpose, silence the alert until the next `magi up`.",
            ),
        ),
        Alert(
            "MagiServerNotReady",
            "magi:loading == 1",
            limits.loading,
            "warning",
            f"{_INSTANCE} still loads its model",
            "The gateway's check gets status 503 from a server: it runs, and has not loaded its model yet.",
            (
                f"{_LOGS} A slow or remote disk is the usual cause.",
                "Where models just take that long, raise `observability_limits.loading`.",
            ),
        ),
        Alert(
            "MagiServerRestarts",
            f"({restarts} > {limits.restarts:g}) or sum by (host, instance) (changes(up{{{SERVERS}}}[15m])) > "
            f"{2 * limits.restarts:g}",
            0,
            "critical",
            f"{_INSTANCE} starts again and again",
            "A server ends soon after each start, or answers only now and then.",
            (
                _LOGS,
                "Out of memory: give it a smaller `ctx_size`, or `magi stop` another one. A bad option: correct the "
                "profile, see it with `magi plan`, and run `magi up`.",
            ),
        ),
        Alert(
            "MagiServerQuarantined",
            "magi_instance_quarantined == 1",
            0,
            "warning",
            f"{_INSTANCE} failed to start too often, and is left alone",
            "A deployment did not start a server again that had failed with the same settings before.",
            (
                _LOGS,
                "Remove the cause, then run `magi up -e model_server_retry_quarantined=true`.",
            ),
        ),
        Alert(
            "MagiWrongServer",
            f"up{{{SERVERS}}} == 1 unless on (host, instance) llamacpp:requests_processing",
            limits.slow,
            "critical",
            "Something else answers at the port of server {{ $labels.instance }} on host {{ $labels.host }}",
            "What answers at a server's port is no llama-server with metrics.",
            (
                "`magi status` and `magi doctor` name the process that has the port.",
                "End it, or give the server another port in the profile; then `magi up`.",
                "If the profile sets `metrics: false`, there is nothing to see of the server: take that away.",
            ),
        ),
        Alert(
            "MagiServerHung",
            f"(up{{{SERVERS}}} == 0 and on (host, instance) magi:answers) or on (host, instance) {_GAVE_NOTHING}",
            limits.hung,
            "critical",
            f"{_INSTANCE} answers, and computes nothing",
            "A server answers at `/health`, as it does with a hung GPU. But it does not answer `/metrics`, which waits "
            "for what computes, or did not give the functional probe a token.",
            (
                "If its host has the functional probe, `journalctl -u magi-probe` there tells what the server said.",
                "`magi health --deep` asks each server for one token. If it gets one, Prometheus does not reach the "
                "server that the gateway reaches.",
                f"{_LOGS} On its host, `nvidia-smi` or `rocm-smi` and `dmesg` tell of the device.",
                "`magi stop INSTANCE`, then `magi up`, starts it anew.",
            ),
        ),
        Alert(
            "MagiProbeStopped",
            f"time() - max by (host) (magi_probe_time_seconds) > {limits.probe}",
            0,
            "warning",
            f"{_HOST}: nobody has asked its servers for a token for {{{{ $value | humanizeDuration }}}}",
            "The timer of the functional probe does not run, or its service fails, so nobody sees a server that hangs.",
            (
                "`magi health --deep` asks all servers now.",
                "On the host, `systemctl status magi-probe.timer` and `journalctl -u magi-probe` tell why.",
                "`magi up` starts the timer again.",
            ),
        ),
        Alert(
            "MagiMemoryLow",
            f"magi:memory:used_share > {limits.memory:g}",
            limits.slow,
            "warning",
            f"{_HOST} uses {_SHARE} of its memory",
            "A host is short of memory. The kernel may end a server next.",
            (
                "`magi plan` shows what each server needs and what there is.",
                "Enable fewer models there, or give them a smaller `ctx_size` or `parallel`; then `magi up`.",
            ),
        ),
        Alert(
            "MagiQueueLong",
            f"magi:queue > {limits.queue:g}",
            limits.slow,
            "warning",
            f"{_MODEL}: {_VALUE} requests wait",
            "More requests come than a model's servers answer.",
            (
                "`magi routes` shows the servers of each name with their slots and queue; is one not up?",
                "More `instances`, more hosts, or more slots (`parallel`) in the profile; then `magi up`.",
                "A key may be limited: `concurrent` and `per-minute` in [gateway.md](gateway.md).",
            ),
        ),
        Alert(
            "MagiFirstTokenSlow",
            f"magi:first_token:seconds > {limits.first_token:g}",
            limits.slow,
            "warning",
            f"{_MODEL}: the first token takes {_VALUE} s",
            "Clients wait long for an answer to begin. Where answers are not streamed, this is their whole time.",
            (
                "Do requests wait (`magi routes`)? Then see MagiQueueLong.",
                "Else prompts are long, or the processor is shared with something: compare `magi:prompt_tokens:rate1m` "
                "of the hosts.",
            ),
        ),
        Alert(
            "MagiErrors",
            f"magi:errors:share5m > {limits.errors:g}",
            limits.slow,
            "critical",
            f"{_MODEL}: {_SHARE} of the requests fail",
            "The gateway or the servers of a model answer with status 5xx.",
            (
                "`magi routes` tells which servers are up; the gateway's log has status and server of each request.",
                "502: a server ended before it answered. 503: the model has no server. 504: one took too long. See "
                "[gateway.md](gateway.md).",
                "If it began with a deployment, `magi rollback` takes that back.",
            ),
        ),
        Alert(
            "MagiGatewayDown",
            f"up{{{GATEWAYS}}} == 0",
            limits.down,
            "critical",
            "The gateway on host {{ $labels.host }} does not answer",
            "Prometheus gets no answer from a gateway's metrics. Clients most likely get none, either.",
            (
                "`magi health` asks it as clients do; `magi status` tells whether it runs.",
                "On its host, `journalctl -u magi-gateway` (or `supervisor.log` in its folder) has what HAProxy said.",
                "`magi up` starts it.",
            ),
        ),
        Alert(
            "MagiHostDown",
            f"up{{{HOSTS}}} == 0",
            limits.down,
            "critical",
            f"{_HOST}: its node_exporter does not answer",
            "Prometheus gets no answer from node_exporter: the host is down, not reached, or the exporter has ended.",
            ("`magi status --limit HOST` tells whether the host is reached.",),
        ),
        Alert(
            "MagiDiskNearlyFull",
            f"magi:disk:used_share > {limits.disk:g}",
            limits.slow,
            "warning",
            f"{_HOST}: {{{{ $labels.mountpoint }}}} is {_SHARE} full",
            "A file system has little room. A deployment that can't write its files fails, and what runs stays.",
            (
                "`magi discover` shows the models of each host with their sizes, and files of broken downloads.",
                "Remove what no profile enables.",
            ),
        ),
        Alert(
            "MagiDeploymentFailed",
            "magi_deployment_success == 0",
            0,
            "warning",
            f"{_HOST}: its last deployment failed",
            "The last deployment of a host failed, or some of its servers were not ready at the end.",
            (
                "`magi status` shows what runs now, and why something does not.",
                "Remove the cause, and run `magi up` again: only what differs is touched.",
            ),
        ),
        Alert(
            "MagiDrift",
            "magi_model_drift == 1",
            0,
            "warning",
            f"{_HOST} has other bytes for model {{{{ $labels.model_id }}}} than other hosts",
            "Hosts have different files for one model, so clients get answers of one or the other.",
            (
                "`magi discover` shows which hosts have which file.",
                "Copy the right one to all, then `magi up`.",
            ),
        ),
    )


def rules(limits: Limits, runbooks: str = RUNBOOKS) -> str:
    """Return the rules with these ``limits`` as a file for Prometheus; each alert links to its section of the page
    ``runbooks``."""
    groups = [
        {"name": "magi-records", "rules": [{"record": item.name, "expr": item.expr} for item in RECORDS]},
        {
            "name": "magi-alerts",
            "rules": [
                {
                    "alert": item.name,
                    "expr": item.expr,
                    "for": f"{item.seconds}s",
                    "labels": {"severity": item.severity},
                    "annotations": {"summary": item.summary, "runbook_url": f"{runbooks}#{item.name.lower()}"},
                }
                for item in alerts(limits)
            ],
        },
    ]
    return document({"groups": groups}, "; the next deployment writes it anew.")


def runbooks() -> str:
    """Return docs/alerts.md."""
    lines = [
        "# Alerts and what to do",
        "",
        "Written by `docs/generate.py` from the rules; [observability.md](observability.md) says how Prometheus gets "
        "them. Each alert links to its section here.",
        "",
        "*critical*: clients notice now. *warning*: they will, or something is wrong that they do not see.",
    ]
    for item in alerts(Limits()):
        lines += [
            *("", f"## {item.name}", ""),
            f"*{item.severity}*{f', after {item.seconds} s' if item.seconds else ''}. {item.meaning}",
            *("", *(f"- {step}" for step in item.steps)),
            *("", "```text", item.expr, "```"),
        ]
    lines += [
        *("", "## What is recorded", ""),
        *("| series | meaning |", "|---|---|"),
        *(f"| `{item.name}` | {item.meaning} |" for item in RECORDS),
    ]
    return "\n".join(lines) + "\n"
