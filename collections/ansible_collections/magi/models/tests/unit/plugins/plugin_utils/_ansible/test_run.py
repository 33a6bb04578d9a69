from __future__ import annotations

import getpass
import os
import signal
import subprocess

import pytest
from ansible_collections.magi.models.plugins.module_utils._host.procfs import start_time
from ansible_collections.magi.models.plugins.plugin_utils._ansible.run import gone, identity, job, user


@pytest.mark.parametrize("error", [KeyError("getpwuid(): uid not found: 12345"), OSError("No username set")])
def test_a_user_without_a_name_deploys_under_its_number(monkeypatch, error):
    def fake_getuser():
        raise error

    monkeypatch.setattr(getpass, "getuser", fake_getuser)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert user() == "uid 12345"
    assert job()["deployment"].startswith("uid 12345@")


@pytest.mark.parametrize(
    ("change", "is_gone"),
    [
        ({}, False),
        ({"controller_pid": 2**22 + 1}, True),
        # another process has its number by now
        ({"controller_started": 1}, True),
        ({"controller_started": 0}, False),
        # elsewhere, nobody can tell
        ({"controller": "elsewhere", "controller_pid": 2**22 + 1}, False),
        ({"controller": "", "controller_pid": 2**22 + 1}, False),
    ],
)
def test_whether_a_deployment_is_gone(change, is_gone):
    assert gone({**identity(), **change}) is is_gone


def test_a_killed_deployment_is_gone_before_its_parent_asks_for_its_end():
    with subprocess.Popen(["sleep", "60"]) as process:
        item = {**identity(), "controller_pid": process.pid, "controller_started": start_time(process.pid)}
        assert not gone(item)
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
        assert gone(item)
        assert gone({**item, "controller_started": 0})


def test_another_user_s_deployment_that_we_may_not_see_is_not_gone(monkeypatch):
    def kill(pid, number):
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    assert not gone({**identity(), "controller_pid": 2**22 + 1})
