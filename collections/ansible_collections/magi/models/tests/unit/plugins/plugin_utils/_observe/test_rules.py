"""What real Prometheus makes of the rules: promtool runs them on series of good, bad and good times again."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import yaml
from ansible_collections.magi.models.plugins.plugin_utils._observe.rules import (
    RECORDS,
    RUNBOOKS,
    LimitError,
    Limits,
    alerts,
    rules,
)

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing (Debian: apt-get install prometheus)")

GOOD, BAD = 20, 30
"""Minutes of each, with a sample a minute; then good ones again."""
WHO = {"host": "gpu1", "instance": "a-2", "model_id": "a"}
SERVER = '{host="gpu1", instance="a-2", model_id="a", job="magi-servers"}'
GATEWAY = '{host="gw1", instance="gateway gw1", job="magi-gateways"}'
AT_GATEWAY = '{host="gw1", model_id="a"}'
CHECKED = '{host="gw1", model_id="a", server="gpu1::a-2", server_host="gpu1", server_instance="a-2"}'
HOST = {"host": "gpu1", "instance": "host gpu1", "job": "magi-hosts"}
NODE = '{host="gpu1", instance="host gpu1", job="magi-hosts"}'


ABSENT = "_"


def gauge(good, bad):
    more = BAD if bad == ABSENT else BAD - 1  # promtool takes 1x3 for four samples, and _x3 for three without a value
    return f"{good}x{GOOD} {bad}x{more} {good}x40"


def counter(good, bad):
    """Return the samples of a counter that grows by so much a minute."""
    middle, end = good * GOOD, good * GOOD + bad * BAD
    return f"0+{good}x{GOOD} {middle + bad}+{bad}x{BAD - 1} {end + good}+{good}x40"


CASES = {
    "MagiServerDown": (
        {f"up{SERVER}": gauge(1, 0)},
        {**WHO, "job": "magi-servers"},
        "Server a-2 on host gpu1 does not answer",
    ),
    "MagiServerNotReady": (
        {f"haproxy_server_check_code{CHECKED}": gauge(200, 503), f"up{SERVER}": gauge(1, 0)},
        WHO,
        "Server a-2 on host gpu1 still loads its model",
    ),
    "MagiServerRestarts": (
        {
            'node_systemd_service_restart_total{host="gpu1", instance="host gpu1", name="magi-llama@a-2.service"}': (
                counter(0, 1)
            )
        },
        {"host": "gpu1", "instance": "a-2"},
        "Server a-2 on host gpu1 starts again and again",
    ),
    "MagiServerQuarantined": (
        {'magi_instance_quarantined{host="gpu1", instance="a-2", model_id="a", job="magi-hosts"}': gauge(0, 1)},
        {**WHO, "job": "magi-hosts"},
        "Server a-2 on host gpu1 failed to start too often, and is left alone",
    ),
    "MagiWrongServer": (
        {f"up{SERVER}": gauge(1, 1), f"llamacpp:requests_processing{SERVER}": gauge(0, ABSENT)},
        {**WHO, "job": "magi-servers"},
        "Something else answers at the port of server a-2 on host gpu1",
    ),
    "MagiServerHung": (
        {f"haproxy_server_check_code{CHECKED}": gauge(200, 200), f"up{SERVER}": gauge(1, 0)},
        {**WHO, "job": "magi-servers"},
        "Server a-2 on host gpu1 answers, and computes nothing",
    ),
    "MagiProbeStopped": (
        {
            'magi_probe_time_seconds{host="gpu1", instance="a-2", model_id="a", job="magi-hosts"}': (
                f"0+60x{GOOD} {60 * GOOD}x{BAD - 1} {60 * (GOOD + BAD)}+60x40"
            )
        },
        {"host": "gpu1"},
        "Host gpu1: nobody has asked its servers for a token for 30m 0s",
    ),
    "MagiMemoryLow": (
        {f"node_memory_MemAvailable_bytes{NODE}": gauge(80, 4), f"node_memory_MemTotal_bytes{NODE}": gauge(100, 100)},
        HOST,
        "Host gpu1 uses 96% of its memory",
    ),
    "MagiQueueLong": (
        {f"haproxy_backend_current_queue{AT_GATEWAY}": gauge(3, 21)},
        {"host": "gw1", "model_id": "a"},
        "Model a at gateway gw1: 21 requests wait",
    ),
    "MagiFirstTokenSlow": (
        {
            f"haproxy_backend_queue_time_average_seconds{AT_GATEWAY}": gauge(0, 8),
            f"haproxy_backend_response_time_average_seconds{AT_GATEWAY}": gauge(1, 4),
            f"haproxy_backend_http_requests_total{AT_GATEWAY}": counter(60, 60),
        },
        {"host": "gw1", "model_id": "a"},
        "Model a at gateway gw1: the first token takes 12 s",
    ),
    "MagiErrors": (
        {
            'haproxy_backend_http_responses_total{host="gw1", model_id="a", code="2xx"}': counter(90, 90),
            'haproxy_backend_http_responses_total{host="gw1", model_id="a", code="5xx"}': counter(0, 10),
        },
        {"host": "gw1", "model_id": "a"},
        "Model a at gateway gw1: 10% of the requests fail",
    ),
    "MagiGatewayDown": (
        {f"up{GATEWAY}": gauge(1, 0)},
        {"host": "gw1", "instance": "gateway gw1", "job": "magi-gateways"},
        "The gateway on host gw1 does not answer",
    ),
    "MagiHostDown": ({f"up{NODE}": gauge(1, 0)}, HOST, "Host gpu1: its node_exporter does not answer"),
    "MagiDiskNearlyFull": (
        {
            f'node_filesystem_{what}{NODE[:-1]}, mountpoint="/models", fstype="ext4"}}': values
            for what, values in (
                ("avail_bytes", gauge(50, 9)),
                ("size_bytes", gauge(100, 100)),
                ("readonly", gauge(0, 0)),
            )
        },
        {**HOST, "mountpoint": "/models", "fstype": "ext4"},
        "Host gpu1: /models is 91% full",
    ),
    "MagiDeploymentFailed": (
        {'magi_deployment_success{host="gpu1", instance="host gpu1", job="magi-hosts"}': gauge(1, 0)},
        HOST,
        "Host gpu1: its last deployment failed",
    ),
    "MagiDrift": (
        {'magi_model_drift{host="gpu1", instance="host gpu1", model_id="a", job="magi-hosts"}': gauge(0, 1)},
        {**HOST, "model_id": "a"},
        "Host gpu1 has other bytes for model a than other hosts",
    ),
}
"""By alert: the series that cause it, and its labels and summary then."""


def promtool(folder, *arguments):
    done = subprocess.run([PROMTOOL, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def verdict(folder, groups):
    """Return what promtool says against the rules; empty if they do what the groups of tests expect."""
    (folder / "rules.yml").write_text(rules(Limits()))
    test = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": groups}
    (folder / "test.yml").write_text(yaml.safe_dump(test))
    return promtool(folder, "test", "rules", "test.yml")


def group(name, series, tests):
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": key, "values": values} for key, values in series.items()],
        "alert_rule_test": tests,
    }


def test_each_alert_has_a_case():
    assert [item.name for item in alerts(Limits())] == [*CASES]


@needs_promtool
def test_each_alert_fires_names_and_resolves_and_no_other_does(tmp_path):
    severities = {item.name: item.severity for item in alerts(Limits())}
    groups = []
    for name, (series, labels, summary) in CASES.items():
        fired = {
            "exp_labels": {**labels, "severity": severities[name]},
            "exp_annotations": {"summary": summary, "runbook_url": f"{RUNBOOKS}#{name.lower()}"},
        }
        tests = [
            {"eval_time": f"{minute}m", "alertname": other, "exp_alerts": [fired] if wanted and other == name else []}
            for minute, wanted in ((GOOD, False), (GOOD + BAD, True), (GOOD + BAD + 30, False))
            for other in (CASES if wanted else (name,))
        ]
        groups.append(group(name, series, tests))
    assert verdict(tmp_path, groups) == ""


@needs_promtool
def test_a_server_that_answers_now_and_then_starts_again_and_again(tmp_path):
    fired = {
        "exp_labels": {"host": "gpu1", "instance": "a-2", "severity": "critical"},
        "exp_annotations": {
            "summary": "Server a-2 on host gpu1 starts again and again",
            "runbook_url": f"{RUNBOOKS}#magiserverrestarts",
        },
    }
    series = {f"up{SERVER}": "1x10 " + "0 1 " * 10}
    tests = [{"eval_time": "29m", "alertname": "MagiServerRestarts", "exp_alerts": [fired]}]
    assert verdict(tmp_path, [group("flapping", series, tests)]) == ""


@needs_promtool
def test_a_server_that_gives_the_probe_nothing_hangs_whatever_else_it_answers(tmp_path):
    fired = {
        "exp_labels": {**WHO, "job": "magi-hosts", "severity": "critical"},
        "exp_annotations": {
            "summary": "Server a-2 on host gpu1 answers, and computes nothing",
            "runbook_url": f"{RUNBOOKS}#magiserverhung",
        },
    }
    told = 'magi_probe_success{host="gpu1", instance="a-2", model_id="a", job="magi-hosts"}'
    hung = {"eval_time": "50m", "alertname": "MagiServerHung", "exp_alerts": [fired]}
    tests = [hung, {"eval_time": "50m", "alertname": "MagiServerDown", "exp_alerts": []}]
    groups = [group(f"up {up}", {told: gauge(1, 0), f"up{SERVER}": gauge(1, up)}, tests) for up in (0, 1)]
    assert verdict(tmp_path, groups) == ""


@needs_promtool
def test_a_pool_is_down_if_its_service_is_or_it_does_not_answer_and_not_while_none_of_its_models_is_loaded(tmp_path):
    unit = '{host="gpu1", instance="host gpu1", name="magi-llama@small.service", state="active", job="magi-hosts"}'
    other = unit.replace("small", "a-2")
    asked = '{host="gpu1", instance="small", model_id="small", job="magi-hosts"}'
    idle = {f'up{{host="gpu1", instance="small", model_id="{name}", job="magi-pools"}}': "0x90" for name in "ab"}
    groups = []
    for name, series, labels in (
        ("service", {f"node_systemd_unit_state{unit}": gauge(1, 0)}, {}),
        ("probe", {f"magi_probe_answers{asked}": gauge(1, 0)}, {"model_id": "small", "job": "magi-hosts"}),
        ("both", {f"node_systemd_unit_state{unit}": gauge(1, 0), f"magi_probe_answers{asked}": gauge(1, 0)}, {}),
    ):
        fired = {
            "exp_labels": {"host": "gpu1", "instance": "small", "severity": "critical", **labels},
            "exp_annotations": {
                "summary": "Server small on host gpu1 does not answer",
                "runbook_url": f"{RUNBOOKS}#magiserverdown",
            },
        }
        tests = [
            {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": expected}
            for minute, expected in ((GOOD, []), (GOOD + BAD, [fired]), (GOOD + BAD + 30, []))
            for alert in ("MagiServerDown", "MagiServerHung", "MagiServerRestarts")
            if alert == "MagiServerDown" or minute == GOOD + BAD
        ]
        for test in tests:
            test["exp_alerts"] = test["exp_alerts"] if test["alertname"] == "MagiServerDown" else []
        # The service of a server that is no pool is not what tells that it is down.
        groups.append(group(name, {**idle, **series, f"node_systemd_unit_state{other}": gauge(1, 0)}, tests))
    assert verdict(tmp_path, groups) == ""


@needs_promtool
def test_an_old_mean_without_requests_is_no_alert(tmp_path):
    series = {
        f"haproxy_backend_queue_time_average_seconds{AT_GATEWAY}": "99x60",
        f"haproxy_backend_response_time_average_seconds{AT_GATEWAY}": "99x60",
        f"haproxy_backend_http_requests_total{AT_GATEWAY}": "7x60",
        'haproxy_backend_http_responses_total{host="gw1", model_id="a", code="5xx"}': "7x60",
    }
    tests = [{"eval_time": "50m", "alertname": name, "exp_alerts": []} for name in CASES]
    assert verdict(tmp_path, [group("idle", series, tests)]) == ""


def test_limits_are_in_the_rules():
    found = rules(Limits.of({"down": 7, "memory": 0.5, "first_token": 0.5}), "https://wiki/runbooks")
    assert "for: 7s" in found
    assert "magi:memory:used_share > 0.5" in found
    assert "magi:first_token:seconds > 0.5" in found
    assert "runbook_url: https://wiki/runbooks#magimemorylow" in found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dwon": 7}, "observability_limits has no limit 'dwon'; it knows down, loading, "),
        ({"down": 0.5}, "down must be a whole number, but is 0.5; "),
        ({"memory": "95%"}, "memory must be a number, but is '95%'; "),
        ({"disk": True}, "disk must be a number, but is True; "),
    ],
)
def test_a_limit_that_is_none_is_refused(given, said):
    with pytest.raises(LimitError) as error:
        Limits.of(given)
    assert said in str(error.value)


def test_an_alert_tells_whom_and_what_to_do():
    for item in alerts(Limits()):
        assert item.severity in ("critical", "warning")
        assert "$labels.host" in item.summary
        assert any("`magi " in step for step in item.steps), item.name
    assert len({item.name for item in RECORDS}) == len(RECORDS)
