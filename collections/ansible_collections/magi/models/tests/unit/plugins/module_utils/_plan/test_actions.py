from __future__ import annotations

import pytest
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import (
    host,
    plan,
    running,
    settings,
)

FIRST = plan("a-q2_k").instances[0]


def failed(**more):
    return running(FIRST, **{"state": "failed", "pid": None, "exit_status": "exit status 1", **more})


@pytest.mark.parametrize(
    ("now", "action", "reason"),
    [
        (None, "start", "new in this profile"),
        (running(FIRST), "keep", "runs as desired"),
        (running(FIRST, state="starting"), "keep", "runs as desired"),
        (running(FIRST, asleep=True), "keep", "asleep, as desired"),
        (running(FIRST, keys_changed=True), "restart", "its API key file changed after it started"),
        (running(FIRST, state="stopped", pid=None), "start", "was stopped"),
        # started from an older file: what is desired has not been tried yet
        (failed(config_hash=None), "start", "was failed (exit status 1)"),
        (failed(config_hash="x"), "start", "was failed (exit status 1)"),
        (failed(), "quarantine", "failed with exactly this configuration (exit status 1)"),
        (
            failed(log=("error: invalid argument: --x",)),
            "quarantine",
            "failed with exactly this configuration (exit status 1)",
        ),
        # repaired where no hash shows it
        (
            failed(log=("couldn't bind HTTP server socket, hostname: ::, port: 1",)),
            "start",
            "was failed (exit status 1)",
        ),
        (running(FIRST, manager="systemd"), "restart", "moves here from systemd"),
        (failed(manager="docker"), "restart", "moves here from docker"),
        (running(FIRST, state="orphaned", pid=7), "restart", "process 7 runs outside its service manager"),
        (
            running(FIRST, config_hash="x"),
            "restart",
            "its model file, arguments or llama-server changed",
        ),
        (
            running(
                FIRST,
                config_hash="x",
                environment={**running(FIRST).environment, "LLAMA_ARG_CTX_SIZE": "9", "LLAMA_ARG_THREADS": "1"},
            ),
            "restart",
            "ctx_size 9 → unset",
        ),
    ],
)
def test_running_is_compared_with_desired(now, action, reason):
    value = plan("a-q2_k", on=host(*([now] if now else [])))
    assert [(item.action, item.reason) for item in value.actions] == [(action, reason)]


def test_a_quarantined_instance_is_tried_again_when_it_is_asked_for():
    value = plan("a-q2_k", on=host(failed()), with_settings=settings(retry_quarantined=True))
    assert [item.action for item in value.actions] == ["start"]


def test_what_is_not_enabled_is_stopped():
    value = plan("d-q4_1", on=host(running(FIRST)))
    assert [(item.instance, item.action) for item in value.actions] == [("d-q4_1", "start"), ("a-q2_k", "stop")]
    assert value.actions[1].reason == "not enabled by profile test"


def test_switching_profiles_keeps_what_both_enable_though_its_share_changes():
    both = plan("*")
    value = plan("a-q2_k", on=host(*(running(item) for item in both.instances)))
    assert value.names("keep") == ("a-q2_k",)
    assert value.names("stop") == ("b-q3_k_m", "c-q4_k_m", "d-q4_1")
    assert value.notes == ("a-q2_k keeps 2 threads until its next restart; its share is now 8.",)
