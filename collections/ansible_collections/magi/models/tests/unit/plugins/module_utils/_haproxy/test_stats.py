from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._haproxy.stats import (
    Counted,
    ServerState,
    in_flight,
    parse_counts,
    parse_revision,
    parse_servers,
    parse_workers,
    waiting,
)

# As HAProxy 2.6 prints them, without the columns that nobody reads.
INFO = "Name: HAProxy\nVersion: 2.6.12-1+deb12u4\nPid: 12427\ndescription: magi 0123456789abcdef\n"
STAT = """# pxname,svname,qcur,qmax,scur,smax,slim,stot,status,weight,
gateway,FRONTEND,,,3,3,4000,9,OPEN,,
a,h1::a,0,0,2,2,4,9,UP,1,
a,h1::a-2,0,0,0,0,,9,UP 1/2,1,
a,itself,0,0,3,3,,9,no check,1,
a,BACKEND,5,5,2,2,400,9,UP,1,
chat,h1::a,2,0,1,0,4,0,DRAIN,1,
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
        ServerState("chat", "h1::a", False, "drained", 1, 4, 0),
        ServerState("chat", "h2::a", False, "down", 0, 4, 0),
        ServerState("chat", "h2::b", False, "drained", 1, 4, 0),
        ServerState("chat", "h2::c", False, "disabled", 0, 4, 0),
    ]
    assert parse_servers("") == []


@pytest.mark.parametrize(
    ("places", "count"), [([], 0), (["a/h1::a"], 2), (["chat/h1::a"], 3), (["a/h1::a", "chat/h1::a"], 5), (["a/x"], 0)]
)
def test_requests_in_flight(places, count):
    assert in_flight(STAT, places) == count
    assert in_flight("", places) == 0


@pytest.mark.parametrize(("backends", "count"), [([], 0), (["a"], 5), (["chat"], 0), (["a", "chat", "gateway"], 5)])
def test_requests_that_wait(backends, count):
    assert waiting(STAT, backends) == count


# As the master of HAProxy 2.6 prints it.
PROC = """#<PID>          <type>          <reloads>       <uptime>        <version>
27164           master          2 [failed: 0]   0d00h00m21s     2.6.12-1+deb12u4
# workers
27880           worker          0               0d00h00m01s     2.6.12-1+deb12u4
# old workers
27167           worker          2               0d00h00m21s     2.6.12-1+deb12u4
27300           worker          1               0d00h00m11s     2.6.12-1+deb12u4
# programs

"""


@pytest.mark.parametrize(("proc", "workers"), [(PROC, [27880, 27167, 27300]), ("", [])])
def test_the_processes(proc, workers):
    assert parse_workers(proc) == workers


def test_what_each_server_has_done():
    stat = """# pxname,svname,scur,stot,eresp,srv_abrt,cli_abrt,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,hrsp_other,rtime,
gateway,FRONTEND,0,9,,,,,,,1,,,
a,h1::a,4,20,5,1,1,8,0,1,2,0,140,
a,itself,0,7,0,0,0,0,0,0,0,0,9000,
a,h2::a,,,,,,,,,,,,
a,h3::a,2,9,0,0,3,4,0,0,0,0,50,
a,h4::a,2,9,0,0,0,0,0,0,0,0,50,
a,BACKEND,0,29,5,1,0,0,0,0,2,0,150,
"""
    assert parse_counts(stat) == [
        Counted("h1::a", 16, 5, 140, begun=11, waiting=3),
        Counted("h2::a", 0, 0, 0),
        Counted("h3::a", 7, 0, 50, begun=4, waiting=2),
        Counted("h4::a", 7, 0, 50, begun=0, waiting=2),
    ]
    assert parse_counts("") == []
