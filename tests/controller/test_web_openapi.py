"""The API keeps what its own OpenAPI document promises, whatever it is asked: schemathesis makes the requests."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import hypothesis
import pytest
import schemathesis
import uvicorn
from fastapi import FastAPI

from magi.web import Service, router
from magi.web.guard import Role
from magi.web.server import configuration, listen

from ..playbook import copy_profiles
from ..waiting import until
from .fake_run import FakeRun
from .known import ROOT


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("web")
    copy_profiles(folder / "profiles")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setattr("magi.project.Project.is_bare", False)
        patch.setattr("magi.session.run", FakeRun())
        yield Service(project=ROOT, profiles=folder / "profiles")


@contextmanager
def listening(service: Service, root_path: str = "") -> Iterator[str]:
    """Serve it within the block, and yield where."""
    place = listen("127.0.0.1", 0)
    server = uvicorn.Server(configuration(service, root_path))
    thread = threading.Thread(target=server.run, args=([place],))
    thread.start()
    try:
        until(lambda: server.started, 10, "the server")
        yield f"http://127.0.0.1:{place.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def address(service: Service) -> Iterator[str]:
    with listening(service) as where:
        yield where


CHECKS = [
    schemathesis.checks.status_code_conformance,
    schemathesis.checks.content_type_conformance,
    schemathesis.checks.response_schema_conformance,
    schemathesis.checks.ignored_auth,
]
"""A sentence with 422 or 502 is a good answer to a good request, so whether that was accepted is not checked."""


def document() -> dict[str, Any]:
    app = FastAPI()
    app.include_router(router)
    return app.openapi()


@schemathesis.openapi.from_dict(document()).parametrize()
@hypothesis.settings(max_examples=5, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
def test_the_api_keeps_what_it_promises(case: Any, service: Service, address: str):
    headers = {"Authorization": f"Bearer {service.new_tokens[Role.DEPLOY]}"}
    case.call_and_validate(base_url=address, headers=headers, checks=CHECKS)


def test_a_generator_finds_a_name_and_a_shape_for_everything():
    """openapi-python-client makes a client of it, with a function for each request."""
    operations = [operation for methods in document()["paths"].values() for operation in methods.values()]
    names = [operation["operationId"] for operation in operations]
    assert len({*names}) == len(names)
    assert all(name.isidentifier() for name in names)
    for operation in operations:
        good = {status: answer for status, answer in operation["responses"].items() if status.startswith("2")}
        shapes = [content["schema"] for answer in good.values() for content in answer.get("content", {}).values()]
        assert [*good] == ["204"] or shapes
        for shape in shapes:
            assert {"$ref", "items"} & {*shape} or shape == {"type": "string"}, (operation["operationId"], shape)


def test_a_proxy_that_takes_its_path_away_gets_addresses_with_it(service: Service):
    token = service.new_tokens[Role.DEPLOY]
    with listening(service, "/magi") as where, httpx2.Client(base_url=where) as proxy:
        assert proxy.get("/").headers["location"] == "/magi/console/"
        page = proxy.get("/console/login").text
        assert page.count("/magi/console/static/") == 4
        for address in re.findall(r'"/magi(/console/static/[^"]+)"', page):
            assert proxy.get(address).status_code == 200
        signed_in = proxy.post("/console/login", data={"token": token}, headers={"Origin": where})
        assert "Path=/magi/console/" in signed_in.headers["set-cookie"]
        job = proxy.post("/api/v1/down", json={}, headers={"Authorization": f"Bearer {token}"})
        assert job.headers["location"].startswith("/magi/api/v1/jobs/")
        assert "There is no such page" in proxy.get("/console/nope").text
