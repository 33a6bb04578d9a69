from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.action.deployment_report import ActionModule
from ansible_collections.magi.models.plugins.module_utils._base.files import FileWriteError


def test_an_old_report_that_can_t_be_removed_is_a_sentence_with_a_remedy():
    """As in a checkout that is read-only, or somebody else's."""
    action = ActionModule(None, None, None, None, None, None)
    with pytest.raises(FileWriteError, match=r"^Can't write /proc/version: .*; run as a user who may write there"):
        action.decide({"state": "absent", "path": "/proc/version"}, {})


def test_an_old_report_is_removed_once(tmp_path):
    action = ActionModule(None, None, None, None, None, None)
    (tmp_path / "report.json").write_text("{}")
    for _time in range(2):
        assert action.decide({"state": "absent", "path": str(tmp_path / "report.json")}, {}) == {}
    assert not (tmp_path / "report.json").exists()
