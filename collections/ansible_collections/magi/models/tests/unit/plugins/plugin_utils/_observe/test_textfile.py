from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._host.values import Generation
from ansible_collections.magi.models.plugins.module_utils._llama.cause import Cause
from ansible_collections.magi.models.plugins.module_utils._models.drift import Drift, Variant
from ansible_collections.magi.models.plugins.module_utils._plan.values import Action
from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import HostResult
from ansible_collections.magi.models.plugins.plugin_utils._observe.textfile import textfile
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import host, model, plan, running

PLAN = plan("a", models=[model("a")])
SERVES = host(*(running(item, health=200, model_ids=("a",)) for item in PLAN.instances))
WHEN = Generation(7, "x", "me", "2026-11-26T10:00:00Z", 'pro"\n\\')
PROMTOOL = shutil.which("promtool")


def samples(result, drifted=()):
    lines = textfile(result, drifted).splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def test_a_host_that_was_deployed():
    assert samples(HostResult("gpu1", PLAN, after=SERVES, generation=WHEN)) == {
        'magi_deployment_success{host="gpu1"}': "1",
        'magi_deployment_generation{host="gpu1"}': "7",
        'magi_deployment_time_seconds{host="gpu1"}': "1795687200",
        'magi_deployment_info{host="gpu1",profile="pro\\"\\\\n\\\\"}': "1",
        'magi_instance_ready{host="gpu1",instance="a",model_id="a",cause=""}': "1",
        'magi_instance_quarantined{host="gpu1",instance="a",model_id="a"}': "0",
    }


@pytest.mark.parametrize(
    "result",
    [
        HostResult("gpu1"),
        HostResult("gpu1", PLAN, after=SERVES, trouble=Cause("host_failed", "no")),
        HostResult("gpu1", PLAN, after=host()),
    ],
)
def test_a_host_that_was_not_deployed_well(result):
    assert samples(result)['magi_deployment_success{host="gpu1"}'] == "0"


def test_a_server_that_is_left_alone():
    left = replace(PLAN, actions=(Action("a", ActionKind.QUARANTINE, "it failed"),))
    found = samples(HostResult("gpu1", left, after=host()))
    assert found['magi_instance_quarantined{host="gpu1",instance="a",model_id="a"}'] == "1"


def test_the_host_with_another_file_than_most():
    drift = Drift("a", (Variant(1, "x", None, ("gpu2", "gpu3")), Variant(2, "y", None, ("gpu1",))))
    name = 'magi_model_drift{host="%s",model_id="a"}'
    assert samples(HostResult("gpu1"), [drift])[name % "gpu1"] == "1"
    assert name % "gpu2" not in samples(HostResult("gpu2"), [drift])


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing (Debian: apt-get install prometheus)")
def test_prometheus_reads_it():
    text = textfile(HostResult("gpu1", PLAN, after=SERVES, generation=WHEN), ())
    done = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
