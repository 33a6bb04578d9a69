from __future__ import annotations

import os

import pytest
from ansible_collections.magi.models.plugins.module_utils._install.binary import link, points_to


def test_a_link_is_replaced_in_one_step(tmp_path, monkeypatch):
    """Whenever a process is killed, the link leads to the old target or to the new one."""
    path = tmp_path / "bin" / "current"
    link(path, tmp_path / "old")

    def killed(*_arguments, **_options):
        assert points_to(path, tmp_path / "old")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        for step in ("replace", "rename"):
            patched.setattr(os, step, killed)
        with pytest.raises(KeyboardInterrupt):
            link(path, tmp_path / "new")
        assert points_to(path, tmp_path / "old")
    link(path, tmp_path / "new")
    assert points_to(path, tmp_path / "new")
