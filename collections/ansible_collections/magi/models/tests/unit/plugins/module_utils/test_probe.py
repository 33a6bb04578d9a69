from __future__ import annotations

import os

import pytest
from ansible_collections.magi.models.plugins.module_utils import _probe
from ansible_collections.magi.models.plugins.module_utils._probe import read_instances
from ansible_collections.magi.models.plugins.module_utils._services import Status


class FakeServices:
    """Knows one instance, which is as it is told."""

    def __init__(self, status: Status):
        self.one = status

    def status(self):
        return {"a": self.one}

    def logs(self, name, lines):
        return [f"{lines} lines"]


@pytest.mark.parametrize(
    ("status", "config_hash", "log"),
    [
        # started behind the file's last change: the file tells what it was started with
        (Status("failed", started_at=101.0), "cafe", ("40 lines",)),
        (Status("failed", started_at=100.0), None, ("40 lines",)),
        (Status("failed"), None, ("40 lines",)),
        (Status("stopped", started_at=101.0), None, ()),
        (Status("backoff", started_at=101.0), None, ()),
    ],
)
def test_what_a_failed_instance_was_started_with(tmp_path, status, config_hash, log):
    path = tmp_path / "instances" / "a.env"
    path.parent.mkdir()
    path.write_text('MAGI_CONFIG_HASH="cafe"\nLLAMA_ARG_PORT="8080"\n')
    os.utime(path, (100, 100))
    (found,), _environments = read_instances(FakeServices(status), str(tmp_path))
    assert (found.config_hash, found.port, found.log) == (config_hash, 8080, log)


@pytest.mark.parametrize(("written", "changed"), [(100, False), (102, True), (None, False)])
def test_keys_that_were_changed_after_the_start_are_seen(tmp_path, monkeypatch, written, changed):
    keys = tmp_path / "keys"
    if written:
        keys.write_text("k")
        os.utime(keys, (written, written))
    monkeypatch.setattr(_probe, "process_environment", lambda pid: {"MAGI_API_KEY_FILE": str(keys)})
    (found,), _environments = read_instances(FakeServices(Status("running", 7, 101.0)), str(tmp_path))
    assert found.keys_changed is changed
