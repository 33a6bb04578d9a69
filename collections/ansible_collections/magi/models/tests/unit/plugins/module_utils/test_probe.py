from __future__ import annotations

import os

import pytest
from ansible_collections.magi.models.plugins.module_utils import _probe
from ansible_collections.magi.models.plugins.module_utils._host import Unreadable
from ansible_collections.magi.models.plugins.module_utils._probe import read_instances, unreadable
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


@pytest.fixture
def models(tmp_path):
    """A folder with a model, and a link to it beside the folder; all for everybody to read."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    folder = tmp_path / "models"
    folder.mkdir(mode=0o755)
    (folder / "a.gguf").write_bytes(b"GGUF")
    (folder / "a.gguf").chmod(0o644)
    (tmp_path / "link.gguf").symlink_to(folder / "a.gguf")
    return folder


@pytest.mark.parametrize("name", ["models/a.gguf", "link.gguf"])
@pytest.mark.parametrize(
    ("part", "mode", "shown"),
    [
        ("models/a.gguf", 0o644, None),
        ("models/a.gguf", 0o640, "-rw-r-----"),
        ("models", 0o750, "drwxr-x---"),
        ("models", 0o711, None),  # a file in a folder that can't be listed can still be opened
    ],
)
def test_a_service_s_own_user_needs_the_bits_for_others(models, name, part, mode, shown):
    top = models.parent
    (top / part).chmod(mode)
    found = unreadable([str(top / name), str(top / "gone.gguf")], [str(models)], "systemd")
    assert found == ((Unreadable(str(top / part), shown, (str(top / name),)),) if shown else ())


@pytest.mark.parametrize(
    ("bound", "at"),
    [("models", None), ("", None), ("other", "models/a.gguf")],
)
def test_of_a_home_folder_a_service_sees_what_is_bound(models, monkeypatch, bound, at):
    top = models.parent
    monkeypatch.setattr(_probe, "_HOMES", (top.parent,))
    top.chmod(0o700)
    found = unreadable([str(models / "a.gguf")], [str(top / bound)], "systemd")
    hidden = Unreadable(str(top / at), "hidden", (str(models / "a.gguf"),)) if at else None
    closed = Unreadable(str(top), "drwx------", (str(models / "a.gguf"),)) if bound == "" else None
    assert found == tuple(filter(None, (hidden, closed)))


def test_under_supervisor_servers_read_what_we_may(models):
    (models / "a.gguf").chmod(0o600)
    assert unreadable([str(models / "a.gguf")], [], "supervisor") == ()
