from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.plugin_utils._gateway.routes import Server
from ansible_collections.magi.models.plugins.plugin_utils._gateway.show import routes_lines

SERVER = Server("gpu1", "a", "a", "10.0.0.7", 8080, 4, ("chat",)).to_dict()
STATE = {"backend": "a", "server": "gpu1::a", "up": True, "busy": 2, "slots": 4, "queued": 1}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"running": False, "routed": [], "states": []}, ["Gateway gw1: nothing runs."]),
        (
            {"running": True, "routed": [SERVER], "states": [STATE]},
            ["Gateway gw1: 127.0.0.1, port 8000", "a, chat  gpu1  a         up        2      4        1"],
        ),
        ({"running": True, "routed": [SERVER], "states": [{**STATE, "up": False}]}, ["gpu1  a         down "]),
        (
            {"running": False, "routed": [SERVER], "states": []},
            ["HAProxy does not answer; run again", "gpu1  a         unknown     -      4        -"],
        ),
    ],
)
def test_routes_are_shown_with_their_states(found, expected):
    text = "\n".join(routes_lines("gw1", "127.0.0.1, port 8000", found))
    for part in expected:
        assert part in text
