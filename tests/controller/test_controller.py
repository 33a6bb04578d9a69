"""The controller as an object: its values, and the order of its runs. End-to-end tests show what a run does; here each
is a fake."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import threading
import venv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import tomllib

from magi import Controller, Report
from magi.errors import DeploymentFailed, ExitCode, HostUnreachable, Interrupted, ProfileError, UsageError
from magi.events import Event, Run
from magi.result import Result
from magi.session import Session

from . import recorded
from .known import ROOT
from .test_verdict import MISSING, report


@pytest.mark.parametrize(
    ("document", "degraded"),
    [
        ({"summary": {}}, False),
        (report(), False),
        (report("host_failed"), True),
        (report(degraded=MISSING), True),
        (recorded.run("status").last("status"), True),
    ],
)
def test_what_counts_as_degraded(document, degraded):
    assert Report.of(document).is_degraded is degraded


def test_servers_are_those_of_the_document():
    document = recorded.run("status").last("status")
    assert [(server.instance, server.url) for server in Report.of(document).servers] == [
        (recorded.Q2, "http://127.0.0.1:18140"),
        (recorded.Q3, "http://127.0.0.1:18141"),
    ]
    assert Report.of(document).servers[0].memory == {"need": None, "used": None, "used_gpu": None}


def test_a_pool_enables_its_models():
    document = recorded.run("status").last("status")
    single, server = document["servers"]
    members = [{"model_id": name, "tier": "Q2", "task": "chat", "aliases": []} for name in ("a", "b")]
    pool = {**server, "model_id": "small", "task": "", "models": {"a": "loaded", "b": "unloaded"}, "members": members}
    controller = Controller(profile="development", project=ROOT)
    controller.report = Report.of({**document, "servers": [single, pool]})
    assert [item.models for item in controller.report.servers] == [None, pool["models"]]
    assert controller.enabled_models == (recorded.Q2, "a", "b")


def test_a_wrong_name_beside_a_right_one_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    stopped = Event("ok", host="gpu1", result={"actions": [{"instance": "a"}], "instances": ["a"]})
    run = Run(0, (Event("task"), stopped, Event("stats")))
    monkeypatch.setattr("magi.session.run", lambda *_arguments, **_more: run)
    with pytest.raises(UsageError, match="There is no instance zz on gpu1; there are a"):
        Controller(project=ROOT).stop_sync(["a", "zz"])


def test_type_checkers_read_the_package_s_types(tmp_path: Path):
    """PEP 561: a marker beside the code, and installed with it; without it, no type of ours reaches anybody."""
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["magi"]
    assert "py.typed" in packaged
    venv.create(tmp_path / "venv", symlinks=True)
    installed = next((tmp_path / "venv/lib").glob("python3*/site-packages")) / "magi"
    shutil.copytree(str(resources.files("magi")), installed, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "use.py").write_text("from magi import Controller\n\nController(project=3)\n")

    def check() -> str:
        command = [sys.executable, "-m", "mypy", "--config-file=", "--python-executable", "venv/bin/python", "use.py"]
        env = {"PATH": os.defpath}  # what is on PYTHONPATH counts as one's own code
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False).stdout

    assert re.match(r'use.py:3: error: Argument "project" to "Controller" has incompatible type "int"', check())
    (installed / "py.typed").unlink()
    assert re.match(r'use.py:1: error: Skipping analyzing "magi": .* missing .* py.typed', check())


# --- runs ----------------------------------------------------------------------------------------------------------


class FakeVerb:
    """A verb that works until it is released or its run is stopped."""

    def __init__(self, outcome: Result | Exception | None = None, *, held: bool = False):
        self.outcome = outcome or Result({})
        self.begun, self.go = threading.Semaphore(0), threading.Event()
        self.sessions: list[Session] = []
        self.at_work: list[int] = []
        """How many were at work when each began, including itself."""
        self.ended = 0
        if not held:
            self.go.set()

    def __call__(self, session: Session, *_names: Any) -> Result:
        self.sessions.append(session)
        self.at_work.append(len(self.sessions) - self.ended)
        session.on_event(Event("task", task="[1/5] Model discovery"))
        self.begun.release()
        while not self.go.wait(0.01):
            if session.stop.is_set():
                break
        self.ended += 1
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


VERBS = {"initialize": "up", "status": "status", "plan": "plan", "stop": "stop", "shutdown": "down"}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeVerb]:
    """Replace the verbs by a fake."""

    def install(outcome: Result | Exception | None = None, **more: Any) -> FakeVerb:
        verb = FakeVerb(outcome, **more)
        for name in VERBS.values():
            monkeypatch.setattr(f"magi.verbs.{name}", verb)
        return verb

    return install


def controller(**given: Any) -> Controller:
    return Controller(project=ROOT, **given)


def test_threads_take_turns(fake):
    """Each blocking twin has an event loop of its own."""
    verb, one = fake(held=True), controller()
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(one.status_sync) for _number in range(4)]
        assert verb.begun.acquire(timeout=10)
        verb.go.set()
        assert [call.result(10).total_servers for call in calls] == [0] * 4
    assert verb.at_work == [1] * 4


def test_a_cancelled_call_comes_back_when_its_run_has_ended_however_often_it_is_cancelled(fake):
    verb, one = fake(held=True), controller()

    async def cancel_twice() -> None:
        call = asyncio.create_task(one.initialize())
        await asyncio.to_thread(verb.begun.acquire, timeout=10)
        verb.sessions[0].stop.is_set = lambda: False  # a run that ends slowly
        for _time in range(2):
            call.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not call.done()
        verb.go.set()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert verb.ended == 1

    asyncio.run(cancel_twice())


def test_a_cancelled_call_stops_its_run_and_the_next_one_goes_on(fake):
    verb, one = fake(held=True), controller()

    async def cancel() -> None:
        first = asyncio.create_task(one.status())
        await asyncio.to_thread(verb.begun.acquire, timeout=10)
        waiting, last = asyncio.create_task(one.status()), asyncio.create_task(one.status())
        await asyncio.sleep(0)
        waiting.cancel()
        first.cancel()
        verb.go.set()
        assert [type(item) for item in await asyncio.gather(first, waiting, last, return_exceptions=True)] == [
            asyncio.CancelledError,
            asyncio.CancelledError,
            Report,
        ]

    asyncio.run(cancel())
    assert [session.stop.is_set() for session in verb.sessions] == [True, False]


def test_events_are_heard_from_the_call_on_also_those_of_another_thread(fake):
    fake()
    one = controller()

    async def listen() -> list[str]:
        heard = one.events()
        await asyncio.to_thread(one.status_sync)
        await one.shutdown()
        return [event.task async for event in heard]

    assert asyncio.run(listen()) == ["[1/5] Model discovery"] * 2
    assert not one._listeners


@pytest.mark.parametrize("call", VERBS)
@pytest.mark.parametrize(
    ("code", "error"), [(ExitCode.UNREACHABLE, HostUnreachable), (ExitCode.FAILED, DeploymentFailed)]
)
def test_an_error_has_what_was_found_all_the_same(call, code, error, fake):
    document = {**report(), "hosts": {"gpu1": {"actions": []}}}
    fake(Result(document, code, "Not reached: gpu2."))
    with pytest.raises(error, match=r"Not reached: gpu2\.") as raised:
        getattr(controller(), f"{call}_sync")()
    assert raised.value.document == document


def test_the_report_is_never_that_of_a_deployment_before(fake):
    one = controller(profile="p")
    fake(Result(report()))
    assert one.initialize_sync() is one.report
    fake(ProfileError("Profile p not found."))
    with pytest.raises(ProfileError):
        one.initialize_sync()
    assert one.report is None


@pytest.mark.parametrize("code", [ExitCode.OK, ExitCode.DEGRADED, ExitCode.CHANGES])
def test_what_blocking_twins_return(code, fake):
    document = {**report(), "hosts": {"gpu1": {"actions": []}}}
    verb, one = fake(Result(document, code)), controller()
    assert one.plan_sync() == document["hosts"]
    assert one.status_sync().document == one.initialize_sync().document == document
    assert one.stop_sync() is one.stop_sync(["x"]) is one.shutdown_sync() is None
    assert len(verb.sessions) == 6


class FakeRun:
    """A run of a playbook that records its arguments and is stopped at once."""

    def __call__(self, _project, playbook, options, variables, **_more):
        self.playbook, self.options, self.variables = playbook, options, variables
        raise Interrupted("It was stopped.")


@pytest.mark.parametrize(
    ("given", "call", "playbook", "options", "variables"),
    [
        ({"limit": "gpu1", "check": True}, "initialize", "site", {"limit": "gpu1", "check": True}, {}),
        ({"extra_vars": ["a=1"]}, "plan", "plan", {"extra_vars": ("a=1",), "check": False}, {}),
        (
            {"profile": "p", "strict": True},
            "initialize",
            "site",
            {"limit": None},
            {"profile": "p", "model_server_strict": True},
        ),
        (
            {"inventory": "inventories/example"},
            "status",
            "status",
            {"inventory": (str(ROOT / "inventories/example"),)},
            {},
        ),
        ({}, "stop", "stop", {}, {}),
        ({}, "discover", "discover", {}, {}),
        ({}, "config", "config", {}, {}),
        ({}, "doctor", "doctor", {}, {}),
        ({}, "shutdown", "teardown", {}, {}),
    ],
)
def test_what_a_run_is_asked_for(given, call, playbook, options, variables, monkeypatch):
    run = FakeRun()
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("magi.session.run", run)
    monkeypatch.setattr("magi.project.Project.is_bare", False)
    with pytest.raises(Interrupted):
        getattr(controller(**given), f"{call}_sync")()
    assert (run.playbook, run.variables) == (playbook, variables)
    assert {name: getattr(run.options, name) for name in options} == options


@pytest.mark.parametrize(
    ("bare", "given", "environment", "first"),
    [
        (True, {}, {}, "prepare"),
        (False, {}, {}, "site"),
        (True, {"check": True}, {}, "site"),
        (True, {"inventory": "inventories/example"}, {}, "site"),
        (True, {}, {"ANSIBLE_INVENTORY": "inventories/example"}, "site"),
    ],
)
def test_the_first_deployment_on_this_machine_prepares_it(bare, given, environment, first, monkeypatch):
    run = FakeRun()
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("magi.session.run", run)
    monkeypatch.setattr("magi.project.Project.is_bare", bare)
    monkeypatch.delenv("ANSIBLE_INVENTORY", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Interrupted):
        controller(**given).initialize_sync()
    assert run.playbook == first


def test_an_instance_is_asked_and_its_log_read_by_name(monkeypatch):
    run = FakeRun()
    monkeypatch.setattr("magi.session.run", run)
    with pytest.raises(Interrupted):
        controller().logs_sync("a", 7)
    assert (run.playbook, run.variables) == ("logs", {"instance": "a", "lines": 7, "follow": False})
    with pytest.raises(Interrupted):
        controller().ask_sync("a", "{{ 7 * 7 }}?", 9)
    assert run.playbook == "ask"
    assert {**run.variables, "question_file": ""} == {"model": "a", "question_file": "", "max_tokens": 9}
    with pytest.raises(Interrupted):
        controller().ask_sync("a", "Why?", instance=True)
    assert run.variables["instance"] == "a"
    with pytest.raises(UsageError, match="The question is empty"):
        controller().ask_sync("a", " ")


def test_a_key_is_made_here_and_its_digest_alone_goes_out(monkeypatch):
    run = FakeRun()
    monkeypatch.setattr("magi.session.run", run)
    made = []
    monkeypatch.setattr("secrets.token_urlsafe", lambda size: made.append(size) or "canary")
    with pytest.raises(Interrupted):
        controller().add_key_sync("alice", models=["qwen*"], per_minute=60, expires="9000-01-31")
    digest = hashlib.sha256(b"magi-canary").hexdigest()
    given = {"name": "alice", "digest": digest, "models": ("qwen*",), "per_minute": 60, "expires": "9000-01-31"}
    assert (run.playbook, run.variables) == ("keys", {"model_gateway_key": {"state": "present", **given}})
    assert made == [32]
    for name, more, said in (
        ("a b", {}, "Key 'a b': the name, its second word, must be of letters"),
        ("{{ x }}", {}, "the name, its second word"),
        ("x", {"expires": "2020-01-31"}, "2020-01-31, the last day of the key, is over"),
        ("x", {"expires": "soon"}, "expires= must be a day"),
        ("x", {"models": ["{{ x }}"]}, "models= must be names"),
        ("x", {"models": ["{%x%}"]}, "can't have { or }: put"),
        ("x", {"concurrent": 0}, "concurrent= must be"),
        ("x", {"concurrent": 1}, None),
    ):
        with pytest.raises(UsageError if said else Interrupted, match=said):
            controller().add_key_sync(name, **more)
    with pytest.raises(Interrupted):
        controller().keys_sync()
    assert (run.playbook, run.variables) == ("keys", {})


def test_each_verb_has_its_blocking_twin():
    verbs = {
        name for name, member in vars(Controller).items() if inspect.iscoroutinefunction(member) and name[0] != "_"
    }
    looks = {"discover", "config", "doctor", "logs", "ask", "health", "routes", "rollback", "fit"}
    assert verbs == {*VERBS, *looks, "add_key", "keys", "revoke_key"}
    for name in verbs:
        twin = getattr(Controller, f"{name}_sync")
        assert inspect.signature(twin) == inspect.signature(getattr(Controller, name))


def test_instances_are_stopped_by_name(monkeypatch):
    run = FakeRun()
    monkeypatch.setattr("magi.session.run", run)
    monkeypatch.setattr("magi.project.Project.is_bare", False)
    with pytest.raises(Interrupted):
        controller().stop_sync(["a", "b"])
    assert run.variables == {"model_server_stop_instances": ["a", "b"]}
