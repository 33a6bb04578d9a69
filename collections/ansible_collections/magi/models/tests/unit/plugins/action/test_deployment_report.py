from __future__ import annotations

import json
import os

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.magi.models.plugins.action import deployment_report
from ansible_collections.magi.models.plugins.action.deployment_report import ActionModule


class FakeTask:
    check_mode = False


def report(state: str, path: object, **more):
    action = ActionModule(FakeTask, None, None, None, None, None)
    return action.decide({"state": state, "path": str(path), "hosts": {}, "gateways": {}, **more}, {})


def test_an_old_report_that_can_t_be_removed_is_a_sentence_with_a_remedy():
    """As in a checkout that is read-only, or somebody else's."""
    said = r"^Can't write /proc/version: .*; run as a user who may write there .*, or set model_server_report_path\.$"
    with pytest.raises(AnsibleActionFail, match=said):
        report("absent", "/proc/version")


@pytest.mark.parametrize("state", ["awaited", "absent"])
def test_an_old_report_is_removed_once(tmp_path, state):
    (tmp_path / "report.json").write_text("{}")
    for _time in range(2):
        assert report(state, tmp_path / "report.json") == {}
    assert not (tmp_path / "report.json").exists()


def test_a_report_that_could_not_be_written_is_noticed_when_it_is_awaited(tmp_path, monkeypatch):
    """Also where there is none yet; a teardown has none to write."""
    monkeypatch.setattr(os, "access", lambda path, _mode: str(path) != str(tmp_path))  # root may write everywhere
    said = rf"^Can't write {tmp_path}: .*; run as a user .*, or set model_server_report_path\.$"
    for path in (tmp_path / "report.json", tmp_path / "new" / "report.json"):
        with pytest.raises(AnsibleActionFail, match=said):
            report("awaited", path)
        assert report("absent", path) == {}


def test_a_report_gets_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(deployment_report, "build_report", lambda *_given: {"servers": []})
    monkeypatch.setattr(deployment_report, "summary_lines", lambda _report: [])
    monkeypatch.setattr(deployment_report, "problems", lambda *_given: {})
    monkeypatch.setattr(ActionModule, "show", lambda *_given: None)
    report("present", tmp_path / "new" / "report.json")
    assert json.loads((tmp_path / "new" / "report.json").read_text()) == {"servers": [], "example": []}
