"""Discovery across hosts: what each has, what was set aside, and where one id stands for two models."""

from __future__ import annotations

import re

import pytest

from .conftest import Deployment

pytestmark = pytest.mark.e2e


def test_models_what_was_set_aside_and_drift(deployment: Deployment):
    deployment.hosts = {
        host: {
            "model_server_scan_paths": [str(deployment.models / host)],
            "model_server_registry_path": str(deployment.folder / f"{host}.json"),
        }
        for host in ("one", "two")
    }
    deployment.add_model("Q2_K", "one/same.Q2_K.gguf")
    deployment.add_model("Q2_K", "two/same.Q2_K.gguf")
    deployment.add_model("Q3_K_M", "one/other.Q4_K_M.gguf")
    deployment.add_model("Q4_K_M", "two/other.Q4_K_M.gguf")
    (deployment.models / "two" / "broken.gguf").write_bytes(b"GGUF")

    run = deployment.play("discover")
    assert run.code == 0, run.output
    assert len(re.findall(r"^same\.q2_k +Q2 +chat +84\.1 MiB +134\.5 M +8192 +/", run.output, re.MULTILINE)) == 2
    assert re.search(r"Set aside:\n  \S+/two/broken\.gguf ", run.output)
    assert "Drift: other.q4_k_m is not the same on all hosts:" in run.output
    assert "Drift: same.q2_k" not in run.output

    again = deployment.play("discover")
    assert (again.code, again.changed) == (0, 0), again.output
