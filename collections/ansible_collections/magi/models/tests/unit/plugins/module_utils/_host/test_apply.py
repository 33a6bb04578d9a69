from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from ansible_collections.magi.models.plugins.module_utils._base import files
from ansible_collections.magi.models.plugins.module_utils._base.files import FileWriteError
from ansible_collections.magi.models.plugins.module_utils._base.history import history
from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind, State
from ansible_collections.magi.models.plugins.module_utils._host import apply, claims, inspect, lock, procfs
from ansible_collections.magi.models.plugins.module_utils._host.apply import (
    Job,
    absent,
    files_of,
    present,
    stopped,
)
from ansible_collections.magi.models.plugins.module_utils._host.lock import (
    ConflictError,
    exclusive,
    read_generation,
    write_generation,
)
from ansible_collections.magi.models.plugins.module_utils._host.values import Claim, Generation
from ansible_collections.magi.models.plugins.module_utils._llama.drain import drain
from ansible_collections.magi.models.plugins.module_utils._llama.keys import KeyFileError
from ansible_collections.magi.models.plugins.module_utils._plan.values import Action, ActionResult
from ansible_collections.magi.models.plugins.module_utils._services.values import (
    Capabilities,
    ServiceError,
    ServiceFile,
    Status,
    Template,
)
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import FakeServer


class FakeServices:
    """Remembers what it is asked to do; its instances have no process."""

    capabilities = Capabilities()
    templates = (Template("x", "{home}/instances/{name}.env", 0o600, per_instance=True),)

    def __init__(self, home: Path, **states: str):
        self.home = home
        self.states = states
        self.asked: list[tuple[str, ...]] = []
        self.refuses: dict[str, str] = {}

    def owned(self):
        return sorted((self.home / "instances").glob("*.env"))

    def common(self):
        return [path for path in [self.home / "template"] if path.exists()]

    def status(self):
        return {name: Status(State(state)) for name, state in self.states.items()}

    def logs(self, name, lines):
        return []

    def start(self, names):
        self.asked.append(("start", *names))
        return {name: self.refuses[name] for name in names if name in self.refuses}

    def remove(self):
        self.asked.append(("remove",))
        for path in [*self.owned(), *self.common()]:
            path.unlink()

    def needs(self):
        return [self.home / "units" / "wants"]

    def outdated(self):
        return False

    def regain(self):
        pass

    def __getattr__(self, verb):
        return lambda *arguments: self.asked.append((verb, *arguments))


def job(home: Path, **more) -> Job:
    values = {
        "home": str(home),
        "files": (ServiceFile(str(home / "instances" / "a.env"), "X=1\n", 0o600, True),),
        "instances": {"a": {"name": "a", "address": "127.0.0.1", "port": 1, "api_key_file": None}},
        "actions": (Action("a", ActionKind.START, "new"),),
        "generation": Generation(),
        "profile": "p",
        "deployment": "me@here",
        "controller": "",
        "controller_pid": 0,
        "concurrent_starts": True,
        "max_startup_time": 1,
        "readiness_check_interval": 1,
        "stop_timeout": 1,
    }
    return Job(**{**values, **more})


@pytest.mark.parametrize("check_mode", [False, True])
@pytest.mark.parametrize(
    ("content", "said"), [(None, "can't be read"), (b"# none\n", "no key"), (b"k\r\n", "carriage")]
)
def test_a_bad_file_of_keys_is_refused_before_anything_is_written(tmp_path, content, said, check_mode):
    keys = tmp_path / "keys"
    if content is not None:
        keys.write_bytes(content)
    home = tmp_path / "home"
    services = FakeServices(home)
    instance = {"name": "a", "address": "127.0.0.1", "port": 1, "api_key_file": str(keys)}
    with pytest.raises(KeyFileError, match=said) as error:
        present(services, job(home, instances={"a": instance}), check_mode=check_mode)
    assert str(error.value).startswith(f"instance a: its API key file {keys}")
    assert not home.exists()
    assert services.asked == []


@pytest.fixture
def before(tmp_path, monkeypatch):
    """A service manager that was chosen before, with an instance that goes and one that stays."""
    old = FakeServices(tmp_path / "home", a="backoff", b="failed")
    old.name = "old"
    (tmp_path / "home" / "instances").mkdir(parents=True)
    for name in ("a", "b"):
        (tmp_path / "home" / "instances" / f"{name}.env").write_text(f"{name}=old\n")
    for module in (apply, inspect):
        monkeypatch.setattr(module, "others", lambda *_: [] if ("remove",) in old.asked else [old])
    monkeypatch.setattr(inspect, "usable", lambda manager: manager)
    return old


MOVE = (Action("a", ActionKind.RESTART, "moves here from old"), Action("b", ActionKind.STOP, "not enabled"))


def test_a_manager_that_was_chosen_before_ends_with_all_that_it_has(tmp_path, before):
    home = tmp_path / "home"
    new = FakeServices(home)
    result = present(new, job(home, actions=MOVE), check_mode=False)
    assert result.changed
    assert {*before.asked[:2]} == {*new.asked[:2]} == {("stop", "a"), ("stop", "b")}
    assert before.asked[2:] == [("forget", "a"), ("forget", "b"), ("remove",)]
    assert new.asked[-1] == ("start", "a")
    assert {path.name: path.read_text() for path in (home / "instances").iterdir()} == {"a.env": "X=1\n"}


def test_a_check_shows_what_goes_with_it_and_touches_nothing(tmp_path, before):
    result = present(FakeServices(tmp_path / "home"), job(tmp_path / "home", actions=MOVE), check_mode=True)
    assert result.changed
    assert {item.get("before_header"): item.get("after") for item in result.diff}[
        f"{tmp_path}/home/instances/b.env"
    ] == ""
    assert before.asked == []


def test_nothing_starts_beside_what_it_runs(tmp_path, before):
    new = FakeServices(tmp_path / "home")
    assert not present(new, job(tmp_path / "home", beside=True), check_mode=False).changed
    assert new.asked == []


def test_a_teardown_takes_it_along(tmp_path, before):
    home = tmp_path / "home"
    assert absent(FakeServices(home), job(home), check_mode=False).changed
    assert {("remove",), ("stop", "a"), ("stop", "b")} <= {*before.asked}
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_what_was_made_is_remembered_and_comes_back_byte_for_byte(tmp_path):
    home = tmp_path / "home"
    services = FakeServices(home)

    def made(began_at, content, generation, **more):
        files = (
            ServiceFile(str(home / "template"), f"# {content}\n", 0o644, False),
            ServiceFile(str(home / "instances" / "a.env"), f"X={content}\n", 0o600, True),
        )
        given = job(home, files=files, generation=generation, began_at=began_at, plan={"x": content}, **more)
        return present(services, given, check_mode=False).generation

    first = made(1.5, "1\udce9", Generation())
    assert (first.began_at, first.number) == (1.5, 1)
    second = made(2.5, "2", first)
    made(2.6, "3", second, beside=True)  # the rest will follow, and be remembered
    assert [(item["began_at"], item["plan"]) for item in history(str(home))] == [
        (1.5, {"x": "1\udce9"}),
        (2.5, {"x": "2"}),
    ]
    files = files_of(services, str(home), 1.5, ["a"])
    assert [(Path(file.path).name, file.content) for file in files] == [
        ("template", "# 1\udce9\n"),
        ("a.env", "X=1\udce9\n"),
    ]
    assert [file.path for file in files_of(services, str(home), 1.5, [])] == [str(home / "template")]
    now = read_generation(str(home))
    again = present(services, job(home, files=files, generation=now, began_at=1.5), check_mode=False).generation
    assert (again.number, again.digest, again.began_at) == (4, first.digest, 1.5)
    assert [item["began_at"] for item in history(str(home))] == [1.5]
    with pytest.raises(ServiceError, match=r"generations has no deployment of 2\.5 any more"):
        files_of(services, str(home), 2.5, ["a"])
    absent(services, job(home), check_mode=False)
    assert not (home / "generations").exists()


def test_the_llama_servers_of_what_is_remembered_are_kept(tmp_path):
    home, now = tmp_path / "home", Generation()
    for number in range(1, 6):
        services = FakeServices(home)
        restart = (Action("a", ActionKind.RESTART, "new image"),)
        plan = {"llama_server_path": f"x:{number}"}
        given = job(home, began_at=float(number), actions=restart, generation=now, plan=plan)
        now = present(services, given, check_mode=False).generation
    assert services.asked[-1] == ("tidy", {"x:3", "x:4", "x:5"})


def test_what_has_started_beside_is_remembered_when_the_rest_is_nothing(tmp_path):
    home = tmp_path / "home"
    services = FakeServices(home)
    first = present(services, job(home, began_at=1.5, beside=True), check_mode=False).generation
    assert history(str(home)) == []
    keep = (Action("a", ActionKind.KEEP, "started beside the old ones"),)
    rest = job(home, began_at=1.5, actions=keep, generation=first, plan={"x": 1})
    assert not present(services, rest, check_mode=False).changed
    assert [(item["began_at"], item["plan"]) for item in history(str(home))] == [(1.5, {"x": 1})]


def test_going_back_to_the_same_goes_back_all_the_same(tmp_path):
    """Else the next rollback would come here again, and never further."""
    home = tmp_path / "home"
    services = FakeServices(home)
    now = Generation()
    for began_at in (1.5, 2.5):
        restart = (Action("a", ActionKind.RESTART, "its keys changed"),)
        now = present(
            services, job(home, began_at=began_at, actions=restart, generation=now), check_mode=False
        ).generation
    keep = (Action("a", ActionKind.KEEP, "runs as desired"),)
    back = job(home, began_at=1.5, actions=keep, generation=now)
    assert present(services, back, check_mode=True).changed
    result = present(services, back, check_mode=False)
    assert (result.changed, result.generation.number, result.generation.began_at) == (True, 3, 1.5)
    assert [item["began_at"] for item in history(str(home))] == [1.5]
    again = present(services, replace(back, generation=result.generation), check_mode=False)
    assert (again.changed, again.generation) == (False, result.generation)


BUSY = (200, b"# HELP\nllamacpp:requests_processing 1\nllamacpp:requests_deferred 0\n")
IDLE = (200, b"llamacpp:requests_processing 0\nllamacpp:requests_deferred 0\n")


@pytest.mark.parametrize(
    ("metrics", "slots", "drained"),
    [
        (IDLE, None, True),
        ([BUSY, BUSY, IDLE], None, True),
        (BUSY, None, 1),
        ((200, b"llamacpp:requests_processing 1\nllamacpp:requests_deferred 2\n"), None, 3),
        ((503, b""), None, True),  # loads its model
        ((401, b""), None, None),  # its keys were changed
        ((500, b""), None, None),
        ([(401, b""), IDLE], None, True),
        ((501, b""), (200, b'[{"is_processing": false}, {"is_processing": true}]'), 1),
        ((501, b""), (200, b'[{"is_processing": false}]'), True),
        ((404, b""), (401, b""), None),
        ((501, b""), (501, b""), True),  # nothing tells
        ((501, b""), (200, b"[" * 100_000), None),
        ((501, b""), (200, b"1"), None),
        ((200, b"llamacpp:requests_processing nan\n"), None, None),
        ((200, b"llamacpp:requests_processing 1e999\n"), None, None),
        ((200, b"llamacpp:requests_processing x\n"), None, None),
        (lambda reply: reply.write(b"what?\r\n\r\n"), None, None),
        (lambda reply: None, None, None),  # it ends, or something else has its port: the next look tells
    ],
)
def test_a_server_is_drained_when_it_says_so_or_is_gone(metrics, slots, drained):
    with FakeServer({"/metrics": metrics, "/slots": slots}) as server:
        left = drain(server.environment, 60 if drained is True else 0.3, pause=0.01)
        assert left == (0 if drained is True else drained)


def test_one_that_sleeps_is_idle_and_stays_asleep():
    answers = {"/metrics": (501, b""), "/props": (200, b'{"is_sleeping": true}'), "/slots": BUSY}
    with FakeServer(answers) as server:
        assert drain(server.environment, 0.3) == 0
        assert [path for path, _key in server.asked] == ["/metrics", "/props"]


OF_A = "model=a&autoload=false"


def in_states(**states):
    listed = [{"id": name, "status": {"value": state}} for name, state in states.items()]
    return 200, json.dumps({"data": listed}).encode()


@pytest.mark.parametrize(
    ("listed", "metrics", "slots", "drained"),
    [
        (in_states(a="loaded", b="unloaded"), IDLE, None, True),
        (in_states(a="loaded", b="sleeping"), BUSY, None, 1),
        (in_states(a="loaded", b="loading"), BUSY, None, 2),
        (in_states(a="unloaded"), None, None, True),
        (in_states(a="loaded"), (400, b""), None, True),  # it is unloaded by now
        (in_states(a="loaded"), (500, b""), None, None),
        (in_states(a="loaded"), (501, b""), (200, b'[{"is_processing": true}]'), 1),
        (in_states(a="loaded"), (501, b""), (501, b""), True),  # nothing tells
        ((401, b""), None, None, None),  # its keys were changed
        ((200, b"["), None, None, None),
        (lambda reply: None, None, None, None),
    ],
)
def test_a_pool_is_drained_when_its_models_are_or_it_is_gone(listed, metrics, slots, drained):
    answers = {
        "/v1/models": listed,
        "/metrics": (400, b""),
        f"/metrics?{OF_A}": metrics,
        f"/slots?{OF_A}": slots,
    }
    with FakeServer(answers) as server:
        where = {**server.environment, "LLAMA_ARG_MODELS_PRESET": "/p.ini"}
        left = drain(where, 60 if drained is True else 0.3, pause=0.01)
        assert left == (0 if drained is True else drained)
    assert drain(where, 60) == 0


def test_a_server_that_hangs_is_not_drained_and_one_that_is_gone_is():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        environment = {"LLAMA_ARG_PORT": str(listener.getsockname()[1])}
        assert drain(environment, 0.3) is None
        assert drain(environment, 0) is None
    assert drain(environment, 60) == 0
    assert drain({}, 60) == 0


@pytest.mark.parametrize("check_mode", [False, True])
def test_a_plan_on_an_older_state_is_refused_before_anything_is_touched(tmp_path, check_mode):
    write_generation(str(tmp_path), Generation(3, "abc", "ada@desk, process 7"))
    services = FakeServices(tmp_path, a="running")
    with pytest.raises(ConflictError, match="ada@desk, process 7"):
        present(services, job(tmp_path, generation=Generation(2, "old")), check_mode=check_mode)
    assert services.asked == []
    assert not (tmp_path / "instances").exists()
    assert read_generation(str(tmp_path)).number == 3


class FakeKilled(BaseException):
    """The end of a process in the middle of what it does."""


@pytest.mark.parametrize("at", ["prepare", "stop", "reload", "start"])
@pytest.mark.parametrize("error", [FakeKilled, ServiceError])
def test_wherever_a_deployment_ends_a_plan_made_before_is_refused(tmp_path, monkeypatch, at, error):
    services = FakeServices(tmp_path, a="backoff")

    def ends(*_arguments):
        raise error

    monkeypatch.setattr(services, at, ends, raising=False)
    work = job(tmp_path, actions=(Action("a", ActionKind.RESTART, "-"),))
    with pytest.raises(error):
        present(services, work, check_mode=False)
    with pytest.raises(ConflictError, match="generation 1, planned on 0"):
        present(FakeServices(tmp_path), work, check_mode=False)


def test_a_plan_made_before_a_stop_is_refused_and_one_that_stops_nothing_changes_nothing(tmp_path):
    write_generation(str(tmp_path), Generation(3, "abc", "ada@desk", "long ago", "p"))
    result = stopped(FakeServices(tmp_path, a="backoff", b="stopped"), job(tmp_path), ["a"], check_mode=False)
    assert result.instances == ("a", "b")
    assert (result.generation.number, result.generation.applied_by, result.generation.profile) == (4, "me@here", "p")
    assert read_generation(str(tmp_path)) == result.generation
    again = stopped(FakeServices(tmp_path, a="stopped"), job(tmp_path), ["a", "c"], check_mode=False)
    assert (again.changed, again.instances) == (False, ("a",))
    assert read_generation(str(tmp_path)) == again.generation == result.generation


def test_workers_end_in_a_second_call_when_the_servers_of_all_hosts_have(tmp_path):
    (tmp_path / "instances").mkdir()
    (tmp_path / "instances" / "w.env").write_text('MAGI_WORKER="gpu1/big"\n')
    services = FakeServices(tmp_path, a="backoff", w="backoff")
    for act in (
        lambda **more: stopped(services, job(tmp_path), None, **more),
        partial(absent, services, job(tmp_path)),
    ):
        first = act(check_mode=False, workers=False)
        assert ([item.instance for item in first.actions], first.workers) == (["a"], ("w",))
        assert ("remove",) not in services.asked
    second = absent(services, job(tmp_path), check_mode=False)
    assert {item.instance: item.action.action.value for item in second.actions} == {"a": "remove", "w": "remove"}
    del services.states["w"]
    assert absent(services, job(tmp_path), check_mode=False, workers=False).workers == ()


@pytest.mark.parametrize("act", [absent, lambda *arguments, **more: stopped(*arguments, None, **more)])
def test_what_the_one_before_has_changed_is_seen_once_the_lock_is_held(tmp_path, monkeypatch, act):
    home = tmp_path / "magi"
    services = FakeServices(home, a="backoff")

    @contextlib.contextmanager
    def lock(*arguments):
        services.states = {"b": "backoff"}  # what the other deployment has left
        with exclusive(*arguments):
            yield

    monkeypatch.setattr(apply, "exclusive", lock)
    result = act(services, job(home), check_mode=False)
    assert [item.instance for item in result.actions] == ["b"]
    assert [asked for asked in services.asked if asked[0] == "stop"] == [("stop", "b")]


def test_a_server_is_asked_as_it_runs_and_not_as_its_new_file_says(tmp_path, monkeypatch):
    """Also where no /proc tells what it listens on."""
    monkeypatch.setattr(procfs, "PROC", tmp_path / "no-proc")
    path = tmp_path / "instances" / "a.env"
    path.parent.mkdir()
    with FakeServer({"/metrics": IDLE}) as server:
        path.write_text(f'LLAMA_ARG_PORT="{server.environment["LLAMA_ARG_PORT"]}"\n')
        services = FakeServices(tmp_path)
        monkeypatch.setattr(services, "status", lambda: {"a": Status(State.RUNNING, 1 << 30)})
        present(services, job(tmp_path, actions=(Action("a", ActionKind.STOP, "-"),)), check_mode=False)
        assert server.asked == [("/metrics", None)]


@pytest.mark.parametrize(("module", "step"), [(files.Path, "mkdir"), (lock.os, "open"), (lock.os, "pwrite")])
def test_a_full_disk_is_one_sentence_and_nothing_is_touched(tmp_path, monkeypatch, module, step):
    def full(*_arguments, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    services = FakeServices(tmp_path, a="running")
    with monkeypatch.context() as patch, pytest.raises(FileWriteError) as error:
        patch.setattr(module, step, full)
        present(services, job(tmp_path), check_mode=False)
    assert str(tmp_path) in str(error.value)
    assert str(error.value).endswith(": No space left on device; free space there, then run again.")
    assert services.asked == []
    assert present(services, job(tmp_path), check_mode=False).changed


def test_an_instance_between_two_tries_is_stopped_too(tmp_path):
    services = FakeServices(tmp_path, a="backoff", b="failed")
    result = stopped(services, job(tmp_path), None, check_mode=False)
    assert [item.instance for item in result.actions] == ["a"]
    assert services.asked == [("stop", "a")]


@pytest.mark.parametrize("together", [True, False])
def test_what_the_manager_refuses_to_start_is_named_and_the_others_start(tmp_path, monkeypatch, together):
    def await_ready(services, home, names, seconds, interval):
        return {name: (Status(State.RUNNING), 200) for name in names}

    monkeypatch.setattr(apply, "await_ready", await_ready)
    services = FakeServices(tmp_path)
    services.refuses = {"a": "Unit a is masked."}
    names = ("a", "b")
    result = present(
        services,
        job(
            tmp_path,
            instances={name: {"name": name, "host": "127.0.0.1", "port": 1, "api_key_file": None} for name in names},
            actions=tuple(Action(name, ActionKind.START, "new") for name in names),
            concurrent_starts=together,
        ),
        check_mode=False,
    )
    a, b = result.actions
    assert (a.launched, a.cause.code, a.ready) == (False, "start_refused", False)
    assert "refuses to start it (Unit a is masked); fix" in a.cause.detail
    assert (b.launched, b.cause, b.ready) == (True, None, True)


def test_a_server_that_had_all_its_time_is_not_waited_for_again(tmp_path, monkeypatch):
    asked = []

    def await_ready(services, home, names, seconds, interval):
        asked.append(list(names))
        return {name: (Status(State.STARTING), 503) for name in names}

    monkeypatch.setattr(apply, "await_ready", await_ready)
    result = present(FakeServices(tmp_path), job(tmp_path, concurrent_starts=False), check_mode=False)
    assert [item.cause.code for item in result.actions] == ["timeout"]
    assert asked == [["a"], []]


def test_what_goes_is_stopped_before_it_is_forgotten(tmp_path):
    services = FakeServices(tmp_path, a="backoff")
    present(services, job(tmp_path, actions=(Action("a", ActionKind.STOP, "-"),)), check_mode=False)
    assert services.asked == [("prepare",), ("stop", "a"), ("forget", "a"), ("reload",)]


@pytest.mark.parametrize("left", ["template", "lock", "generation.json", "registry.json"])
def test_teardown_sees_whatever_is_left(tmp_path, left):
    home = tmp_path / "magi"
    home.mkdir()
    (home / left).touch()
    also = [str(home / "registry.json")]
    services = FakeServices(home)
    assert absent(services, job(home), check_mode=True, also=also).changed
    assert (home / left).exists()
    assert absent(services, job(home), check_mode=False, also=also).changed
    assert not home.exists()
    assert not absent(services, job(home), check_mode=False, also=also).changed
    assert not home.exists()


@pytest.mark.parametrize(
    ("metrics", "cut", "said"), [(BUSY, 1, "1 request was cut"), ((401, b""), None, "did not say"), (IDLE, 0, "")]
)
def test_requests_that_are_cut_are_told(tmp_path, monkeypatch, metrics, cut, said):
    monkeypatch.setattr(procfs, "PROC", tmp_path / "no-proc")
    (tmp_path / "instances").mkdir()
    with FakeServer({"/metrics": metrics}) as server:
        text = f'LLAMA_ARG_PORT="{server.environment["LLAMA_ARG_PORT"]}"\n'
        (tmp_path / "instances" / "a.env").write_text(text)
        services = FakeServices(tmp_path)
        monkeypatch.setattr(services, "status", lambda: {"a": Status(State.RUNNING, 1 << 30)})
        (item,) = stopped(services, job(tmp_path, stop_timeout=0), None, check_mode=False).actions
    assert (item.cut, said in item.cut_off, bool(item.cut_off)) == (cut, True, bool(said))
    assert ActionResult.from_dict(item.to_dict()) == item


@pytest.mark.parametrize(
    ("host", "port", "code", "said"),
    [
        ("192.0.2.1", "18080", "address_unavailable", "it can't listen on 192.0.2.1, port 18080 (Cannot assign"),
        ("127.0.0.1", "taken", "port_taken", "another process holds its port (127.0.0.1, port "),
        ("127.0.0.1", "1", "address_unavailable", "below 1024"),
    ],
)
def test_why_a_server_could_not_bind_is_found_by_trying(tmp_path, monkeypatch, host, port, code, said):
    log = ["E srv start: couldn't bind HTTP server socket, hostname: x, port: 1"]
    monkeypatch.setattr(
        apply, "await_ready", lambda *_given: {"a": (Status(State.FAILED, exit_status="exit status 1"), 0)}
    )
    services = FakeServices(tmp_path)
    services.capabilities = Capabilities(own_user=True)
    monkeypatch.setattr(services, "logs", lambda *_given: log)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1]) if port == "taken" else port
        text = f'LLAMA_ARG_HOST="{host}"\nLLAMA_ARG_PORT="{port}"\n'
        files = (ServiceFile(str(tmp_path / "instances" / "a.env"), text, 0o600, True),)
        (item,) = present(services, job(tmp_path, files=files), check_mode=False).actions
    assert item.cause.code == code
    assert said in item.cause.detail


@pytest.mark.parametrize(("meanwhile", "code"), [(False, "crashed"), (True, "changed_meanwhile")])
def test_what_another_deployment_ends_has_not_crashed(tmp_path, monkeypatch, meanwhile, code):
    def await_ready(*_given):
        if meanwhile:
            write_generation(str(tmp_path), Generation(2, "x", "ada@desk, process 7", "now", "other"))
        return {"a": (Status(State.STOPPED), 0)}

    monkeypatch.setattr(apply, "await_ready", await_ready)
    (item,) = present(FakeServices(tmp_path), job(tmp_path), check_mode=False).actions
    assert item.cause.code == code
    assert not meanwhile or "ada@desk, process 7 applied profile other at now" in item.cause.detail


@pytest.mark.parametrize("unit", [True, False])  # else the manager's own links are there
def test_a_folder_that_can_not_be_written_is_noticed_before_anything_stops(tmp_path, monkeypatch, unit):
    monkeypatch.setattr(files.os, "access", lambda path, _mode: Path(path) != tmp_path / "units")
    (tmp_path / "units").mkdir()
    services = FakeServices(tmp_path, a="running")
    more = (ServiceFile(str(tmp_path / "units" / "a.d" / "x.conf"), "x", 0o644, True),) if unit else ()
    work = job(tmp_path, files=(*job(tmp_path).files, *more), actions=(Action("a", ActionKind.RESTART, "-"),))
    with pytest.raises(FileWriteError) as error:
        present(services, work, check_mode=False)
    assert error.value.filename == str(tmp_path / "units")
    assert services.asked == []
    assert read_generation(str(tmp_path)).number == 0


CLAIM = Claim("me@here", "", 0, 0, "p", ("x",), 600)


@pytest.fixture
def claimed(tmp_path, monkeypatch) -> Path:
    """A home that we have claimed, and after us somebody else."""
    monkeypatch.setattr(claims, "RUN", tmp_path / "none")
    for who in (CLAIM, Claim("ada@desk", "", 0, 0, "q", ("x",), 600)):
        claims.make_claim(str(tmp_path / "home"), who)
    return tmp_path / "home"


def left(home: Path) -> list[str]:
    return [item.deployment for item in claims.make_claim(str(home), CLAIM)[1] if not item.ended]


def test_what_stands_in_starts_runs_on_and_ends_and_is_not_remembered(claimed):
    """Three calls of one deployment, which has the host until the last."""
    services = FakeServices(claimed)

    def call(generation, names, actions, **more):
        files = tuple(ServiceFile(str(claimed / "instances" / f"{name}.env"), "X=1\n", 0o600, True) for name in names)
        instances = {name: {"name": name, "address": "127.0.0.1", "port": 1, "api_key_file": None} for name in names}
        given = {"files": files, "instances": instances, "actions": actions, "generation": generation}
        result = present(services, job(claimed, claim=CLAIM, began_at=1.5, **given, **more), check_mode=False)
        return result.generation, [asked[1].stem for asked in services.asked if asked[0] == "discard"]

    kinds = (ActionKind.START, ActionKind.KEEP, ActionKind.STOP)
    start, keep, stop = (Action("a-x", kind, "stands in for a") for kind in kinds)
    restart, runs = Action("a", ActionKind.RESTART, "new"), Action("a", ActionKind.KEEP, "started")
    now, removed = call(Generation(), ["a-x"], (start,), beside=True, followed=True)
    assert removed == []
    now, removed = call(now, ["a"], (restart, keep), followed=True)
    assert removed == []
    now, removed = call(now, ["a"], (runs, stop))
    assert (removed, now.number) == (["a-x"], 3)
    assert ("forget", "a-x") in services.asked
    with pytest.raises(ConflictError):
        claims.check_claim(str(claimed), CLAIM, ())
    (entry,) = history(str(claimed))
    assert [Path(item["path"]).stem for item in entry["files"]] == ["a"]


@pytest.mark.parametrize("fails", [None, "generation", "keys"])
def test_a_claim_ends_when_the_host_is_changed_and_when_it_is_refused(claimed, fails):
    keys = {"a": {"name": "a", "address": "127.0.0.1", "port": 1, "api_key_file": "/nowhere"}}
    more = {"generation": {"generation": Generation(5)}, "keys": {"instances": keys}}.get(fails, {})
    work = job(claimed, claim=CLAIM, **more)
    with pytest.raises((ConflictError, KeyFileError)) if fails else contextlib.nullcontext():
        present(FakeServices(claimed), work, check_mode=False)
    with pytest.raises(ConflictError, match="another deployment is at work: ada@desk, with profile q"):
        claims.check_claim(str(claimed), CLAIM, ())


@pytest.mark.parametrize("unreached", [(), ("x",)])
def test_without_its_claim_nothing_is_changed(claimed, monkeypatch, unreached):
    monkeypatch.setattr(apply, "PATIENCE", 0)
    if not unreached:
        claims.forget_claims(str(claimed), [CLAIM])
    services = FakeServices(claimed)
    with pytest.raises(ConflictError, match="another deployment is at work: ada@desk, with profile q"):
        present(services, job(claimed, claim=CLAIM, unreached=unreached), check_mode=False)
    assert services.asked == []
    assert left(claimed) == ["ada@desk"]


def test_a_teardown_takes_the_claims_along(claimed):
    absent(FakeServices(claimed), job(claimed), check_mode=False)
    with pytest.raises(ConflictError, match="has lost its claim to the host"):
        claims.check_claim(str(claimed), CLAIM, ())
