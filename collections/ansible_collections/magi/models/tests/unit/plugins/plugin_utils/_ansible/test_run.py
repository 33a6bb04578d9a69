from __future__ import annotations

import getpass
import os

import pytest
from ansible_collections.magi.models.plugins.plugin_utils._ansible.run import job, user


@pytest.mark.parametrize("error", [KeyError("getpwuid(): uid not found: 12345"), OSError("No username set")])
def test_a_user_without_a_name_deploys_under_its_number(monkeypatch, error):
    def fake_getuser():
        raise error

    monkeypatch.setattr(getpass, "getuser", fake_getuser)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert user() == "uid 12345"
    assert job()["deployment"].startswith("uid 12345@")
