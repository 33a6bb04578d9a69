"""The main job as test_ansible_versions.py runs it with each other ansible-core, which alone runs it.

What a profile, a switch or a stop does is our own code: test_main_job.py, and the unit tests with each ansible-core.
"""

from __future__ import annotations

import pytest

from .conftest import Deployment, ask

pytestmark = pytest.mark.e2e


def test_from_files_to_answers_and_back(deployment: Deployment):
    for quantization in ("Q2_K", "Q3_K_M"):
        deployment.add_model(quantization)
    checked = deployment.play("site", "--check", "--diff")
    assert checked.code == 0, checked.output
    assert deployment.tree() == {}
    first = deployment.play("site", "--diff")
    assert first.code == 0, first.output
    servers = deployment.servers()
    assert (len(servers), deployment.report()["summary"]["warnings"]) == (2, [])
    for server in servers.values():
        assert "France" in ask(server["port"])
    again = deployment.play()
    assert (again.code, again.changed) == (0, 0), again.output
    assert {n: s["pid"] for n, s in deployment.servers().items()} == {n: s["pid"] for n, s in servers.items()}
    gone = deployment.play("teardown")
    assert (gone.code, gone.changed) == (0, 1), gone.output
    assert not deployment.registry.exists()
