from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.plugin_utils._gateway.routes import Server
from ansible_collections.magi.models.plugins.plugin_utils._gateway.show import asked_for, gateway_entry, routes_lines

SERVER = Server("gpu1", "a", "a", "10.0.0.7", 8080, 4, ("chat",)).to_dict()
STATE = {"backend": "a", "server": "gpu1::a", "up": True, "state": "up", "busy": 2, "slots": 4, "queued": 1}
DOWN = {**STATE, "up": False, "state": "down"}
URL = "http://127.0.0.1:8000"


@pytest.mark.parametrize(
    ("found", "cause", "expected"),
    [
        (
            {"running": False, "routed": [], "states": []},
            None,
            ["Note: there is no gateway on gw1: nothing runs there; magi up starts it, or says why"],
        ),
        (
            {"running": True, "routed": [SERVER], "states": [STATE]},
            None,
            [f"Gateway gw1: {URL}/v1\n", "a, chat  gpu1  a         up        2      4        1"],
        ),
        ({"running": True, "routed": [], "states": []}, None, [f"Gateway gw1: {URL}/v1 routes to nothing"]),
        ({"running": True, "routed": [SERVER], "states": [DOWN]}, None, ["gpu1  a         down, held "]),
        (
            {"running": False, "routed": [SERVER], "states": []},
            "gateway_down",
            ["Gateway gw1: HAProxy does not answer; magi up starts", "gpu1  a         unknown     -      4        -"],
        ),
    ],
)
def test_routes_are_shown_with_their_states(found, cause, expected):
    entry = gateway_entry("gw1", URL, "controller", found)
    assert (entry["cause"], entry["is_ready"]) == (cause, found["running"])
    text = "\n".join(routes_lines(entry))
    for part in expected:
        assert part in text


def test_an_address_that_only_its_host_reaches():
    entry = gateway_entry("gw1", URL, "host", {"running": True, "routed": [SERVER], "states": [STATE]})
    assert routes_lines(entry)[0] == f"Gateway gw1: {URL}/v1 (on gw1 itself)"
    assert entry["names"] == ["a", "chat"]
    (route,) = entry["routes"]
    assert {**route, "servers": []} == {
        "names": ["a", "chat"],
        "task": "chat",
        "held": False,
        "waiting": 1,
        "servers": [],
    }
    server = {"host": "gpu1", "instance": "a", "model_id": "a", "address": "10.0.0.7", "port": 8080}
    assert route["servers"] == [{**server, "state": "up", "busy": 2, "slots": 4}]


def test_a_name_that_a_pool_has_alone_is_not_asked_for():
    pooled = {**SERVER, "instance": "small", "aliases": [], "pooled": True}
    other = {**pooled, "model_id": "b"}
    routed = [pooled, SERVER, other]
    entry = gateway_entry("gw1", URL, "controller", {"running": True, "routed": routed, "states": []})
    assert asked_for(entry, routed) == {"a": "chat", "chat": "chat"}
    assert asked_for({**entry, "is_ready": False}, routed) == {}
