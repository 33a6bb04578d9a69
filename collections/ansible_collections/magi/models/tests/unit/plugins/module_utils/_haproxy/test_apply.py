from __future__ import annotations

import contextlib
import json
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.magi.models.plugins.module_utils._haproxy import apply
from ansible_collections.magi.models.plugins.module_utils._haproxy.apply import (
    PortTakenError,
    ProxyError,
    WantedGateway,
    absent,
    configured,
    present,
    remembered,
    settled_at,
)
from ansible_collections.magi.models.plugins.module_utils._haproxy.sockets import Sockets
from ansible_collections.magi.models.plugins.module_utils._haproxy.stats import ServerState
from ansible_collections.magi.models.plugins.module_utils._services.values import ServiceFile


class FakeService:
    """Runs what lies in the folder at its start or reload, unless it is broken."""

    def __init__(self, home):
        self.home = home
        self.sockets = Sockets.at("fake {}".format)
        self.kept = []
        self.keys = None
        self.runs = None
        self.calls = []
        self.broken = False
        self.definition = home / "definition"

    def owned(self):
        return [self.definition] if self.definition.exists() else []

    def running(self):
        return self.runs is not None

    def start(self):
        self.calls.append("start")
        if not self.broken:
            self.runs = (self.home / "current").readlink().name

    def reload(self):
        self.calls.append("reload")
        self.start()

    def logs(self, _lines):
        return [
            "[ALERT]    (7) : Starting frontend gateway: cannot bind socket (Address already in use)",
            "[ALERT]    (7) : config : Error(s) found in configuration file : /x/haproxy.cfg",
            "[NOTICE] x",
        ]

    def remove(self):
        self.calls.append("remove")
        self.runs = None
        self.definition.unlink(missing_ok=True)


@pytest.fixture
def service(tmp_path, monkeypatch):
    made = FakeService(tmp_path / "home")
    monkeypatch.setattr(apply, "running_revision", lambda _path: made.runs)
    monkeypatch.setattr(apply, "servers", lambda _path: made.kept)
    monkeypatch.setattr(apply, "routed_keys", lambda _path: made.keys)
    monkeypatch.setattr(apply, "enable", lambda _path, places: made.kept.clear() or made.calls.append(places))
    return made


def wanted(service, revision="1", program="/bin/true", port=0, **files):
    return WantedGateway(
        str(service.home),
        program,
        revision,
        {"haproxy.cfg": f"# {revision}\n", **files},
        (ServiceFile(str(service.definition), "x", 0o600),),
        ("127.0.0.1",),
        port,
    )


def put(service, one, *, check_mode):
    return present(service, lambda: one, check_mode=check_mode)


def test_check_real_again_check(service):
    one = wanted(service)
    assert put(service, one, check_mode=True).actions == ("write", "start")
    assert not service.home.exists()
    assert put(service, one, check_mode=False).actions == ("write", "start")
    assert (service.home / "current" / "haproxy.cfg").read_text() == "# 1\n"
    assert service.definition.stat().st_mode & 0o777 == 0o600
    for check_mode in (True, False):
        again = put(service, one, check_mode=check_mode)
        assert (again.changed, again.actions, again.diff) == (False, (), ())
    assert service.calls == ["start"]


def test_a_change_is_a_reload_and_what_does_not_run_as_desired_heals(service):
    put(service, wanted(service), check_mode=False)
    assert put(service, wanted(service, "2"), check_mode=False).actions == ("write", "reload")
    assert service.runs == "2"
    (service.home / "current" / "haproxy.cfg").write_text("# somebody's\n")
    assert put(service, wanted(service, "2"), check_mode=False).actions == ("write", "reload")
    assert (service.home / "current" / "haproxy.cfg").read_text() == "# 2\n"
    service.runs = "1"  # a reload was lost
    assert put(service, wanted(service, "2"), check_mode=False).actions == ("reload",)
    service.runs = None
    assert put(service, wanted(service, "2"), check_mode=False).actions == ("start",)

    # what a killed deployment left: servers without requests, and a name that leads nowhere
    kept = [ServerState("a", f"s{state}", False, state, 0, 4, 0) for state in ("up", "drained", "disabled")]
    service.kept = [*kept]
    begun = replace(wanted(service, "2"), all_serve=False)
    assert put(service, begun, check_mode=False).actions == ("ready",)
    service.kept = [*kept]
    assert put(service, wanted(service, "2"), check_mode=False).actions == ("ready",)
    assert service.calls[-2:] == [["a/sdrained"], ["a/sdrained", "a/sdisabled"]]
    service.keys = {"another"}
    assert put(service, wanted(service, "2"), check_mode=False).actions == ("reload",)


def test_a_configuration_that_is_refused_replaces_nothing(service, tmp_path):
    put(service, wanted(service), check_mode=False)
    program = tmp_path / "haproxy"
    program.write_text("#!/bin/sh\necho \"[ALERT]    (7) : config : [$5:3] : unknown keyword 'x'\" >&2\nexit 1\n")
    program.chmod(0o755)
    for check_mode in (True, False):
        with pytest.raises(ProxyError, match=r"stays: \[haproxy.cfg:3\] : unknown keyword 'x'; correct the template"):
            put(service, wanted(service, "2", str(program)), check_mode=check_mode)
    assert (service.home / "current" / "haproxy.cfg").read_text() == "# 1\n"
    assert service.calls == ["start"]


def test_a_gateway_that_does_not_start_says_why(service):
    service.broken = True
    with pytest.raises(
        ProxyError, match=r"did not take the configuration in .*: Starting frontend gateway: cannot bind"
    ):
        put(service, wanted(service), check_mode=False)


def test_secrets_lie_beside_the_configuration_and_nobody_sees_them(service):
    one = replace(wanted(service, "1"), secrets={"keys.map": "abc alice\n", "tls.pem": "canary"})
    for check_mode in (True, False):
        outcome = put(service, one, check_mode=check_mode)
        assert "canary" not in str(outcome)
        assert {item["after"] for item in outcome.diff if "/secrets/" in item["after_header"]} == {"(not shown)\n"}
    folder = service.home / "secrets"
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "keys.map": 0o600,
        "tls.pem": 0o600,
    }
    assert folder.stat().st_mode & 0o777 == 0o700
    assert configured(str(service.home)) == (one.files, one.secrets)
    assert not put(service, one, check_mode=False).changed
    (folder / "keys.map").write_text("somebody's")
    assert put(service, one, check_mode=False).actions == ("write", "reload")
    assert (folder / "keys.map").read_text() == "abc alice\n"
    less = replace(wanted(service, "2"), secrets={"keys.map": ""})
    assert put(service, less, check_mode=False).actions == ("write", "reload")
    assert [path.name for path in folder.iterdir()] == ["keys.map"]
    assert put(service, wanted(service, "3"), check_mode=False).actions == ("write", "reload")
    assert not folder.exists()
    put(service, one, check_mode=False)
    absent(service, str(service.home), check_mode=False)
    assert not service.home.exists()


def test_a_key_that_is_added_meanwhile_stays(service):
    """What is read from files of the host is read again once nobody else changes the gateway."""
    before = replace(wanted(service, "1"), secrets={"keys.map": ""})
    after = replace(wanted(service, "2"), secrets={"keys.map": "abc alice\n"})
    reads = [before, after]
    assert present(service, lambda: reads.pop(0), check_mode=False).actions == ("write", "start")
    assert configured(str(service.home)) == (after.files, after.secrets)
    assert (service.runs, reads) == ("2", [])


def test_a_port_of_somebody_else_is_named(service):
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            PortTakenError, match=rf"port {port} of 127.0.0.1 is taken by process \d+, .*; end it, or set"
        ):
            put(service, wanted(service, port=port), check_mode=True)


def test_the_last_configurations_stay(service):
    for number in range(6):
        put(service, wanted(service, str(number)), check_mode=False)
    assert len([*(service.home / "configurations").iterdir()]) == apply.KEPT
    assert (service.home / "current" / "haproxy.cfg").exists()


def test_what_is_routed_is_remembered(service):
    assert remembered(str(service.home)) == []
    put(service, wanted(service, **{"servers.json": json.dumps([{"host": "gpu1"}])}), check_mode=False)
    assert remembered(str(service.home)) == [{"host": "gpu1"}]


def test_only_ours_is_removed(service):
    home = str(service.home)
    assert not absent(service, home, check_mode=False).changed
    put(service, wanted(service), check_mode=False)
    theirs = service.home / "theirs"
    theirs.write_text("x")
    assert absent(service, home, check_mode=True).changed
    assert service.calls == ["start"]
    assert absent(service, home, check_mode=False).changed
    assert [*Path(home).iterdir()] == [theirs]
    assert not absent(service, home, check_mode=False).changed


def test_a_teardown_beside_a_deployment_waits_for_it(service):
    home = str(service.home)

    def want():
        if service.home.exists():  # the deployment has the lock now
            teardown.start()
            assert not ended.wait(0.1)
        return wanted(service)

    ended = threading.Event()
    teardown = threading.Thread(target=lambda: (absent(service, home, check_mode=False), ended.set()))
    assert present(service, want, check_mode=False).changed
    teardown.join()
    assert service.calls == ["start", "remove"]
    assert not service.home.exists()


def test_a_deployment_beside_a_teardown_waits_for_it_and_holds_a_lock_of_its_own(service, monkeypatch):
    put(service, wanted(service), check_mode=False)
    calls = service.calls
    remove = service.remove

    def remove_slowly():
        deployment.start()
        deployment.join(0.1)
        assert deployment.is_alive()
        remove()

    monkeypatch.setattr(service, "remove", remove_slowly)
    deployment = threading.Thread(target=lambda: put(service, wanted(service, "2"), check_mode=False))
    absent(service, str(service.home), check_mode=False)
    deployment.join()
    assert calls == ["start", "remove", "start"]
    assert service.runs == "2"
    assert (service.home / apply.LOCK).exists()


@pytest.mark.parametrize(
    ("history", "when"),
    [
        ([], 0),
        ([(1, 60)], 0),  # there is nothing to go back to
        ([(1, 60), (2, 61)], 2),
        ([(1, 60), (2, 61), (3, 61)], 2),  # the last changed its routes
        ([(1, 60), (2, 60)], 0),
        ([(1, 61), (2, 60), (3, 61)], 3),
    ],
)
def test_when_a_gateway_got_its_settings(history, when):
    assert settled_at([{"began_at": began_at, "settings": {"hold": hold}} for began_at, hold in history]) == when


def test_a_new_kind_of_setting_is_no_change():
    history = [{"began_at": 1, "settings": {"hold": 60}}, {"began_at": 2, "settings": {"hold": 60, "more": 1}}]
    assert settled_at(history) == 0
