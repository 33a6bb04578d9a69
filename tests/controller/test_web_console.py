"""The console's pages: who sees what, and that nothing hostile is more than text. A fake replays recorded runs; an
end-to-end test has a real browser and real ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.magi.models.plugins.module_utils._config import profile as profile_module
from fastapi import FastAPI
from fastapi.testclient import TestClient

from magi.errors import HostUnreachable
from magi.events import Event
from magi.result import Result
from magi.session import Session
from magi.web import Service, router
from magi.web.app import application
from magi.web.console import editor, pages
from magi.web.console.fleet import chats, hosts, troubles
from magi.web.console.render import STATIC
from magi.web.guard import Role, Tokens
from magi.web.problems import Problem
from magi.web.runs import LOOKS, TALKS

from ..waiting import until
from . import recorded
from .fake_run import FakeRun
from .test_web import PROFILE, audit

HOSTILE = "<script>alert(1)</script>{{ 7 * 7 }}\"'><img src=x onerror=alert(1)>"


class Tags(HTMLParser):
    """Every tag of a page, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


class Person(TestClient):
    """Somebody at a browser, signed in with the token of a role."""

    def __init__(self, app: FastAPI, service: Service, role: Role | None = Role.DEPLOY, prefix: str = "", **more: Any):
        super().__init__(app, "http://127.0.0.1:8321", **more)
        self.prefix = prefix
        self.headers["Origin"] = "http://127.0.0.1:8321"
        if role:
            self.token = service.new_tokens[role]

    def __enter__(self) -> Person:
        super().__enter__()
        if hasattr(self, "token"):
            assert self.page("post", "login", data={"token": self.token}).status_code == 200
        return self

    def page(self, method: str, path: str, **more: Any) -> Any:
        answer = self.request(method, f"{self.prefix}/console/{path}", **more)
        if answer.headers.get("content-type", "").startswith("text/html"):
            _harmless(answer.text)
        return answer


def _harmless(text: str) -> None:
    """No page has a script or a style of its own, and none asks elsewhere."""
    for tag, attributes in Tags(text).tags:
        assert tag not in ("style", "img", "iframe", "object")
        assert tag != "script" or "/console/static/" in attributes["src"]
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("href", "src", "action", "hx-get", "hx-post"):
            assert attributes.get(name, "/").startswith(("/", "#")), attributes
            assert not attributes.get(name, "/").startswith("//")


@pytest.fixture
def ann(service: Service) -> Iterator[Person]:
    with Person(application(service), service) as person:
        until(lambda: "Not reached: gone" in person.page("get", "fleet").text, 10, "a look at the hosts")
        yield person


def test_a_session_is_no_token_and_ends():
    tokens = Tokens([(Role.VIEW, "a" * 20), (Role.DEPLOY, "b" * 20)])
    given = tokens.session("b" * 20, 1000)
    assert "b" * 20 not in given
    assert tokens.role_of_session(given, 999) is Role.DEPLOY
    assert tokens.role_of_session(tokens.session("a" * 20, 1000), 999) is Role.VIEW
    for wrong in ("", ".", "1000", "1000.", "x.y", given.replace("1000", "2000"), f"{given}0", "9" * 20, "\u0664.x"):
        assert tokens.role_of_session(wrong, 999) is None
    assert tokens.role_of_session(given, 1000) is None
    assert tokens.role_of_session(tokens.session("c" * 20, 1000), 999) is None


PAGES = (
    "",
    "fleet",
    "deploy",
    "jobs",
    "profiles",
    "profile?name=development",
    "models",
    "playground",
    "log?instance=a",
)
ACTIONS = ("start?verb=up", "start?verb=down", "profile?name=development", "job/cancel?job_id=x")


@pytest.mark.parametrize("path", PAGES)
def test_who_has_not_signed_in_sees_the_door(path, service: Service, run: FakeRun):
    with Person(application(service), service, None, follow_redirects=False) as person:
        for cookie in (None, "magi=x", f"magi-{service.folder.name[-8:]}={service.new_tokens[Role.VIEW]}"):
            answer = person.page("get", path, headers={"Cookie": cookie} if cookie else {})
            assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/console/login")
        assert person.page("get", path, headers={"HX-Request": "true"}).headers["hx-redirect"] == "/console/login"
        wrong = person.page("post", "login", data={"token": "wrong-wrong-wrong-wrong"})
        assert (wrong.status_code, wrong.cookies) == (401, {})
        assert str(service.token_file.parent) not in wrong.text
        for sent in (*ACTIONS, "ask"):  # a browser that reloads it sends it again
            answer = person.page("post", sent, data={"text": PROFILE})
            assert (answer.status_code, "sign in in another window, and reload" in answer.text) == (401, True)
        assert not service.audit.path.exists()
        api = person.get("/api/v1/jobs", headers={"Authorization": ""})
        assert api.status_code == 401


def test_the_cookie_is_of_no_use_elsewhere(service: Service, run: FakeRun):
    given = {"token": service.new_tokens[Role.DEPLOY]}
    with Person(application(service), service, None, follow_redirects=False) as person:
        for origin, secure in (("http://127.0.0.1:8321", False), ("https://127.0.0.1:8321", True)):
            set_cookie = person.page("post", "login", data=given, headers={"Origin": origin}).headers["set-cookie"]
            assert {"HttpOnly", "Path=/console/", "SameSite=strict"} <= {*set_cookie.split("; ")}
            assert ("Secure" in set_cookie) is secure
            assert given["token"] not in set_cookie
        assert person.get("/api/v1/jobs").status_code == 401  # the API takes no cookie: nothing to forge there
        assert person.page("post", "logout").headers["set-cookie"].startswith(f'magi-{service.folder.name[-8:]}=""')
        for wanted, leads in (
            ("/console/jobs", "/console/jobs"),
            ("//evil.example", "/console/"),
            ("/console//evil", "/console/"),
        ):
            answer = person.page("post", "login", params={"to": wanted}, data=given)
            assert answer.headers["location"] == leads


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:3000", "Sec-Fetch-Site": "same-site"},  # another program of this machine
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},
    ],
)
def test_another_site_gets_nothing(headers, ann: Person, service: Service, run: FakeRun):
    for path in (*PAGES, *ACTIONS, "look", "login"):
        answer = ann.page("post" if path in ACTIONS else "get", path, headers=headers)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
    assert not service.audit.path.exists()


@pytest.mark.parametrize("path", ACTIONS)
def test_who_may_only_look_changes_nothing(path, service: Service, run: FakeRun):
    with Person(application(service), service, Role.VIEW) as person:
        answer = person.page("post", path, data={"text": PROFILE})
        assert answer.status_code == 403
        assert "This token may only look" in answer.text
        for page in (*PAGES, "deploy/plan", "confirm?verb=down", "confirm?verb=rollback"):
            tags = Tags(person.page("get", page).text).tags
            posted = {
                attributes["action"] for tag, attributes in tags if tag == "form" and attributes.get("method") == "post"
            }
            assert posted <= {"/console/logout", "/console/ask", "/console/profile?name=development"}
    assert not service.audit.path.exists()


def test_pages_allow_nothing_that_is_not_ours(ann: Person):
    for path in PAGES:
        headers = ann.page("get", path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self';" in policy
        assert "unsafe" not in policy
        assert headers["cache-control"] == "no-store"
    for name, (content, _kind) in STATIC.items():
        answer = ann.page("get", f"static/{name}")
        assert answer.content == content
        assert "immutable" in answer.headers["cache-control"]
        assert b"http://www.w3.org" in content or not re.findall(rb"https?://", content)
    for name in ("../pages.py", "..%2fpages.py", "htmx.LICENSE", "nope"):
        assert ann.page("get", f"static/{name}").status_code == 404


ON = {
    **dict.fromkeys(("ink", "quiet", "accent"), ("page", "card", "code")),
    **{name: (f"{name}-back",) for name in ("ok", "warn", "bad", "busy")},
    "on-accent": ("accent",),
    "card": ("bad",),
}
"""By colour of words, the colours that they stand on."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read_in_both_schemes(scheme):
    schemes = re.findall(r":root \{(.*?)\}", STATIC["console.css"][0].decode(), re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): #(\w+)", schemes[["light", "dark"].index(scheme)]))

    def light(name: str) -> float:
        """Relative luminance (WCAG 2.2)."""
        digits = colours[name] if len(colours[name]) == 6 else "".join(2 * digit for digit in colours[name])
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for word, grounds in ON.items():
        for ground in grounds:
            dark, bright = sorted((light(word), light(ground)))
            assert (bright + 0.05) / (dark + 0.05) >= 4.5, (word, ground)


def test_the_first_page_says_what_is_not_ready_with_what_helps(ann: Person, run: FakeRun):
    page = Tags(ann.page("get", "").text)
    assert "it ended, and its service manager gave up on it; its log says why" in page.text
    assert ("a", {"class": "button", "id": "help-2", "href": f"/console/log?instance={recorded.Q3}"}) in page.tags
    assert "Not reached: gone" in page.text
    poll = next(attributes["hx-get"] for _tag, attributes in page.tags if attributes.get("id") == "fleet")
    last = poll
    for _time in range(5):  # the first looks still come in
        answer = ann.get(last)
        if answer.status_code == 204:
            break
        last = next(a["hx-get"] for _tag, a in Tags(answer.text).tags if a.get("id") == "fleet")
    assert answer.status_code == 204
    assert int(answer.headers["age"]) < 60


def _status(**server: Any) -> dict[str, Any]:
    one = {"host": "h", "instance": "i", "model_id": "i", "is_ready": False, "state": "failed", **server}
    return {"servers": [one], "summary": {"unreachable": [], "failed": [], "warnings": []}}


@pytest.mark.parametrize(
    ("server", "cause", "said", "page"),
    [
        ({}, None, "gave up on it", "log"),
        ({"state": "stopped"}, None, "it was stopped, and starts with the next deployment", "deploy"),
        ({"state": "starting"}, None, "it is being started", "fleet"),
        ({}, "file_corrupt", "because", "models"),
        ({}, "bad_option", "because", "profile"),
        ({}, "crashed", "because", "log"),
        ({}, "port_taken", "because", "deploy"),
        ({"state": "running"}, "loading", "because", "fleet"),
    ],
)
def test_a_trouble_has_its_cause_and_the_page_that_helps(server, cause, said, page):
    health = (
        {"summary": {"failed": [{"host": "h", "instance": "i", "cause": cause, "detail": "because"}]}}
        if cause
        else None
    )
    (found,) = troubles(_status(**server), "", health)
    assert said in found.sentence
    assert found.page == page
    assert troubles(_status(is_ready=True), "", health) == []


@pytest.mark.parametrize("profile", ["dev", "dev, prod"])
def test_what_was_ready_need_not_be_so_now(profile, service: Service, run: FakeRun, monkeypatch: pytest.MonkeyPatch):
    found = _status(is_ready=True, memory={}, pid=1)
    found = {**found, "total_servers": 2, "summary": {**found["summary"], "profile": profile}}
    lost = False

    def status(_session: Session) -> Result:
        if lost:
            raise HostUnreachable("All hosts are lost.")
        return Result(found)

    monkeypatch.setattr("magi.verbs.status", status)
    with Person(application(service), service) as person:
        assert f"All 2 servers are ready: profile {profile}." in person.page("get", "look").text
        lost = True
        assert person.page("get", "look").status_code == 504
        page = Tags(person.page("get", "").text)
        assert f"When they were last seen, all 2 servers were ready: profile {profile}." in page.text
        assert ("p", {"class": "note ok"}) not in page.tags
        lost, found["servers"] = False, _status(state="stopped", memory={})["servers"]
        page = Tags(person.page("get", "look").text)
        deploy = "/console/deploy" + ("?profile=dev" if profile == "dev" else "")
        assert ("a", {"class": "button", "id": "help-1", "href": deploy}) in page.tags
        assert person.get(deploy).status_code == 200


@pytest.mark.parametrize(
    ("server", "names"),
    [
        ({"model_id": "a", "aliases": ["x"]}, ["a", "x"]),
        ({"model_id": "a", "task": "rerank"}, []),
        (
            {
                "model_id": "pool",
                "task": "",
                "members": [
                    {"model_id": "e", "task": "embedding", "aliases": ["y"]},
                    {"model_id": "c", "task": "chat", "aliases": ["x"]},
                ],
            },
            ["c", "x"],
        ),
    ],
)
def test_who_chats_is_asked_by_any_of_its_names(server, names):
    assert chats(server) == names


def test_a_host_has_its_memory_from_the_plan():
    account = {"device": "Host", "total": 4, "room": 3, "given": 2}
    (found,) = hosts(_status(), {"hosts": {"h": {"memory": [account]}}})
    assert (found.memory[0].given, len(found.servers)) == (2, 1)
    assert hosts(_status(), None)[0].memory == ()


def test_the_first_page_has_workers_and_who_sleeps(service: Service, run: FakeRun, monkeypatch: pytest.MonkeyPatch):
    """A worker that is gone takes its server with it when that next computes, and until then the server looks well."""
    worker = {"host": "w", "instance": "i.worker", "server": "h/i", "port": 9, "is_ready": False, "state": "failed"}
    found = _status(is_ready=True, state="asleep", memory={}, pid=1)
    found = {**found, "total_servers": 1, "workers": [{**worker, "memory": {}}]}
    (trouble,) = troubles(found, "", None)
    assert (trouble.host, trouble.page) == ("w", "log")
    monkeypatch.setattr("magi.verbs.status", lambda _session: Result(found))
    with Person(application(service), service) as person:
        page = Tags(person.page("get", "look").text)
    assert "Host w, i.worker, which computes for h/i: it ended, and its service manager gave up on it" in page.text
    assert "servers are ready" not in page.text
    assert ("a", {"class": "button", "id": "help-1", "href": "/console/log?instance=i.worker"}) in page.tags
    assert re.search(r"asleep\s+i\b", page.text)
    assert re.search(r"failed\s+i\.worker\s+h/i", page.text)


def test_a_change_is_a_job_that_is_followed(ann: Person, run: FakeRun, service: Service):
    page = ann.page("post", "start?verb=up", data={"profile": "p"})
    job = str(page.url).partition("job_id=")[2]
    told = ann.page("get", f"job/events?job_id={job}").text
    progress = [json.loads(line[6:]) for line in told.splitlines() if line.startswith('data: "<ol')]
    assert 'aria-current="step">Health check' in progress[-1]
    assert told.endswith("event: end\ndata: {}\n\n")
    again = ann.page("get", f"job/events?job_id={job}").text  # what was before is told once
    assert [line for line in again.splitlines() if line.startswith('data: "<ol')] == [
        f"data: {json.dumps(progress[-1])}"
    ]
    assert again.endswith("event: end\ndata: {}\n\n")
    ended = until(lambda: "data-job" not in (text := ann.page("get", f"job?job_id={job}").text) and text, 10, "its end")
    assert "1 of 2 servers are ready: profile p" in Tags(ended).text
    assert recorded.Q3 in ended
    assert f"job_id={job}" in ann.page("get", "jobs").text
    stopped = ann.page("post", "start?verb=stop", data={"instances": f"{recorded.Q2},{recorded.Q3}"})
    until(lambda: "data-job" not in ann.get(stopped.url).text, 10, "its end")
    ((_playbook, _options, given),) = [call for call in run.calls if call[0] == "stop"]
    assert given == {"model_server_stop_instances": [recorded.Q2, recorded.Q3]}
    assert [line["action"] for line in audit(service)] == ["up", "stop"]
    for wrong in ({"profile": "{{ x }}"}, {"profile": "../x"}):
        assert ann.page("post", "start?verb=up", data=wrong).status_code == 422
    assert ann.page("post", "start?verb=stop", data={"instances": "a/../b"}).status_code == 422
    assert ann.page("post", "start?verb=nope").status_code == 422


def test_stop_in_the_row_of_a_host_is_for_that_host(ann: Person, run: FakeRun):
    rows = Tags(ann.page("get", "fleet").text).tags
    (link,) = [a["href"] for _tag, a in rows if str(a.get("id")).startswith("stop-")]
    assert link == f"/console/confirm?verb=stop&instances={recorded.Q2}&limit=localhost"
    page = Tags(ann.get(link).text)
    assert f"{recorded.Q2} on localhost will be stopped" in page.text
    form = {str(a["name"]): a["value"] for tag, a in page.tags if tag == "input"}
    stopped = ann.page("post", "start?verb=stop", data=form)
    until(lambda: "data-job" not in ann.get(stopped.url).text, 10, "its end")
    ((_playbook, options, given),) = [call for call in run.calls if call[0] == "stop"]
    assert (options.limit, given) == ("localhost", {"model_server_stop_instances": [recorded.Q2]})
    assert f"Stop of {recorded.Q2} on localhost" in Tags(ann.page("get", "jobs").text).text
    assert "All servers on all hosts will be stopped" in ann.page("get", "confirm?verb=stop").text
    for wrong in ("@/etc/passwd", "-vvv", "<b>"):
        assert ann.page("post", "start?verb=down", data={"limit": wrong}).status_code == 422
        assert ann.page("get", "confirm", params={"verb": "down", "limit": wrong}).status_code == 422


def test_a_job_at_work_can_be_cancelled(ann: Person, run: FakeRun):
    run.held.add("site")
    job = str(ann.page("post", "start?verb=up", data={}).url).partition("job_id=")[2]
    until(lambda: any(call[0] == "site" for call in run.calls), 10, "the deployment")
    assert "Deployment is at work" in ann.page("get", "").text
    refused = ann.page("post", "start?verb=down", data={})
    assert (refused.status_code, job in refused.text) == (409, True)
    ann.page("post", f"job/cancel?job_id={job}")
    until(lambda: "cancelled" in ann.page("get", f"job?job_id={job}").text, 10, "its end")


def test_the_plan_is_shown_with_its_differences(ann: Person, run: FakeRun):
    page = Tags(ann.page("get", "deploy/plan?profile=p").text)
    assert "failed with just this configuration" in page.text
    assert ("tr", {"class": "keep"}) in page.tags
    assert run.calls[-1][2] == {"profile": "p"}
    assert ("input", {"type": "hidden", "name": "profile", "value": "p"}) in page.tags


def test_a_profile_is_edited_and_nothing_is_lost(ann: Person, service: Service, folder: Path):
    problems = ann.page("post", "profile/check?name=mine", data={"text": PROFILE + "optoins: {}\n"}).text
    assert ("button", {"type": "button", "class": "word", "data-line": "4"}) in Tags(problems).tags
    assert "did you mean &#34;options&#34;?" in problems
    assert (
        "No mistake" in ann.page("post", "profile/check?name=mine", data={"text": PROFILE.replace("\n", "\r\n")}).text
    )

    def save(text: str, version: str) -> Any:
        return ann.page("post", "profile?name=mine", data={"text": text, "version": version})

    assert "Nothing is saved" in save(PROFILE + "x: 1\n", "").text
    assert not (folder / "mine.yml").exists()
    saved = save(PROFILE, "")
    assert "It is saved" in saved.text
    first = _version(saved.text)
    assert "It is saved" in save(PROFILE + "strict: true\n", first).text
    mine = PROFILE + "description: </textarea><b>mine</b>\n"
    refused = save(mine, first)
    assert refused.status_code == 409
    page = Tags(refused.text)
    assert [text["aria-label"] for _tag, text in page.tags if "data-unsaved" in text] == ["Profile mine as YAML"]
    assert "data-unsaved" not in saved.text
    assert "-strict: true" in page.text
    assert "+description: </textarea><b>mine</b>" in page.text
    assert ("b", {}) not in page.tags
    assert (folder / "mine.yml").read_text() == PROFILE + "strict: true\n"
    long = save("# " + "x" * 500_000, first)
    assert (long.status_code, "the text is too long" in long.text, "x" * 500_000 in long.text) == (413, True, True)
    assert "It is saved" in save(mine, _version(refused.text)).text
    assert (folder / "mine.yml").read_text() == mine
    (folder / "mine.yml").unlink()
    assert save(mine, first).status_code == 409
    assert [line["action"] for line in audit(service)] == ["profile save"] * 5
    preview = ann.page("post", "profile/preview?name=mine", data={"text": PROFILE}).text
    assert recorded.Q2 in preview
    assert "<form" not in preview
    assert "line 4" in ann.page("post", "profile/preview?name=mine", data={"text": PROFILE + "x: 1\n"}).text


def test_the_preview_follows_what_is_written_as_long_as_it_can(ann: Person, folder: Path):
    def heard(text: str) -> str | None:
        return ann.page("post", "profile/check?name=mine", data={"text": text}).headers.get("hx-trigger")

    assert [heard(PROFILE), heard(PROFILE + "x: 1\n")] == ["valid", None]
    (folder / "broken.yml").write_text("enabled_model: 3\n")
    for name, first in (("development", "load, "), ("broken", "")):
        page = Tags(ann.page("get", f"profile?name={name}").text)
        (preview,) = [attributes for _tag, attributes in page.tags if attributes.get("id") == "preview"]
        assert preview["hx-post"] == f"/console/profile/preview?name={name}"
        assert preview["hx-trigger"] == f"{first}valid from:#text delay:1s"


def test_a_few_aliases_do_not_fill_the_memory(ann: Person):
    lines = [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]\n" for n in range(1, 12)]
    text = "x0: &x0 x\n" + "".join(lines) + "name: *x11\nstrict: *x11\n"
    for page in ("check", "preview"):
        said = ann.page("post", f"profile/{page}?name=mine", data={"text": text}, headers={"HX-Request": "true"}).text
        assert "its aliases (*x) make it too large" in said
        assert len(said) < 1000


def _version(page: str) -> str:
    return next(str(a["value"]) for _tag, a in Tags(page).tags if a.get("name") == "version")


def test_the_help_has_the_keys_of_profiles():
    entry, profile, pool = profile_module._ENTRY, profile_module._PROFILE, profile_module._POOL
    assert {*editor.KEYS} == {*profile}
    assert {*editor.ENTRY_KEYS} == {*entry} - {*profile}
    assert {*editor.POOL_KEYS} == {*pool} - {*profile} - {*entry}


@pytest.mark.parametrize("name", ["../production", "..", "{{ x }}", "<script>", "a/b", "", "a\0b"])
def test_a_name_leads_nowhere_else(name, ann: Person):
    for method, path in (
        ("get", "profile"),
        ("post", "profile"),
        ("post", "profile/check"),
        ("get", "log"),
        ("get", "deploy"),
    ):
        given = {"profile" if path == "deploy" else "instance" if path == "log" else "name": name}
        answer = ann.page(method, path, params=given, **({"data": {"text": PROFILE}} if method == "post" else {}))
        assert answer.status_code == 422, (path, answer.text)


def test_what_is_hostile_is_text(service: Service, run: FakeRun, folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "evil.yml").write_text(f"name: evil\ndescription: {json.dumps(HOSTILE)}\nenabled_models: [tier: Q2]\n")
    (folder / f"{HOSTILE[:20].replace('/', '')}.yml").write_text("x")

    def changed(name: str, of: Any = recorded.run) -> Any:
        return of(name).__class__(0, tuple(map(_hostile, of(name).events)))

    monkeypatch.setattr("tests.controller.fake_run.recorded.run", changed)
    with Person(application(service), service) as person:
        until(lambda: "alert(1)" in person.page("get", "fleet").text, 10, "a look at the hosts")
        job = person.page("post", "start?verb=up", data={"profile": "evil"}).url
        until(lambda: "data-job" not in person.get(job).text, 10, "its end")
        person.page("get", f"job?{job.query.decode()}")
        for path in (*PAGES, "profile?name=evil", "deploy/plan", "models/part", f"playground?model={HOSTILE}"):
            text = person.page("get", path).text
            assert "49" not in re.sub(r"[0-9a-f]{8,}|\d\d:\d\d:\d\d|ctx_size: \d+", "", Tags(text).text), path
        told = person.page("get", f"job/events?{job.query.decode()}").text
        for line in told.splitlines():
            if line.startswith('data: "<ol'):
                _harmless(json.loads(line[6:]))


def _hostile(event: Any) -> Any:
    """Return an event in which every string that hosts choose is hostile."""

    def changed(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: changed(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [changed(item, key) for item in value]
        free = (
            "display_name",
            "detail",
            "reason",
            "warnings",
            "path",
            "applied_by",
            "msg",
            "degraded",
            "notes",
            "tier",
        )
        return HOSTILE if isinstance(value, str) and key in free else value

    return event.__class__(**{**vars(event), "result": changed(dict(event.result))})


def test_a_log_and_an_answer_are_streams(ann: Person, run: FakeRun, monkeypatch: pytest.MonkeyPatch):
    """Without recordings of theirs, they end with a sentence, and free their places."""
    for _time in range(6):
        told = ann.page("get", "log/lines?instance=a").text
        assert told == 'event: end\ndata: "Ansible could not begin: exit status 4."\n\n'
        answer = ann.page("post", "ask", data={"model": "a", "question": "why?"}).text
        assert json.loads(answer) == {"problem": "Ansible could not begin: exit status 4."}
    for wrong, said in (
        ({"model": "{{ x }}", "question": "why?"}, "must be a name"),
        ({"model": "a"}, "question is empty"),
    ):
        assert said in json.loads(ann.page("post", "ask", data=wrong).text)["problem"]


def test_a_run_ends_when_nobody_listens_any_more_and_only_some_run(run: FakeRun, service: Service):
    ended = threading.Semaphore(0)

    def verb(session: Session) -> Result:
        session.on_event(Event("message", text="x"))
        assert session.stop.wait(10)
        ended.release()
        return Result({})

    async def listen() -> None:
        async with service.running():
            talks = [service.runs.talk(verb) for _number in range(TALKS)]
            for talk in talks:
                assert isinstance(await talk.__anext__(), Event)
            with pytest.raises(Problem, match="close one"):
                await service.runs.talk(verb).__anext__()
            for talk in talks:
                await talk.aclose()
                assert await asyncio.to_thread(ended.acquire, timeout=10)

    asyncio.run(listen())


def test_a_place_is_free_once_its_run_has_ended(run: FakeRun, service: Service):
    may_end = threading.Event()

    def verb(session: Session) -> Result:
        session.on_event(Event("message", text="x"))
        assert may_end.wait(10)  # Ansible has some seconds to end
        return Result({})

    async def listen() -> None:
        async with service.running():
            for _number in range(TALKS):
                talk = service.runs.talk(verb)
                await talk.__anext__()
                await talk.aclose()
            with pytest.raises(Problem, match="close one"):
                await service.runs.talk(verb).__anext__()
            may_end.set()
            async with asyncio.timeout(10):
                while True:
                    with contextlib.suppress(Problem):
                        assert await service.runs.talk(verb).__anext__()
                        break
                    await asyncio.sleep(0)

    asyncio.run(listen())


def test_what_a_run_prints_is_kept_nowhere_and_waits_for_nobody(
    run: FakeRun, service: Service, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("magi.web.runs.UNHEARD", 3)
    kept: list[str] = []
    said = ("a line", "[ERROR]: a complaint", "a line", "a line")

    def verb(session: Session) -> Result:
        kept.extend(text for text in said if not session.on_event(Event("message", text=text)))
        kept.extend(kind for kind in ("ok", "stats") if not session.on_event(Event(kind)))
        while not session.stop.is_set():  # nobody reads
            session.on_event(Event("message", text="a line"))
        return Result({})

    async def listen() -> None:
        async with service.running():
            talk = service.runs.talk(verb)
            assert isinstance(await talk.__anext__(), Event)
            await asyncio.to_thread(until, lambda: service.runs._talks == 0, 10, "its end")
            await talk.aclose()

    asyncio.run(listen())
    assert kept == ["[ERROR]: a complaint", "ok", "stats"]


def test_a_quiet_log_says_that_it_is_there_and_a_defect_is_a_sentence(
    ann: Person, run: FakeRun, service: Service, monkeypatch: pytest.MonkeyPatch
):
    told: list[str] = []

    def logs(session: Session, **_given: Any) -> Result:
        until(lambda: told, 10, "a word")
        raise ZeroDivisionError("x")

    async def events() -> None:
        async for text in pages._log(service, "a"):
            told.append(text)

    monkeypatch.setattr("magi.web.runs.PAUSE", 0.01)
    monkeypatch.setattr("magi.verbs.logs", logs)
    assert ann.portal
    ann.portal.call(events)
    assert told[0] == ": still at work\n\n"
    assert told[-1].startswith('event: end\ndata: "Internal error (ZeroDivisionError: x): please report it')


def test_only_some_looks_wait(service: Service, run: FakeRun, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("magi.web.runs.WAITING", 2)
    run.held.add("status")
    go_on = threading.Event()

    def verb(_session: Session) -> Result:
        assert go_on.wait(10)
        return Result({})

    async def ask() -> None:
        async with service.running():
            looks = [asyncio.create_task(service.runs.look(verb)) for _number in range(LOOKS + 2)]
            for _time in range(5):
                await asyncio.sleep(0)
            with pytest.raises(Problem, match="2 looks at the hosts wait already") as refused:
                await service.runs.look(verb)
            assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "5"})
            go_on.set()
            for look in looks:
                with contextlib.suppress(Problem):
                    await look
            assert isinstance(await service.runs.look(verb), Result)

    asyncio.run(ask())


def test_who_types_leaves_a_place_to_other_looks(service: Service, run: FakeRun):
    go_on = threading.Event()

    def slow(_session: Session) -> Result:
        assert go_on.wait(10)
        return Result({})

    async def ask() -> None:
        async with service.running():
            previews = [asyncio.create_task(service.runs.preview(slow)) for _number in range(LOOKS + 1)]
            for _time in range(5):
                await asyncio.sleep(0)
            try:
                await asyncio.wait_for(service.runs.look(lambda _session: Result({})), 5)
            finally:
                go_on.set()
            await asyncio.gather(*previews)

    asyncio.run(ask())


def test_below_a_path_of_a_proxy_and_in_an_application(service: Service, run: FakeRun):
    app = FastAPI()
    app.state.magi = service
    app.include_router(router, prefix="/magi")
    with Person(app, service, None, prefix="/magi", root_path="/proxy") as person:
        given = {"token": service.new_tokens[Role.VIEW]}
        text = person.page("post", "login", data=given, follow_redirects=False)
        assert text.headers["location"] == "/proxy/magi/console/"
        assert "Path=/proxy/magi/console/" in text.headers["set-cookie"]


def test_what_is_not_there_is_a_page_for_people(ann: Person, service: Service):
    for method, path, status in (("get", "nope", 404), ("get", "start", 405)):
        answer = ann.page(method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8")
        assert "There is no such page: go on from the first one." in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    page = Tags(ann.page("get", "deploy?profile=nope").text)
    assert page.tags.count(("option", {"selected": None})) == 1
    assert "nope" in page.text


def test_it_may_end_before_it_has_begun(service: Service):
    service.close()
    assert service.closing


def test_pages_are_no_part_of_the_api(service: Service):
    assert not [path for path in application(service).openapi()["paths"] if "console" in path or path == "/"]
