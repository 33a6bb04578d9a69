from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from ansible_collections.magi.models.plugins.module_utils import _probe
from ansible_collections.magi.models.plugins.module_utils._host import Unreadable
from ansible_collections.magi.models.plugins.module_utils._probe import await_ready, read_instances, unreadable
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
    ("listing", "devices"),
    [
        ("echo 'Available devices:'; echo '  CUDA0: NVIDIA L4 (22563 MiB, 22325 MiB free)'", ("CUDA0",)),
        ("echo 'Available devices:'; echo '  (none)'", ()),
        ("echo 'error: invalid argument: --list-devices' >&2; exit 1", None),  # an older build
        ("echo 'Available devices:'; kill -SEGV $$", None),  # a driver that crashes it
    ],
)
def test_a_binary_tells_its_devices_and_is_no_worse_for_not_knowing(tmp_path, listing, devices):
    program = tmp_path / "llama-server"
    program.write_text(
        "#!/bin/sh\ncase $1 in --version) echo 'version: 1';; "
        f"--help) echo '-m, --model FNAME  path (env: LLAMA_ARG_MODEL)';; *) {listing};; esac\n"
    )
    program.chmod(0o755)
    binary, error = _probe.read_binary(str(program))
    assert (binary.devices, binary.version, error) == (devices, "1", "")


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


SERVER = """
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(sys.argv[1]))
        self.end_headers()

server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.mark.parametrize(
    ("answers", "state", "own", "seconds", "found"),
    [
        (200, "running", True, 60, ("running", 200)),
        (200, "starting", True, 60, ("starting", 200)),
        (503, "running", True, 0.3, ("running", 503)),  # loading
        (200, "running", False, 0.3, ("running", 0)),  # another process holds its port
        (200, "running", True, 0, ("running", 200)),  # looked at once, however short the time
        (503, "failed", True, 60, ("failed", 503)),  # for good: nothing to wait for
        (200, "stopped", False, 60, ("stopped", 0)),
    ],
)
def test_ready_is_what_answers_in_a_process_of_its_own(tmp_path, answers, state, own, seconds, found):
    command = [sys.executable, "-c", SERVER, str(answers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        path = tmp_path / "instances" / "a.env"
        path.parent.mkdir()
        path.write_text(f'LLAMA_ARG_PORT="{server.stdout.readline().strip()}"\n')
        services = FakeServices(Status(state, server.pid if own else os.getpid()))
        status, health = await_ready(services, str(tmp_path), ["a"], seconds, 1)["a"]
        server.kill()
    assert (status.state, health) == found


def test_while_a_server_answers_its_manager_is_left_alone_and_asked_when_it_does_not(tmp_path):
    asked = []

    class FakeManager(FakeServices):
        def status(self):
            asked.append(len(asked))
            if len(asked) == 1:
                threading.Timer(0.5, server.kill).start()
                return {"a": Status("running", server.pid)}
            return {"a": Status("failed")}

    command = [sys.executable, "-c", SERVER, "503"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        path = tmp_path / "instances" / "a.env"
        path.parent.mkdir()
        path.write_text(f'LLAMA_ARG_PORT="{server.stdout.readline().strip()}"\n')
        found = await_ready(FakeManager(None), str(tmp_path), ["a"], 60, 1)
    assert found == {"a": (Status("failed"), 0)}
    assert asked == [0, 1]


def test_nothing_to_wait_for_is_no_look(tmp_path):
    assert await_ready(None, str(tmp_path), [], 60, 1) == {}


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
