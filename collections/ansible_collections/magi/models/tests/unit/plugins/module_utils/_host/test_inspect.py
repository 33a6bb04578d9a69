from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.states import State
from ansible_collections.magi.models.plugins.module_utils._host import inspect, procfs
from ansible_collections.magi.models.plugins.module_utils._host.binary import read_binary, upstream_image
from ansible_collections.magi.models.plugins.module_utils._host.inspect import (
    asked_at,
    none_loaded,
    read_instances,
    unreadable,
)
from ansible_collections.magi.models.plugins.module_utils._host.procfs import listening_sockets, orphans
from ansible_collections.magi.models.plugins.module_utils._host.values import Listener, Running, Unreadable
from ansible_collections.magi.models.plugins.module_utils._host.wait import await_ready
from ansible_collections.magi.models.plugins.module_utils._install import backend
from ansible_collections.magi.models.plugins.module_utils._llama.client import api_key, ask_health, ask_models, port_of
from ansible_collections.magi.models.plugins.module_utils._llama.drain import drain
from ansible_collections.magi.models.plugins.module_utils._services import systemd
from ansible_collections.magi.models.plugins.module_utils._services.choice import chosen
from ansible_collections.magi.models.plugins.module_utils._services.manager import environment_file, environment_value
from ansible_collections.magi.models.plugins.module_utils._services.supervisor import Supervisor
from ansible_collections.magi.models.plugins.module_utils._services.systemd import Systemd
from ansible_collections.magi.models.plugins.module_utils._services.values import Capabilities, Status
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import FakeServer

FELL = "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected"


def write_instance(home, **environment):
    """Write the file of the instance a; return its path."""
    path = home / "instances" / "a.env"
    path.parent.mkdir(exist_ok=True)
    lines = ["# a: written by magi.models, changed by the next deployment."]
    lines += [f"{key}={environment_value(value)}" for key, value in environment.items()]
    path.write_bytes("\n".join([*lines, ""]).encode("utf-8", "surrogateescape"))
    return path


class FakeServices:
    """Knows one instance, which is as it is told."""

    capabilities = Capabilities()

    def __init__(self, status: Status):
        self.one = status

    def status(self):
        return {"a": self.one}

    def logs(self, name, lines):
        return [f"{lines} lines"]


@pytest.mark.parametrize(
    ("listing", "devices", "said"),
    [
        ("echo 'Available devices:'; echo '  CUDA0: NVIDIA L4 (22563 MiB, 22325 MiB free)'", ("CUDA0",), ""),
        ("echo 'Available devices:'; echo '  (none)'", (), ""),
        (f"echo '{FELL}' >&2; echo 'Available devices:'; echo '  (none)'", (), FELL),
        ("echo 'error: invalid argument: --list-devices' >&2; exit 1", None, ""),  # an older build
        ("echo 'Available devices:'; kill -SEGV $$", None, ""),  # a driver that crashes it
    ],
)
def test_a_binary_tells_its_devices_and_is_no_worse_for_not_knowing(tmp_path, listing, devices, said):
    program = tmp_path / "llama-server"
    program.write_text(
        "#!/bin/sh\ncase $1 in --version) echo 'version: 1';; "
        f"--help) echo '-m, --model FNAME  path (env: LLAMA_ARG_MODEL)';; *) {listing};; esac\n"
    )
    program.chmod(0o755)
    binary, error = read_binary(chosen("supervisor", str(tmp_path)), str(program))
    assert (binary.devices, binary.default_devices, binary.no_gpu) == (devices, devices or (), said)
    assert (binary.version, error) == ("1", "")


@pytest.mark.parametrize(
    ("version", "nodes", "image"),
    [
        ("version: 0.6.0-dev (build 11434, commit unknown)", (), "server-b11434"),
        ("version: 5123 (a1b2c3d)", (), "server-b5123"),
        ("version: 5123 (a1b2c3d)", ("/dev/nvidia0",), "server-cuda-b5123"),
        ("version: 5123 (a1b2c3d)", ("/dev/kfd",), "server-rocm-b5123"),
        ("version: 5123 (a1b2c3d)", ("/dev/dri/renderD128",), "server-vulkan-b5123"),
        ("version: 0 (unknown)", (), ""),  # built without git
        ("what?", (), ""),
        (None, (), ""),
    ],
)
def test_without_an_image_upstream_s_of_the_host_s_build_and_gpus_is_taken(
    tmp_path, monkeypatch, version, nodes, image
):
    program = tmp_path / "llama-server"
    if version:
        program.write_text(f"#!/bin/sh\necho '{version}'\n")
        program.chmod(0o755)
    monkeypatch.setattr(backend, "gpus", lambda: nodes)
    assert upstream_image(str(program)) == (image and f"ghcr.io/ggml-org/llama.cpp:{image}")


@pytest.mark.parametrize(
    ("given", "version", "said"),
    [
        ("own:1", "version: 5123 (a1b2c3d)", "the image own:1 is not on the host"),
        ("", "version: 5123 (a1b2c3d)", "the image ghcr.io/ggml-org/llama.cpp:server-b5123 is not on the host"),
        ("", "what?", "docker needs an image of llama-server, model_server_image is not set, and no llama-server at "),
    ],
)
def test_a_container_s_llama_server_is_in_the_image_given_or_in_that_of_the_host_s_build(
    tmp_path, monkeypatch, given, version, said
):
    # llama-server, and a FakeDocker without images
    for name, text in (("llama-server", f"echo '{version}'"), ("docker", "exit 0")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(backend, "gpus", lambda: ())
    found = inspect.inspect_host(
        home=str(tmp_path / "m"),
        manager="docker",
        supervisord_path="",
        llama_server_path=f"{tmp_path}/llama-server",
        image=given,
        port_range=(1, 1),
        ports=(),
        environment={},
        option_sets=(),
    )
    assert said in found.binary_error


@pytest.mark.parametrize(
    ("status", "config_hash", "log"),
    [
        # started behind the file's last change: the file tells what it was started with
        (Status(State.FAILED, started_at=101.0), "cafe", ("40 lines",)),
        (Status(State.FAILED, started_at=100.0), None, ("40 lines",)),
        (Status(State.FAILED), None, ("40 lines",)),
        (Status(State.STOPPED, started_at=101.0), None, ()),
        (Status(State.BACKOFF, started_at=101.0), None, ()),
    ],
)
def test_what_a_failed_instance_was_started_with(tmp_path, status, config_hash, log):
    path = tmp_path / "instances" / "a.env"
    path.parent.mkdir()
    path.write_text('MAGI_CONFIG_HASH="cafe"\nLLAMA_ARG_PORT="8080"\n')
    os.utime(path, (100, 100))
    (found,) = read_instances(FakeServices(status), str(tmp_path)).instances
    assert (found.config_hash, found.port, found.log) == (config_hash, 8080, log)


@pytest.mark.parametrize(
    ("there", "started", "changed"),
    [
        (True, 60, False),
        (True, -60, True),  # put in place since (mv, cp -p), whatever its mtime
        (False, -60, False),
    ],
)
def test_keys_that_were_changed_after_the_start_are_seen(tmp_path, there, started, changed):
    keys = tmp_path / "keys"
    if there:
        keys.write_text("k")
        os.utime(keys, (100, 100))
    write_instance(tmp_path, MAGI_API_KEY_FILE=str(keys))
    status = Status(State.RUNNING, os.getpid(), time.time() + started)
    (found,) = read_instances(FakeServices(status), str(tmp_path)).instances
    assert found.keys_changed is changed


@pytest.mark.parametrize(("written", "config_hash"), [(100, "cafe"), (102, None)])
def test_where_no_process_shows_its_environment_its_file_tells_unless_it_is_newer(
    tmp_path, monkeypatch, written, config_hash
):
    monkeypatch.setattr(procfs, "PROC", tmp_path / "no-proc")
    os.utime(write_instance(tmp_path, MAGI_CONFIG_HASH="cafe"), (written, written))
    (found,) = read_instances(FakeServices(Status(State.RUNNING, 7, 100.0)), str(tmp_path)).instances
    assert (found.config_hash, found.environment) == (config_hash, {"MAGI_CONFIG_HASH": "cafe"})


@pytest.mark.parametrize(
    ("environment", "pid", "told"),
    [
        ({"MAGI_GPU": "CUDA0"}, 7, FELL),
        ({"MAGI_GPU": "CUDA0", "LLAMA_ARG_DEVICE": "CUDA0"}, 7, ""),  # it would not have started
        ({}, 7, ""),  # not meant for a GPU
        ({"MAGI_GPU": "CUDA0"}, None, ""),
    ],
)
def test_what_a_server_said_of_its_gpu_is_read_where_it_may_fall_to_the_cpu(tmp_path, environment, pid, told):
    write_instance(tmp_path, **environment)
    services = FakeServices(Status(State.RUNNING, pid, 100.0))
    services.beginning = lambda name, lines: ["I srv init", FELL]
    (found,) = read_instances(services, str(tmp_path)).instances
    assert found.fell_back == told


@pytest.mark.parametrize(
    ("environment", "answer", "asleep"),
    [
        ({"MAGI_IDLE": "600"}, (200, b'{"is_sleeping": true}'), True),
        ({"MAGI_IDLE": "600"}, (200, b'{"is_sleeping": false}'), False),
        ({"MAGI_IDLE": "600"}, (200, b"[]"), False),
        ({"MAGI_IDLE": "600"}, (401, b""), False),
        ({}, (200, b'{"is_sleeping": true}'), False),  # it can't: nobody asks
    ],
)
def test_a_server_that_may_sleep_is_asked_where_that_does_not_wake_it(tmp_path, environment, answer, asleep):
    with FakeServer({"/health": (200, b""), "/props": answer, "/v1/models": (200, b'{"data": []}')}) as server:
        write_instance(tmp_path, **server.environment, **environment)
        services = FakeServices(Status(State.RUNNING, 7, 100.0))
        for ask in (False, True):
            (found,) = read_instances(services, str(tmp_path), ask=ask).instances
            assert found.asleep is asleep
        asked = {path for path, _key in server.asked}
        assert asked == {"/health", "/v1/models", *(["/props"] if environment else [])}


ROUTER = json.dumps(
    {
        "data": [
            {"id": "a", "aliases": ["chat"], "status": {"value": "loaded"}},
            {"id": "b", "aliases": [], "status": {"value": "unloaded", "failed": True}},
        ]
    }
).encode()


def test_a_pool_is_asked_for_its_models_and_none_of_these_for_anything(tmp_path):
    with FakeServer({"/health": (200, b""), "/v1/models": (200, ROUTER)}) as server:
        write_instance(tmp_path, **server.environment, LLAMA_ARG_MODELS_PRESET="/a.ini", MAGI_IDLE="60")
        for ask in (False, True):
            (found,) = read_instances(FakeServices(Status(State.RUNNING, 7, 100.0)), str(tmp_path), ask=ask).instances
            assert (found.models, found.asleep) == ({"a": "loaded", "b": "failed"}, False)
        assert found.model_ids == ("a", "chat", "b")
        assert {path for path, _key in server.asked} == {"/health", "/v1/models"}
    assert none_loaded({"a": "sleeping", "b": "failed"})
    assert not none_loaded({"a": "unloaded", "b": "loading"})


@pytest.mark.parametrize(("busy", "left"), [(0, 0), (2, 2)])
def test_a_pool_is_drained_by_what_its_loaded_models_say(busy, left):
    metrics = f"llamacpp:requests_processing {busy}\nllamacpp:requests_deferred 0\n".encode()
    answers = {"/v1/models": (200, ROUTER), "/metrics?model=a&autoload=false": (200, metrics)}
    with FakeServer(answers) as server:
        assert drain({**server.environment, "LLAMA_ARG_MODELS_PRESET": "/a.ini"}, 0, 0) == left
    answers["/metrics?model=a&autoload=false"] = (400, b"")  # it was unloaded just now
    with FakeServer(answers) as server:
        assert drain({**server.environment, "LLAMA_ARG_MODELS_PRESET": "/a.ini"}, 0, 0) == 0


HOSTILE = {
    "A": "",
    "B": 'a "quoted" \\ back\\\\slash, $HOME and `id`',
    "C": 'first\nD="no"\nlast\\',
    "E": "пароль \udcff\t;#",
}


def test_a_file_is_read_back_as_it_was_written(tmp_path):
    write_instance(tmp_path, **HOSTILE)
    assert environment_file(str(tmp_path), "a") == HOSTILE
    assert environment_file(str(tmp_path), "b") == {}


@pytest.mark.parametrize(
    ("text", "port"),
    [("8080", 8080), ("65535", 65535), *((text, None) for text in ("65536", "0", "-1", "²", "", "9" * 5000))],
)
def test_a_port_is_one_that_there_can_be(text, port):
    assert port_of({"LLAMA_ARG_PORT": text}) == port


@pytest.fixture
def process(tmp_path, monkeypatch):
    """Make a process, which /proc shows as ours."""
    proc = tmp_path / "proc"
    monkeypatch.setattr(procfs, "PROC", proc)

    def process(pid, parent=1, program="/opt/llama-server", **environment):
        folder = proc / str(pid)
        folder.mkdir(parents=True)
        (folder / "exe").symlink_to(program)
        (folder / "stat").write_text(f"{pid} (llama) (x) S {parent} 1 1 0\n")
        environment = {"MAGI_HOME": str(tmp_path), "MAGI_INSTANCE": "a", **environment}
        (folder / "environ").write_bytes("\0".join(f"{k}={v}" for k, v in environment.items()).encode())

    return process


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({}, {"a": 7}),
        ({"program": "/opt/llama-server (deleted)"}, {"a": 7}),
        ({"program": "/bin/bash"}, {}),  # somebody read the instance's file into a shell
        ({"MAGI_HOME": "/other"}, {}),
        ({"MAGI_INSTANCE": "../../etc/x"}, {}),
        ({"MAGI_INSTANCE": ""}, {}),
        ({"parent": 100}, {}),  # a managed server's tool
        ({"parent": 101}, {}),
        ({"parent": 102}, {"a": 102}),  # an orphan's own
    ],
)
def test_an_orphan_is_a_server_of_ours_that_no_managed_one_has_started(tmp_path, process, more, found):
    process(100)
    process(101, 100, "/bin/sh", MAGI_HOME="")
    if more.get("parent") == 102:
        process(102)
    process(7, **more)
    assert orphans(str(tmp_path), [100]) == found


def test_a_process_of_another_user_is_no_orphan(tmp_path, process, monkeypatch):
    process(7)
    monkeypatch.setattr(procfs.os, "geteuid", lambda: os.getuid() + 1)
    assert orphans(str(tmp_path), []) == {}


@pytest.mark.parametrize(
    ("status", "found"),
    [
        (Status(State.RUNNING, 100), ("running", 100)),
        (Status(State.FAILED), ("orphaned", 7)),
        (Status(State.STOPPED), ("orphaned", 7)),
    ],
)
def test_an_orphan_does_not_stand_for_an_instance_that_runs(tmp_path, process, status, found):
    process(100)
    process(7)
    (item,) = read_instances(FakeServices(status), str(tmp_path)).instances
    assert (item.state, item.pid) == found


def test_what_a_process_says_of_itself_is_shown_and_never_followed(tmp_path, process):
    process(7, LLAMA_ARG_HOST="203.0.113.1", LLAMA_ARG_PORT="²", MAGI_API_KEY_FILE="/etc/shadow", MAGI_CONFIG_HASH="c")
    own = {"LLAMA_ARG_HOST": "127.0.0.1", "LLAMA_ARG_PORT": "8080", "MAGI_API_KEY_FILE": "/etc/keys"}
    write_instance(tmp_path, **own)
    survey = read_instances(FakeServices(Status(State.RUNNING, 7)), str(tmp_path))
    (item,) = survey.instances
    assert survey.asked == {"a": own}
    assert (item.port, item.config_hash, item.environment["LLAMA_ARG_PORT"]) == (8080, "c", "²")


def test_a_server_is_asked_where_it_listens_though_its_file_is_newer(tmp_path):
    write_instance(tmp_path, LLAMA_ARG_HOST="10.0.0.1", LLAMA_ARG_PORT="1", MAGI_API_KEY_FILE="/k")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        running = Status(State.RUNNING, os.getpid())
        asked = asked_at(str(tmp_path), "a", running, listening_sockets())
        assert asked == {"LLAMA_ARG_HOST": "127.0.0.1", "LLAMA_ARG_PORT": port, "MAGI_API_KEY_FILE": "/k"}
        with socket.create_server(("127.0.0.1", 0)) as second:
            for one in (listener, second):  # where it has several, such as a tool's, its own
                port = str(one.getsockname()[1])
                write_instance(tmp_path, LLAMA_ARG_PORT=port)
                assert asked_at(str(tmp_path), "a", running, listening_sockets())["LLAMA_ARG_PORT"] == port


def test_a_container_is_asked_where_it_was_published_though_its_file_is_newer(tmp_path):
    write_instance(tmp_path, LLAMA_ARG_HOST="127.0.0.1", LLAMA_ARG_PORT="2", MAGI_API_KEY_FILE="/k")
    started = {"LLAMA_ARG_HOST": "127.0.0.9", "LLAMA_ARG_PORT": "1", "MAGI_API_KEY_FILE": "/other", "A": "b"}
    place = {"LLAMA_ARG_HOST": "127.0.0.9", "LLAMA_ARG_PORT": "1", "MAGI_API_KEY_FILE": "/k"}
    assert asked_at(str(tmp_path), "a", Status(State.RUNNING, os.getpid(), environment=started), {}) == place


def test_what_a_container_was_started_with_counts_also_where_it_ended(tmp_path):
    write_instance(tmp_path, MAGI_CONFIG_HASH="new")
    started = {"MAGI_CONFIG_HASH": "old", "LLAMA_ARG_CTX_SIZE": "512", "HF_TOKEN": "secret"}
    for status in (Status(State.FAILED, environment=started), Status(State.RUNNING, 1, environment=started)):
        (item,) = read_instances(FakeServices(status), str(tmp_path)).instances
        assert (item.config_hash, item.environment["LLAMA_ARG_CTX_SIZE"]) == ("old", "512")
        assert "secret" not in str(item)


def test_the_key_is_the_one_that_the_server_was_given(tmp_path):
    (tmp_path / "new").write_bytes(b"new\n")
    (tmp_path / "given").write_bytes("# theirs\n\nп\r\nsecond\n".encode())
    environment = {"LLAMA_ARG_API_KEY_FILE": str(tmp_path / "given"), "MAGI_API_KEY_FILE": str(tmp_path / "new")}
    assert api_key(environment) == "п\r".encode()
    (tmp_path / "given").unlink()
    assert api_key(environment) == b"new"
    assert api_key({}) is None


def drip(reply):
    """Send a byte now and then, until nobody takes it."""
    reply.write(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        reply.write(b"x")
        time.sleep(0.02)


@pytest.mark.parametrize("answer", [drip, lambda reply: reply.write(b"\0\r\n\r\n"), lambda reply: None])
def test_an_answer_that_never_ends_or_is_none_is_no_answer(answer):
    with FakeServer({"/health": answer}) as server:
        assert ask_health(server.environment) == 0


@pytest.mark.parametrize("key", ["пароль", "a\rb", "k"])
def test_any_key_is_sent_as_it_is_or_is_no_answer(tmp_path, key):
    (tmp_path / "keys").write_text(key, newline="")
    with FakeServer({"/v1/models": (200, b'{"data": [{"id": "m"}]}')}) as server:
        found = ask_models({**server.environment, "MAGI_API_KEY_FILE": str(tmp_path / "keys")})
    sent = [authorization.encode("latin-1").decode() for _path, authorization in server.asked]
    assert (found, sent) == ((None, []) if "\r" in key else (("m",), [f"Bearer {key}"]))


@pytest.mark.parametrize("body", [b"[" * 100_000, b"{}", b"[]", b"\xff", b'{"data": [1]}', b'{"data": 1}'])
def test_a_list_of_models_that_is_none_is_no_answer(body):
    with FakeServer({"/v1/models": (200, body)}) as server:
        assert ask_models(server.environment) is None


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
        services = FakeServices(Status(State(state), server.pid if own else os.getpid()))
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
                return {"a": Status(State.RUNNING, server.pid)}
            return {"a": Status(State.FAILED)}

    command = [sys.executable, "-c", SERVER, "503"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        path = tmp_path / "instances" / "a.env"
        path.parent.mkdir()
        path.write_text(f'LLAMA_ARG_PORT="{server.stdout.readline().strip()}"\n')
        found = await_ready(FakeManager(None), str(tmp_path), ["a"], 60, 1)
    assert found == {"a": (Status(State.FAILED), 0)}
    assert asked == [0, 1]


@pytest.mark.parametrize(
    ("status", "found"), [(Status(State.RUNNING, 7), ("running", 200)), (Status(State.STOPPED), ("stopped", 0))]
)
@pytest.mark.parametrize("image", [False, True])
def test_where_no_kernel_tells_who_listens_the_port_is_asked_of_what_runs(tmp_path, monkeypatch, status, found, image):
    """No kernel's table has the socket of a container: whoever holds its port has another pid."""
    services = FakeServices(status)
    services.capabilities = Capabilities(image=image)
    if not image:
        monkeypatch.setattr(procfs, "PROC", tmp_path / "no-proc")
    with FakeServer({"/health": (200, b"")}) as server:
        write_instance(tmp_path, **server.environment)
        status, health = await_ready(services, str(tmp_path), ["a"], 0, 1)["a"]
    assert (status.state, health) == found


def test_a_worker_is_ready_when_it_listens_and_nobody_connects_to_it(tmp_path):
    """It has one client at a time, its server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        write_instance(tmp_path, LLAMA_ARG_HOST="127.0.0.1", LLAMA_ARG_PORT=str(port), MAGI_WORKER="gpu1/big")
        services = FakeServices(Status(State.RUNNING, os.getpid()))
        assert await_ready(services, str(tmp_path), ["a"], 10, 1)["a"][1] == 200
        (found,) = read_instances(services, str(tmp_path), ask=True).instances
        assert (found.health, found.model_ids, found.asleep) == (200, None, False)
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()
    silent = FakeServices(Status(State.RUNNING, os.getppid()))
    assert await_ready(silent, str(tmp_path), ["a"], 0, 1)["a"][1] == 0


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
    found = unreadable(Systemd(top), [str(top / name), str(top / "gone.gguf")], [str(models)])
    assert found == ((Unreadable(str(top / part), shown, (str(top / name),)),) if shown else ())


@pytest.mark.parametrize(
    ("bound", "at"),
    [("models", None), ("", None), ("other", "models/a.gguf")],
)
def test_of_a_home_folder_a_service_sees_what_is_bound(models, monkeypatch, bound, at):
    top = models.parent
    monkeypatch.setattr(systemd, "HOMES", (top.parent,))
    top.chmod(0o700)
    found = unreadable(Systemd(top), [str(models / "a.gguf")], [str(top / bound)])
    hidden = Unreadable(str(top / at), "hidden", (str(models / "a.gguf"),)) if at else None
    closed = Unreadable(str(top), "drwx------", (str(models / "a.gguf"),)) if bound == "" else None
    assert found == tuple(filter(None, (hidden, closed)))


def test_under_supervisor_servers_read_what_we_may(models):
    (models / "a.gguf").chmod(0o600)
    assert unreadable(Supervisor(models, ""), [str(models / "a.gguf")], []) == ()


@pytest.fixture
def llama_server(models):
    """A program that passes for llama-server, for all to execute."""
    program = models.parent / "bin" / "llama-server"
    program.parent.mkdir(mode=0o755)
    program.write_text("#!/bin/sh\ncase $1 in --help) echo '-m, --model FNAME  path (env: LLAMA_ARG_MODEL)';; esac\n")
    program.chmod(0o755)
    return program


class FakeSystemd(Systemd):
    """Has no instances."""

    def status(self):
        return {}


@pytest.mark.parametrize(
    ("manager", "own", "bound", "address", "whose"),
    [
        ("docker", "", "127.0.0.1", "127.0.0.1", "a"),
        ("docker", "", "10.0.0.1, localhost", "127.0.0.1", "a"),
        ("podman", "", "0.0.0.0", "::", "a"),
        ("supervisor", "docker", "127.0.0.1", "127.0.0.1", "a"),  # it moves from there
        ("docker", "supervisor", "127.0.0.1", "127.0.0.1", None),
        ("supervisor", "", "127.0.0.1", "127.0.0.1", None),
        ("docker", "", "127.0.0.1", "10.0.0.1", None),  # somebody else's, on the same port
    ],
)
def test_the_port_of_a_container_is_ours_where_it_is_published(monkeypatch, manager, own, bound, address, whose):
    proxy = Listener(address, 8080, 7, "docker-proxy")
    monkeypatch.setattr(inspect, "read_listeners", lambda ports, _pids: (proxy,))
    running = Running("a", State.RUNNING, 99, 8080, environment={"LLAMA_ARG_HOST": bound}, manager=own)
    assert [item.instance for item in inspect._listeners(manager, [8080], [running])] == [whose]


@pytest.mark.parametrize(
    ("part", "mode", "said"),
    [
        ("bin/llama-server", 0o755, None),
        ("bin/llama-server", 0o711, None),
        ("bin/llama-server", 0o744, "is -rwxr--r--: chmod o+x"),
        ("bin", 0o700, "is drwx------: chmod o+x"),
    ],
)
def test_a_llama_server_that_the_service_may_not_execute_is_none(llama_server, part, mode, said):
    folder = llama_server.parents[1]
    (folder / part).chmod(mode)
    found = inspect.read_host(FakeSystemd(folder), str(folder), llama_server_path=str(llama_server))
    assert (found.binary is None) is bool(said)
    assert not said or f"the servers may not execute {llama_server}, since {folder / part} {said}" in found.binary_error


@pytest.mark.parametrize("environment", [{"HSA_OVERRIDE_GFX_VERSION": "11.0.0"}, {}])
def test_a_llama_server_that_needs_the_host_s_environment_is_asked_with_it(llama_server, environment, monkeypatch):
    monkeypatch.setenv("HSA_OVERRIDE_GFX_VERSION", "11.0.0")  # of whoever deploys: its servers don't have it
    program = llama_server.read_text().replace(
        "\n", '\ntest "$HSA_OVERRIDE_GFX_VERSION" = 11.0.0 || { echo "no GPU driver"; exit 1; }\n', 1
    )
    llama_server.write_text(f"{program}case $* in *q9_0*) exit 1;; esac\n")
    folder = llama_server.parents[1]
    found = inspect.read_host(
        FakeSystemd(folder),
        str(folder),
        llama_server_path=str(llama_server),
        environment=environment,
        option_sets=[{"cache_type_k": "q8_0"}],
    )
    assert (found.binary is not None) is bool(environment)
    assert ("does not run (exit status 1: no GPU driver)" in found.binary_error) is not bool(environment)
    assert found.refused == (("",) if environment else ())


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "echo 'x: error while loading shared libraries: libmtmd.so.0: cannot open' >&2; exit 127",
            "the library libmtmd.so.0;",
        ),
        (
            'echo "x: libc.so.6: version \\`GLIBC_2.38\' not found (required by x)"; exit 1',
            "was built for a newer system than this host's (it needs GLIBC_2.38)",
        ),
        ("kill -ILL $$", "another processor"),
        ("echo 'what now?'; exit 3", "does not run (exit status 3: what now?); reinstall it"),
        (None, "the loader or interpreter that it names is missing"),
        (b"\x7fELF of another machine", "it is no program for this host, which is "),
    ],
)
def test_a_llama_server_that_does_not_run_says_why(tmp_path, script, said):
    program = tmp_path / "llama-server"
    text = f"#!/bin/sh\n{script}\n" if script else "#!/nowhere/sh\n"
    program.write_bytes(script if isinstance(script, bytes) else text.encode())
    program.chmod(0o755)
    binary, error = read_binary(chosen("supervisor", str(tmp_path)), str(program))
    assert binary is None
    assert str(program) in error
    assert said in error
