"""magi over HTTP: who may ask, what is answered, and that a change is a job. A fake replays recorded runs; an
end-to-end test shows real ones."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from magi.cli import main
from magi.cli.output import Output
from magi.cli.serve import tell
from magi.errors import UsageError
from magi.result import Result
from magi.state import catalog
from magi.web import Service, router, tokens
from magi.web.app import application
from magi.web.guard import Role
from magi.web.jobs import CANCELLED, DONE, FAILED, Entry, Job

from ..waiting import until
from . import recorded, test_fit
from .fake_run import FakeRun
from .known import ROOT

PROFILE = "name: mine\nenabled_models:\n  - tier: Q2\n"


class Client(TestClient):
    """A client of the API with the token of a role."""

    def __init__(self, app: FastAPI, service: Service, role: Role = Role.DEPLOY, **more: Any):
        super().__init__(app, "http://127.0.0.1:8321", **more)
        self.headers["Authorization"] = f"Bearer {service.new_tokens[role]}"

    def ended(self, answer: Any) -> dict[str, Any]:
        """Wait until the job of an answer has ended, and return it."""
        assert answer.status_code == 202, answer.text
        where = answer.headers["location"]
        return until(lambda: (job := self.get(where).json())["state"] != "running" and job, 10, f"the end of {where}")


@pytest.fixture
def web(service: Service) -> Iterator[Client]:
    with Client(application(service), service) as client:
        yield client


def audit(service: Service) -> list[dict[str, Any]]:
    return [json.loads(line) for line in service.audit.path.read_text().splitlines()]


# --- who may ask -----------------------------------------------------------------------------------------------------


def test_tokens_are_made_once_for_their_owner_alone(service: Service):
    assert service.token_file.stat().st_mode & 0o777 == 0o600
    assert {*service.new_tokens} == {*Role}
    again, new = tokens.load(service.token_file)
    assert not new
    assert {role: again.role(token) for role, token in service.new_tokens.items()} == {role: role for role in Role}


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("deploy canary-canary-canary\n", 0o640, "can be read by others: run chmod 600"),
        ("admin canary-canary-canary\n", 0o600, "line 1, must be a role (view or deploy) and a token of 16"),
        ("# mine\nview canary\n", 0o600, "line 2, must be a role"),
        ("\n# none\n", 0o600, "has no token: remove it"),
    ],
)
def test_a_file_of_tokens_that_is_refused(text, mode, said, tmp_path):
    path = tmp_path / "tokens"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(UsageError) as raised:
        tokens.load(path)
    assert said in str(raised.value)
    assert "canary" not in str(raised.value)


@pytest.mark.parametrize("path", ["status", "profiles", "jobs", "../models/management/servers"])
@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer wrong", "Bearer \udcff", "Basic dTpw"])
def test_without_a_right_token_nothing_is_answered(given, path, web: Client):
    del web.headers["Authorization"]
    headers = {} if given is None else {"Authorization": given.encode("utf-8", "surrogateescape")}
    answer = web.get(f"/api/v1/{path}", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["cache-control"] == "no-store"
    assert "Authorization: Bearer TOKEN" in answer.json()["detail"]


CHANGES = [
    ("POST", "up", {}, "up"),
    ("POST", "rollback", {}, "rollback"),
    ("POST", "stop", {}, "stop"),
    ("POST", "down", {}, "down"),
    ("POST", "jobs/x/cancel", None, "cancel"),
    ("PUT", "profiles/mine", {"text": PROFILE}, "profile save"),
    ("POST", "keys", {"name": "alice"}, "key add"),
    ("DELETE", "keys/alice", None, "key revoke"),
]
"""All requests that change something, with the word for each in the audit log."""


def test_no_other_request_changes_anything(web: Client):
    paths = web.get("/api/v1/openapi.json").json()["paths"]
    there = {(method.upper(), path) for path, methods in paths.items() for method in methods if method != "get"}
    named = {"/x/": "/{job_id}/", "/mine": "/{name}", "/alice": "/{name}"}
    known = set()
    for method, path, *_rest in CHANGES:
        for name, parameter in named.items():
            path = path.replace(name, parameter)
        known.add((method, f"/api/v1/{path}"))
    looks = {("POST", f"/api/v1/profiles/{{name}}/{what}") for what in ("validate", "preview")}
    assert there == known | looks


@pytest.mark.parametrize(("method", "path", "body", "action"), CHANGES)
def test_each_change_has_its_line_in_the_audit_log(
    method, path, body, action, web: Client, service: Service, monkeypatch: pytest.MonkeyPatch
):
    for verb in ("add_key", "revoke_key"):
        monkeypatch.setattr(f"magi.verbs.{verb}", lambda *_given, **_more: Result({"key": "canary"}))
    job = web.ended(web.post("/api/v1/stop", json={}))["id"] if action == "cancel" else "x"
    answer = web.request(method, f"/api/v1/{path}".replace("/x/", f"/{job}/"), json=body)
    assert answer.status_code < 300, answer.text
    line = audit(service)[-1]
    assert (line["action"], line["role"], line["client"]) == (action, "deploy", "testclient")
    assert datetime.fromisoformat(line["time"]).timestamp() == pytest.approx(time.time(), abs=60)
    assert "canary" not in service.audit.path.read_text()
    assert service.audit.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("method", "path", "body"), [*(change[:3] for change in CHANGES), ("POST", "up", "not even JSON")]
)
def test_who_may_only_look_changes_nothing(method, path, body, service: Service, run: FakeRun):
    with Client(application(service), service, Role.VIEW) as web:
        answer = web.request(method, f"/api/v1/{path}", json=body)
    assert (answer.status_code, answer.json()["detail"]) == (
        403,
        "This token may only look: ask with one of the role deploy.",
    )
    assert {playbook for playbook, *_ in run.calls} <= {"status"}
    assert not service.audit.path.exists()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://127.0.0.1:8321", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Host": "models.lan", "Origin": "https://models.lan"}, 200),
        ({"Origin": "https://MODELS.lan"}, 200),  # a proxy that asks by our own address
        ({"Host": "evil.example"}, 403),  # its name leads here: DNS rebinding
        ({"Host": "evil.example:8321", "Origin": "http://evil.example:8321"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "[::1"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://localhost:3000"}, 403),  # another program of this machine
        ({"Origin": "http://127.0.0.1:3000"}, 403),
        ({"Origin": "https://127.0.0.1"}, 403),
        ({"Origin": "http://models.lan:3000"}, 403),
        ({"Origin": "https://models.lan:3000"}, 403),
        ({"Origin": "https://models.lan:x"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[::1"}, 403),
        ({"Origin": "file://"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_a_browser_asks_from_our_own_pages_alone(headers, status, web: Client):
    assert web.get("/api/v1/jobs", headers=headers).status_code == status
    assert web.post("/api/v1/down", headers=headers, json={"nope": 1}).status_code == (422 if status == 200 else 403)


# --- what was last seen ----------------------------------------------------------------------------------------------


def test_the_older_endpoints_have_their_shapes(web: Client):
    web.get("/api/v1/status", params={"max_age": 60})
    answer = web.get("/api/models/management/servers")
    seen = recorded.run("status").last("status")["servers"]
    keys = ("model_id", "display_name", "port", "pid", "is_ready", "tier")
    servers = [{key: item[key] for key in keys} for item in seen]
    assert answer.json() == {"total_servers": 2, "ready_servers": 1, "servers": servers}
    assert int(answer.headers["age"]) < 60
    status = web.get("/api/models/status").json()
    assert [(item["id"], item["state"]) for item in status["models"]] == [
        (recorded.Q2, "active"),
        (recorded.Q3, "error"),
    ]
    assert {*status} == {
        *("models", "totalVramGb", "totalVramUsedGb", "cacheHitRate", "activeQueries", "totalRequests", "timestamp")
    }


def test_nothing_waits_for_ansible_unless_it_asks_to(run: FakeRun, service: Service, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("magi.web.looks.FRESH", 0)
    with Client(application(service), service) as web:
        first = web.get("/api/v1/status", params={"max_age": 60}).json()
        assert first["document"] == recorded.run("status").last("status")
        assert (first["exit_code"], first["document"]["ready_servers"]) == (5, 1)
        assert "Not reached: gone" in first["problem"]
        run.held.add("status")
        at_work = web.get("/api/v1/status").json()
        assert at_work["seen_at"] == first["seen_at"]
        until(lambda: web.get("/api/v1/status").json()["refreshing"], 10, "a look in the background")
        assert web.get("/api/models/management/servers").status_code == 200
    assert run.stopped  # with the service


def test_what_was_never_seen_is_said_so(run: FakeRun, service: Service):
    run.held.add("status")
    with Client(application(service), service) as web:
        for path in ("/api/v1/status", "/api/models/management/servers", "/api/models/status"):
            answer = web.get(path)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


@pytest.mark.parametrize(
    ("path", "playbook", "variables"),
    [
        ("plan", "plan", {}),
        ("plan?profile=p", "plan", {"profile": "p"}),
        ("discover", "discover", {}),
    ],
)
def test_a_look_is_that_of_its_verb(path, playbook, variables, web: Client, run: FakeRun):
    answer = web.get(
        f"/api/v1/{path}", params={**dict([path.split("?")[1].split("=")] if "?" in path else []), "max_age": 9}
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["document"]["hosts"]
    assert [given for name, _options, given in run.calls if name == playbook] == [variables]


@pytest.mark.parametrize(
    ("path", "verb", "given"),
    [
        ("health", "health", {"deep": False}),
        ("health?deep=true", "health", {"deep": True}),
        ("routes", "routes", {}),
        ("keys", "keys", {}),
        ("instances/a/logs?lines=7", "logs", {"instance": "a", "lines": 7}),
    ],
)
def test_what_is_asked_for_reaches_the_verb(path, verb, given, web: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(f"magi.verbs.{verb}", lambda _session, **asked: Result({"asked": asked}))
    answer = web.get(f"/api/v1/{path}{'&' if '?' in path else '?'}max_age=9")
    assert (answer.status_code, answer.json()["document"]) == (200, {"asked": given})


def test_what_fits_is_told_by_the_last_look_and_runs_nothing(web: Client, run: FakeRun, service: Service):
    web.get("/api/v1/status", params={"max_age": 9})  # the first look, of the service itself, has ended
    before, session = len(run.calls), service.session
    catalog.save(catalog.path_of(session.project, session.options.inventory), test_fit.known(test_fit.look()))
    answer = web.get(f"/api/v1/models/{test_fit.NAME}/fit?ctx_size=8192").json()
    assert (answer["exit_code"], answer["document"]["hosts"][0]["context"]) == (0, 8192)
    assert web.get("/api/v1/models/x/fit").status_code == 422
    assert len(run.calls) == before


def test_a_look_that_fails_is_not_tried_again_at_once(run: FakeRun, service: Service):
    with Client(application(service), service) as web:
        until(lambda: web.get("/api/v1/routes").status_code == 422, 10, "an error")
        assert [web.get("/api/v1/routes").status_code for _time in range(5)] == [422] * 5
    assert [playbook for playbook, *_ in run.calls].count("routes") == 1


def test_who_waits_gets_what_began_after_the_question(web: Client, run: FakeRun):
    """Also where an earlier look is at work: many ask at the same time."""
    began: list[str] = []

    def ask() -> None:
        began.append(web.get("/api/v1/discover", params={"max_age": 0}).json()["seen_at"])

    before = time.time()
    threads = [threading.Thread(target=ask) for _number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(began) == 8
    assert min(map(datetime.fromisoformat, began)).timestamp() >= before - 1e-3


def test_a_look_that_fails_is_a_sentence(web: Client, run: FakeRun, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(FakeRun, "RECORDINGS", {"plan": "profile-missing"})
    answer = web.get("/api/v1/plan", params={"profile": "nope", "max_age": 0})
    assert answer.status_code == 422
    assert answer.json()["exit_code"] == 2
    assert "not found" in answer.json()["detail"]
    monkeypatch.setattr("magi.verbs.discover", lambda session: 1 / 0)
    answer = web.get("/api/v1/discover", params={"max_age": 0})
    assert answer.status_code == 502
    assert answer.json()["detail"].startswith("Internal error (ZeroDivisionError: division by zero): please report it")


# --- jobs ------------------------------------------------------------------------------------------------------------


def events(text: str) -> list[tuple[int, str, dict[str, Any]]]:
    """Return number, kind and data of server-sent events."""
    found = []
    for block in filter(None, text.split("\n\n")):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


def test_a_deployment_is_a_job_with_its_events_from_the_beginning(web: Client, run: FakeRun, service: Service):
    job = web.ended(web.post("/api/v1/up", json={"profile": "p", "strict": True, "limit": "gpu*"}))
    assert (job["verb"], job["by"], job["state"], job["document"]["summary"]["profile"]) == (
        "up",
        "deploy",
        FAILED,
        "p",
    )
    assert job["problem"].startswith("Host gone: it can't be reached")
    _playbook, options, variables = next(call for call in run.calls if call[0] == "site")
    assert (options.limit, variables) == ("gpu*", {"profile": "p", "model_server_strict": True})

    told = events(web.get(f"/api/v1/jobs/{job['id']}/events").text)
    assert [number for number, *_ in told] == [*range(1, len(told) + 1)]
    assert [data["step"] for _n, kind, data in told if kind == "progress"][-1] == 5
    assert {data["kind"] for _n, kind, data in told if kind == "event"} == {"task", "ok", "unreachable"}
    assert not any("result" in data for _n, _kind, data in told)
    assert (told[-1][1], told[-1][2]["state"]) == ("end", FAILED)
    for last, left in (("5", told[5:]), (str(len(told)), []), ("9999", told), ("x", told)):
        later = web.get(f"/api/v1/jobs/{job['id']}/events", headers={"Last-Event-ID": last})
        assert events(later.text) == left
    assert [item["id"] for item in web.get("/api/v1/jobs").json()] == [job["id"]]
    (line,) = audit(service)
    assert (line["action"], line["role"], line["job"], line["given"]["profile"]) == ("up", "deploy", job["id"], "p")


@pytest.mark.parametrize(
    ("verb", "body", "playbook", "variables"),
    [
        ("up", {"profile": "p"}, "site", {"profile": "p"}),
        ("rollback", {}, "rollback", {}),
        ("stop", {"instances": ["a", "b"]}, "stop", {"model_server_stop_instances": ["a", "b"]}),
        ("stop", {}, "stop", {}),
        ("down", {}, "teardown", {}),
    ],
)
def test_a_change_is_that_of_its_verb(verb, body, playbook, variables, web: Client, run: FakeRun):
    web.ended(web.post(f"/api/v1/{verb}", json={**body, "check": True}))
    ((_playbook, options, given),) = [call for call in run.calls if call[0] == playbook]
    assert (options.check, given) == (True, variables)


def test_one_change_at_a_time_and_it_ends_on_request(web: Client, run: FakeRun, service: Service, folder: Path):
    run.held.add("site")
    begun = web.post("/api/v1/up", json={})
    until(lambda: any(call[0] == "site" for call in run.calls), 10, "the deployment")
    for path in ("down", "stop", "up", "rollback"):
        refused = web.post(f"/api/v1/{path}", json={})
        assert refused.status_code == 409
        assert begun.json()["id"] in refused.json()["detail"]
    other = Service(project=ROOT, profiles=folder)
    other.new_tokens = service.new_tokens
    with Client(application(other), other) as elsewhere:
        refused = elsewhere.post("/api/v1/down", json={})
        assert refused.json()["detail"].startswith("Another magi serve is at work on this inventory")
    assert web.post(f"/api/v1/jobs/{begun.json()['id']}/cancel").status_code == 202
    job = web.ended(begun)
    assert (job["state"], job["exit_code"]) == (CANCELLED, 130)
    assert "done on localhost" in job["problem"]
    run.held.clear()
    assert web.ended(web.post("/api/v1/down", json={}))["document"]["hosts"]


def test_a_job_ends_with_its_service_and_is_remembered(web: Client, run: FakeRun, service: Service, folder: Path):
    run.held.add("site")
    with Client(application(service), service) as first:
        begun = first.post("/api/v1/up", json={}).json()
        until(lambda: any(call[0] == "site" for call in run.calls), 10, "the deployment")
    assert "site" in run.stopped
    with Client(application(service), service) as again:
        assert again.get(f"/api/v1/jobs/{begun['id']}").json()["state"] == CANCELLED
        assert [kind for _n, kind, _data in events(again.get(f"/api/v1/jobs/{begun['id']}/events").text)] == ["end"]


def test_a_job_whose_service_was_killed_is_not_taken_for_running(service: Service):
    left = Job("20260101T000000-up-abc", "up", {}, "deploy", 1.0)
    path = service.folder / f"{left.id}.json"
    path.write_text(json.dumps({**left.summary(), "document": None}))
    (service.folder / "half.json").write_text("{")
    with open(service.folder / "lock", "w") as lock:  # another magi serve has one at work
        fcntl.flock(lock, fcntl.LOCK_EX)
        with Client(application(service), service) as web:
            assert web.get("/api/v1/jobs").json() == []
    with Client(application(service), service) as web:
        (job,) = web.get("/api/v1/jobs").json()
    assert (job["state"], job["problem"]) == (
        FAILED,
        "magi serve ended while it was at work: see what runs, and start it again.",
    )


def test_old_jobs_are_forgotten_and_their_events_before(web: Client, service: Service, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("magi.web.jobs.KEEP", 3)
    monkeypatch.setattr("magi.web.jobs.FOLLOWED", 2)
    ids = [web.ended(web.post("/api/v1/down", json={}))["id"] for _number in range(4)]
    assert [job["id"] for job in web.get("/api/v1/jobs").json()] == ids[:0:-1]
    assert {path.stem for path in service.folder.glob("*.json")} == {*ids[1:]}
    lengths = [len(events(web.get(f"/api/v1/jobs/{job}/events").text)) for job in ids[1:]]
    assert lengths[0] == 1 < lengths[1] == lengths[2]


def test_a_change_that_can_t_be_audited_does_not_begin(web: Client, run: FakeRun, service: Service):
    service.audit.path.mkdir()
    answer = web.post("/api/v1/down", json={})
    assert answer.status_code == 502
    assert answer.json()["detail"].startswith("Nothing was changed, since")
    assert not any(call[0] == "teardown" for call in run.calls)
    service.audit.path.rmdir()
    assert web.ended(web.post("/api/v1/down", json={}))["document"]["hosts"]


def test_who_follows_hears_of_a_job_that_is_at_work_and_of_its_pauses():
    async def follow() -> list[Any]:
        job, heard = Job("x", "up", {}, "deploy", 1.0), []
        async for item in job.follow(pause=0.01):
            heard.append(item and item[1].data)
            if item is None:
                job.state = DONE
                job.add(Entry("end", "2"))
            elif not heard[1:]:
                job.add(Entry("event", "1"))
        return heard

    async def begun() -> list[Any]:
        return await asyncio.wait_for(follow(), 10)

    assert asyncio.run(begun()) == [None, "2"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("up", {"profile": "{{ lookup('pipe', 'touch owned') }}"}),
        ("up", {"profile": "../production"}),
        ("up", {"limit": "@/etc/passwd"}),
        ("up", {"limit": "-vvv"}),
        ("up", {"extra_vars": ["a={{ 1 }}"]}),
        ("stop", {"instances": ["a", "{{ x }}"]}),
        ("stop", {"instances": "a"}),
        ("keys", {"name": "a b"}),
        ("keys", {"name": "a", "models": ["{{ x }}"]}),
        ("up", []),
    ],
)
def test_what_could_be_more_than_a_name_is_refused(path, body, web: Client, run: FakeRun, service: Service):
    answer = web.post(f"/api/v1/{path}", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert {call[0] for call in run.calls} <= {"status"}


def test_a_body_has_a_limit_whatever_its_headers_say(web: Client):
    for content in (b"x" * 2_000_000, iter([b"x" * 1_000_000] * 2)):
        answer = web.post("/api/v1/up", content=content, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")


def test_what_is_not_there_is_a_sentence_too(web: Client):
    for method, path, status in (
        ("GET", "/api/v1/nope", 404),
        ("PUT", "/api/v1/up", 405),
        ("GET", "/api/v1/jobs/nope", 404),
        ("GET", "/api/v1/profiles/nope", 404),
    ):
        answer = web.request(method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert answer.json()["detail"].endswith(".")


# --- profiles --------------------------------------------------------------------------------------------------------


def test_profiles_are_listed_and_read(web: Client, folder: Path):
    (folder / "broken.yml").write_text("enabled_model: 3\n")
    found = {item["name"]: item["valid"] for item in web.get("/api/v1/profiles").json()}
    assert found == {"broken": False, "development": True, "fast-only": True, "production": True}
    broken = web.get("/api/v1/profiles/broken").json()
    assert broken["text"] == "enabled_model: 3\n"
    assert broken["problems"][0]["line"] == 1


def test_two_editors_of_one_profile_lose_nothing(web: Client, folder: Path, service: Service):
    new = web.put("/api/v1/profiles/mine", json={"text": PROFILE}).json()
    assert (folder / "mine.yml").read_text() == PROFILE
    (folder / "mine.yml").chmod(0o640)
    ours, theirs = (PROFILE.replace("Q2", tier) for tier in ("Q3", "Q4"))
    first = web.put("/api/v1/profiles/mine", json={"text": ours, "version": new["version"]})
    assert first.status_code == 200
    second = web.put("/api/v1/profiles/mine", json={"text": theirs, "version": new["version"]})
    assert second.status_code == 409
    there = second.json()
    assert "changed since you read it" in there["detail"]
    assert (there["text"], there["version"]) == (ours, first.json()["version"])
    assert "-  - tier: Q3\n+  - tier: Q4\n" in there["difference"]
    assert (folder / "mine.yml").read_text() == ours
    assert web.put("/api/v1/profiles/mine", json={"text": theirs, "version": there["version"]}).status_code == 200
    assert (folder / "mine.yml").stat().st_mode & 0o777 == 0o640
    assert web.put("/api/v1/profiles/mine", json={"text": ours}).status_code == 409
    (folder / "mine.yml").unlink()
    gone = web.put("/api/v1/profiles/mine", json={"text": ours, "version": there["version"]})
    assert (gone.status_code, gone.json()["text"]) == (409, None)
    assert {line["action"] for line in audit(service)} == {"profile save"}


def test_of_many_savers_of_one_version_one_wins(web: Client, folder: Path):
    version = web.put("/api/v1/profiles/mine", json={"text": PROFILE}).json()["version"]
    results: list[int] = []

    def save(number: int) -> None:
        body = {"text": f"{PROFILE}# {number}\n", "version": version}
        results.append(web.put("/api/v1/profiles/mine", json=body).status_code)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [200, *[409] * 7]


@pytest.mark.parametrize(
    ("name", "text", "status"),
    [
        ("mine", "name: mine\nenabled_models:\n  - '{{ lookup(''pipe'', ''touch owned'') }}'\n", 422),
        ("mine", "name: mine\nenabled_models: [{tier: Q2, options: {ctx_size: '{{ 1 }}'}}]\n", 422),
        ("mine", "name: other\nenabled_models: []\n", 422),
        ("mine", ": :\n", 422),
        ("mine", "", 422),
        ("..%2fmine", PROFILE, 404),
        ("%2e%2e%2fmine", PROFILE, 404),
        ("..", PROFILE, 404),
        ("...", PROFILE, 422),
        ("a%00b", PROFILE, 422),
        (".hidden", PROFILE, 422),
        ("a" * 201, PROFILE, 422),
        ("%7B%7Bx%7D%7D", PROFILE, 422),
    ],
)
def test_a_profile_that_is_refused_is_not_saved(name, text, status, web: Client, folder: Path, service: Service):
    before = sorted(path.name for path in folder.parent.rglob("*.yml"))
    answer = web.put(f"/api/v1/profiles/{name}", json={"text": text})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert sorted(path.name for path in folder.parent.rglob("*.yml")) == before
    assert not service.audit.path.exists()


def test_a_draft_is_checked_and_previewed_without_saving_it(web: Client, run: FakeRun, folder: Path):
    wrong = web.post("/api/v1/profiles/mine/validate", json={"text": "name: mine\nenabled_model: []\n"}).json()
    assert not wrong["valid"]
    assert ("did you mean" in wrong["problems"][0]["message"], wrong["problems"][0]["line"]) == (True, 2)
    assert web.post("/api/v1/profiles/mine/validate", json={"text": PROFILE}).json() == {"valid": True, "problems": []}
    refused = web.post("/api/v1/profiles/mine/preview", json={"text": "enabled_model: []\n"})
    assert (refused.status_code, refused.json()["problems"][0]["line"]) == (422, 1)
    assert not any(call[0] == "plan" for call in run.calls)
    seen = web.post("/api/v1/profiles/mine/preview", json={"text": PROFILE}).json()
    assert seen["document"]["hosts"]
    assert run.texts == [PROFILE]
    assert run.calls[-1][2] == {"profile": "mine"}
    assert not (folder / "mine.yml").exists()


# --- in an application, and from the command line --------------------------------------------------------------------


def test_the_router_goes_into_another_application(service: Service, run: FakeRun):
    app = FastAPI()
    app.state.magi = service
    app.include_router(router, prefix="/magi")

    @app.get("/own")
    def own() -> str:
        return "own"

    with Client(app, service) as web:
        assert web.get("/own").json() == "own"
        assert web.get("/magi/api/v1/status", params={"max_age": 60}).json()["document"]["total_servers"] == 2
        assert web.get("/magi/api/v1/nope").json() == {"detail": "Not Found"}  # the application's own words
        job = web.post("/magi/api/v1/down", json={})
        assert job.headers["location"].startswith("/magi/api/v1/jobs/")
        web.ended(job)
        assert web.get("/magi/api/v1/jobs", headers={"Authorization": "Bearer x"}).status_code == 401


def test_an_application_keeps_its_own_lifespan(service: Service, run: FakeRun):
    """As the older service's applications have one."""
    begun: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        begun.append("begun")
        yield {"own": "own"}
        begun.append("ended")

    app = FastAPI(lifespan=lifespan)
    app.state.magi = service
    app.include_router(router)

    @app.get("/own")
    def own(request: Request) -> str:
        return str(request.state.own)

    run.held.add("site")
    with Client(app, service) as web:
        assert begun == ["begun"]
        assert web.get("/own").json() == "own"
        assert web.post("/api/v1/up", json={}).status_code == 202
        until(lambda: any(call[0] == "site" for call in run.calls), 10, "the deployment")
    assert begun == ["begun", "ended"]
    assert "site" in run.stopped


def test_the_python_of_the_document(run: FakeRun, folder: Path, monkeypatch: pytest.MonkeyPatch):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "serve.md").read_text(), re.DOTALL)
    (folder.parent / "inventories" / "production").mkdir(parents=True)
    monkeypatch.chdir(folder.parent)
    names: dict[str, Any] = {}
    exec(example, names)
    with Client(names["app"], names["app"].state.magi) as web:
        answer = web.get("/magi/api/v1/status", params={"max_age": 60}, headers={"Host": "models.example.com"})
        assert answer.json()["document"]["total_servers"] == 2


ANALYZE = shutil.which("systemd-analyze")


@pytest.mark.skipif(ANALYZE is None and "CI" not in os.environ, reason="systemd-analyze is missing")
def test_systemd_takes_the_unit_of_the_document_and_finds_it_hardened(tmp_path: Path):
    (unit,) = re.findall(r"```ini\n(.*?)```", (ROOT / "docs" / "serve.md").read_text(), re.DOTALL)
    path = tmp_path / "magi-serve.service"
    path.write_text(unit.replace("/opt/magi/bin/magi", "/bin/true"))  # magi is not there
    for arguments in (("verify", "--man=no"), ("security", "--offline=true", "--threshold=20", "--no-pager")):
        done = subprocess.run([ANALYZE, *arguments, path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""


def test_behind_a_proxy_addresses_have_its_path(service: Service):
    with Client(application(service), service, root_path="/magi") as web:
        assert web.post("/api/v1/down", json={}).headers["location"].startswith("/magi/api/v1/jobs/")
        assert web.get("/api/v1/openapi.json").json()["servers"] == [{"url": "/magi"}]


def test_no_answer_has_a_secret(service: Service, web: Client, monkeypatch: pytest.MonkeyPatch):
    texts = [
        web.get(path.replace("{job_id}", "x").replace("{name}", "production").replace("{instance}", "x")).text
        for path, methods in web.get("/api/v1/openapi.json").json()["paths"].items()
        if "get" in methods
    ]
    web.ended(web.post("/api/v1/up", json={}))
    kept = [path.read_text() for path in service.folder.rglob("*") if path.is_file()]
    assert not [token for token in service.new_tokens.values() for text in (*texts, *kept) if token in text]


@pytest.mark.parametrize("people", [True, False])
def test_new_tokens_are_shown_once_and_to_people_alone(people, service: Service, folder: Path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: people)
    for each in (service, Service(project=ROOT, profiles=folder)):
        tell(Output(), each, "http://127.0.0.1:8321")
    printed = "".join(capsys.readouterr())
    assert [printed.count(token) for token in service.new_tokens.values()] == [people, people]
    assert printed.count(f"Its tokens are in {service.token_file}") == 2


def test_without_its_packages_serve_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    for name in [name for name in sys.modules if name.startswith("magi.web")]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["serve"]) == 2
    assert capsys.readouterr().err == (
        "magi: magi serve needs more packages (fastapi is missing): pip install 'magi-models[serve]'.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "1", "--host", "203.0.113.1"], "magi serve can't listen on 203.0.113.1, port 1 ("),
        (["--port", "0", "--token-file", "/proc/none/x"], "/proc/none can't be written (No such file or directory)"),
        (["--port", "70000"], "is not in the range"),
    ],
)
def test_what_serve_refuses(arguments, said, run: FakeRun, capsys):
    assert main(["serve", *arguments]) == 2
    _out, err = capsys.readouterr()
    assert said in err
    assert err.count("\n") == 1
