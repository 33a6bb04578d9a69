from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._haproxy.stats import (
    ServerState,
    parse_revision,
    parse_servers,
)

# As HAProxy 2.6 prints them, without the columns that nobody reads.
INFO = "Name: HAProxy\nVersion: 2.6.12-1+deb12u4\nPid: 12427\ndescription: magi 0123456789abcdef\n"
STAT = """# pxname,svname,qcur,qmax,scur,smax,slim,stot,status,weight,
gateway,FRONTEND,,,3,3,4000,9,OPEN,,
a,h1::a,0,0,2,2,4,9,UP,1,
a,h1::a-2,0,0,0,0,,9,UP 1/2,1,
a,BACKEND,5,5,2,2,400,9,UP,1,
chat,h1::a,0,0,0,0,4,0,DOWN,1,
chat,h2::a,0,0,0,0,4,0,MAINT (resolution),1,
chat,h2::b,0,0,1,1,4,0,DRAIN,1,
chat,h2::c,0,0,0,0,4,0,MAINT (via a/h2::c),1,
chat,BACKEND,0,0,0,0,400,0,DOWN,0,

"""


@pytest.mark.parametrize(
    ("info", "revision"),
    [
        (INFO, "0123456789abcdef"),
        ("", None),
        ("description: magi\n", None),
        ("description: another's\n", None),
    ],
)
def test_the_revision_that_runs(info, revision):
    assert parse_revision(info) == revision


def test_the_servers_that_run():
    assert parse_servers(STAT) == [
        ServerState("a", "h1::a", True, "up", 2, 4, 5),
        ServerState("a", "h1::a-2", True, "up", 0, 0, 5),
        ServerState("chat", "h1::a", False, "down", 0, 4, 0),
        ServerState("chat", "h2::a", False, "down", 0, 4, 0),
        ServerState("chat", "h2::b", False, "drained", 1, 4, 0),
        ServerState("chat", "h2::c", False, "drained", 0, 4, 0),
    ]
    assert parse_servers("") == []
