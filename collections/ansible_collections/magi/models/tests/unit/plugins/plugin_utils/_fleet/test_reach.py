from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import trouble
from ansible_collections.magi.models.plugins.plugin_utils._fleet.reach import way_to_reach, way_to_root

SSH = "Failed to connect to the host via ssh: "


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("Host key verification failed.", "compare its host key"),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @", "compare its host key"),
        ("ada@gpu1: Permission denied (publickey,password).", "let your key in there (ssh-copy-id)"),
        ("Received disconnect from 10.0.0.1 port 22:2: Too many authentication failures", "let your key in there"),
        ('Load key "/home/ada/.ssh/id": bad permissions\nada@gpu1: Permission denied (publickey).', "chmod 600"),
        ("ssh: Could not resolve hostname gpu9: Name or service not known", "correct its name, or set ansible_host"),
        ("Unable to negotiate with 10.0.0.1: no matching host key type found. Their offer: ssh-rsa", "update its SSH"),
        ("ssh: connect to host gpu1 port 22: Connection refused", "start its SSH server, or correct ansible_host"),
        (
            "Data could not be sent to remote host 'gpu1': [Errno 32] Broken pipe",
            "connect to it by ssh, which says why",
        ),
        (
            "Data could not be sent to remote host 'gpu1'. Make sure this host can be reached over ssh: ssh: connect to host "
            "gpu1 port 22: No route to host",
            "bring it back",
        ),
        ("ssh: connect to host gpu1 port 22: Connection timed out", "bring it back"),
        ("ssh: connect to host gpu1 port 22: No route to host", "bring it back"),
    ],
)
def test_a_host_that_is_not_reached_has_its_remedy(said, remedy):
    assert remedy in way_to_reach(SSH + said, "bring it back")
    cause = trouble("gpu1", {"registry": {"unreachable": True, "msg": SSH + said}})
    assert cause.code == "host_unreachable"
    assert remedy in cause.detail


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("Missing sudo password", "ANSIBLE_BECOME_PASSWORD_FILE"),
        ("Incorrect sudo password", "ANSIBLE_BECOME_PASSWORD_FILE"),
        ("Timeout (12s) waiting for privilege escalation prompt: ", "ANSIBLE_BECOME_PASSWORD_FILE"),
        ("/bin/sh: 1: sudo: not found", "connect as root"),
        ("ada is not in the sudoers file.", "connect as root"),
        ("Module failed: [Errno 13] Permission denied: '/srv/x'", "read and write there, or become root"),
    ],
)
def test_a_host_where_nobody_becomes_root_has_its_remedy(said, remedy):
    cause = trouble("gpu1", {"registry": {"failed": True, "msg": f"Task failed: {said}"}})
    assert cause.code == "host_failed"
    assert remedy in cause.detail


@pytest.mark.parametrize("said", ["There is no profile x.", "sudoku: not found", ""])
def test_other_failures_have_their_own(said):
    assert way_to_root(said) == ""
