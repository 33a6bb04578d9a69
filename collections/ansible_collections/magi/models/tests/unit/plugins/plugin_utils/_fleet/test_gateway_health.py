from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.plugin_utils._fleet.gateway_health import (
    asked_of,
    gateway_questions,
    not_told,
)
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import Way

HERE, FAR, DOCKER = Way(), Way("gw1.example.org", "ssh"), Way("box", "community.docker.docker")


@pytest.mark.parametrize(
    ("way", "address", "health_from", "base", "by"),
    [
        (HERE, "127.0.0.1", "auto", "http://127.0.0.1:8000", "host"),
        (FAR, "127.0.0.1", "auto", "http://127.0.0.1:8000", "host"),
        (FAR, "0.0.0.0", "auto", "http://gw1.example.org:8000", "controller"),
        (FAR, "10.0.0.7", "auto", "http://10.0.0.7:8000", "controller"),
        (FAR, "0.0.0.0", "host", "http://127.0.0.1:8000", "host"),
        (DOCKER, "0.0.0.0", "auto", "http://127.0.0.1:8000", "host"),
        (HERE, "127.0.0.1", "controller", "http://127.0.0.1:8000", "controller"),
    ],
)
def test_where_a_gateway_is_asked(way, address, health_from, base, by):
    asked = gateway_questions(way, address, 8000, ["a", "x/y"], health_from, whole=True)
    assert {item["by"] for item in asked} == {by}
    assert [(item["name"], item["url"].removeprefix(base)) for item in asked] == [
        ("", "/health"),
        ("", "/v1/models"),
        ("a", "/models/a/health"),
        ("x/y", "/models/x%2Fy/health"),
    ]
    assert gateway_questions(way, address, 8000, ["a"], health_from) == [asked[2]]
    assert gateway_questions(way, address, 8000, [], health_from) == []

    # who has no key learns no more than that it is there
    there, listed, *rest = gateway_questions(way, address, 8000, ["a"], health_from, whole=True, tls=True, socket="/s")
    assert there == {"name": "", "url": f"{base.replace('http', 'https')}/health", "by": by, "socket": ""}
    assert {"by": "host", "socket": "/s"}.items() <= listed.items()
    assert rest == [{"name": "a", "url": "http://localhost/models/a/health", "by": "host", "socket": "/s"}]
    assert gateway_questions(way, address, 8000, ["a"], health_from, tls=True, socket="/s") == [there, *rest]
    assert gateway_questions(way, address, 8000, [], health_from, socket="/s") == []


BASE = "http://gw1:8000"


def told(path, status=200, by="controller", **result):
    name = path.split("/")[2] if path.startswith("/models/") else ""
    return {"item": {"name": name, "url": BASE + path, "by": by}, "status": status, **result}


LIST = told("/v1/models", json={"data": [{"id": "a"}, {"id": "b"}]})
REFUSED = "Request failed: <urlopen error [Errno 111] Connection refused>"


@pytest.mark.parametrize(
    ("results", "cause", "said"),
    [
        ([told("/health"), LIST, told("/models/a/health")], None, ""),
        ([told("/health", -1, msg=f"Status code was -1 and not [200]: {REFUSED}")], "not_reached",
         f"{BASE}/health can't be reached from the controller (Connection refused); open its port in the firewall, or"),
        ([told("/health", None, by="host")], "not_reached", "on its own host (no answer); see the gateway's log there"),
        ([told("/health", None, unreachable=True, msg="Connection refused")], "host_unreachable",
         "its host can't be reached any more (Connection refused); start its SSH server"),
        ([told("/health", 500)], "not_reached", f"{BASE}/health answers HTTP status 500"),
        ([told("/v1/models", json={"data": [{"id": "a"}]})], "not_routed", "it does not know b; magi up tells it again"),
        ([told("/v1/models", json=[])], "not_routed", "it does not know a, b; "),
        ([LIST, told("/models/a/health", 503), told("/models/b/health", 503)], "not_reached",
         "it reaches no server of a, b; open their ports"),
        ([told("/models/b/health", 404), told("/models/a/health", 503)], "not_routed", "it does not know b; "),
        ([told("/health"), told("/models/a/health", 401)], "not_reached", "a/health answers HTTP status 401"),
        ([told("/models/c/health", 503)], None, ""),
    ],
)  # fmt: skip
def test_what_clients_are_told(results, cause, said):
    found = not_told("gw1", ["a", "b"], results, excused=["c"])
    assert (found and found.code) == cause
    assert said in (found.detail if found else "")
    assert not found or found.detail.startswith("Gateway gw1: ")


def test_many_names_are_one_sentence():
    results = [told(f"/models/m{number}/health", 503) for number in range(9)]
    assert "no server of m0, m1, m2, m3, m4 and 4 more; " in not_told("gw1", [], results).detail


def test_the_questions_with_their_answers():
    skipped = {"skipped": True, "item": {}}
    assert asked_of([told("/health"), skipped, told("/v1/models", None), {"failed": True}]) == [
        {"name": "", "url": f"{BASE}/health", "by": "controller", "status": 200},
        {"name": "", "url": f"{BASE}/v1/models", "by": "controller", "status": -1},
    ]
