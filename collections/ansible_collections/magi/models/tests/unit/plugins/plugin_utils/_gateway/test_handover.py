from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.plugin_utils._gateway.handover import (
    Handover,
    arriving,
    ending,
    leaving,
    meeting,
    stopped,
    unmet,
)
from ansible_collections.magi.models.plugins.plugin_utils._gateway.routes import Part, Server, meanwhile

START, RESTART, STOP, KEEP = ActionKind.START, ActionKind.RESTART, ActionKind.STOP, ActionKind.KEEP


def server(instance, host="h1", port=8080, slots=4, aliases=(), part=Part.STAYS, model_id=None):
    return Server(host, instance, model_id or instance, "127.0.0.1", port, slots, tuple(aliases), part)


def comes(item):
    return replace(item, part=Part.COMES)


def goes(item):
    return replace(item, part=Part.GOES)


A, B, A2 = server("a"), server("b", port=8081), server("a", "h2")
STANDS_IN = replace(server("a-stand-in-1", port=8082, model_id="a"), stands_in=True)


@pytest.mark.parametrize(
    ("before", "after", "actions", "expected"),
    [
        # nothing changes
        ([A], [A], {A: KEEP}, [A]),
        # one model for another
        ([A], [B], {A: STOP, B: START}, [goes(A), comes(B)]),
        # a restart where it is: with what it has now, until it has restarted
        ([A], [replace(A, slots=8, aliases=("chat",))], {A: RESTART}, [A]),
        # at another port
        ([A], [replace(A, port=9000)], {A: RESTART}, [comes(replace(A, port=9000)), goes(A)]),
        # it was down, and its gateway knew it
        ([A], [A], {A: START}, [comes(A)]),
        # a gateway that knows nothing yet
        ([], [A, B], {A: KEEP, B: RESTART}, [A, comes(B)]),
        # what a killed deployment left
        ([goes(A), comes(B)], [A, B], {A: KEEP, B: KEEP}, [A, B]),
        ([comes(A)], [B], {B: KEEP, A: STOP}, [goes(A), B]),
        ([A, comes(STANDS_IN)], [A], {A: KEEP, STANDS_IN: STOP}, [A, goes(STANDS_IN)]),
        ([A, comes(STANDS_IN)], [A], {A: KEEP}, [A]),
        # one stands in for another
        ([A], [A, STANDS_IN], {A: RESTART, STANDS_IN: START}, [A, comes(STANDS_IN)]),
        # what nobody deploys or stops is forgotten
        ([A, server("old", "removed")], [A], {A: KEEP}, [A]),
    ],
)
def test_the_servers_meanwhile(before, after, actions, expected):
    found = meanwhile(before, after, {item.whose: kind for item, kind in actions.items()})
    assert found == tuple(sorted(expected, key=lambda item: (*item.whose, item.part)))


def handed(servers, actions, batch=("h1",), done=(), ready=()):
    return leaving(servers, {item.whose: kind for item, kind in actions.items()}, batch, done, {x.whose for x in ready})


def test_a_model_for_another_is_forgotten_when_what_waits_for_it_is_served():
    found = handed([goes(A), comes(B)], {A: STOP, B: START}, ready=[B])
    assert found == Handover(
        comes=("b/h1::b",),
        forget=("a",),
        left=("a",),
        drain=("a/h1::a::before",),
        empty=("a/h1::a::before",),
        empty_before=("a/h1::a", "a/h1::a::before"),
    )


def test_what_started_and_is_not_ready_gets_nothing():
    assert handed([goes(A), comes(B)], {A: STOP, B: START}).comes == ()


def test_a_restart_is_drained_and_its_name_stays():
    found = handed([A], {A: RESTART})
    assert (found.drain, found.empty, found.forget, found.left) == (("a/h1::a",), ("a/h1::a",), (), ())
    assert arriving([A], {A.whose: RESTART}, [A.whose]) == Handover(ready=("a/h1::a",))
    assert not arriving([A], {A.whose: RESTART}, [])


def test_a_restart_at_another_port_is_two_servers():
    moved = comes(replace(A, port=9000))
    found = handed([goes(A), moved], {A: RESTART}, ready=[A])
    assert (found.comes, found.drain, found.forget) == ((), ("a/h1::a::before",), ())
    assert arriving([goes(A), moved], {A.whose: RESTART}, [A.whose]).ready == ("a/h1::a",)


def test_what_stands_in_gets_requests_until_the_other_has_restarted():
    servers = [A, comes(STANDS_IN)]
    found = handed(servers, {A: RESTART, STANDS_IN: START}, ready=[STANDS_IN])
    assert (found.comes, found.drain, found.forget) == (("a/h1::a-stand-in-1",), ("a/h1::a",), ())
    assert found.needed == (found.comes,)  # without it, nothing would serve the model
    assert arriving(servers, {A.whose: RESTART}, [A.whose, STANDS_IN.whose]).ready == ("a/h1::a",)
    place = ("a/h1::a-stand-in-1",)
    assert ending(servers, {STANDS_IN.whose}) == Handover(drain=place, empty=place, empty_before=place)
    assert not ending(servers, ())
    assert stopped(servers, {STANDS_IN.whose}) == Handover(down=place)
    assert not stopped(servers, ())


@pytest.mark.parametrize(
    ("servers", "actions", "batch", "ready", "comes", "needed"),
    [
        # a run that was refused is run again: what started then is there, and out of reach
        ([A, STANDS_IN], {A: RESTART, STANDS_IN: KEEP}, "h1", [], (), (("a/h1::a-stand-in-1",),)),
        # it moves to another host, which was deployed in an earlier batch, or is in a later one
        ([goes(A), comes(A2)], {A: STOP, A2: START}, "h2", [A2], ("a/h2::a",), ()),
        ([goes(A), comes(A2)], {A: STOP, A2: START}, "h1", [A2], (), (("a/h2::a",),)),
        ([goes(A), comes(A2)], {A: STOP, A2: START}, "h1", [], (), ()),
        # the other restarts as well: then its requests wait, else what is broken there could not be mended
        ([A, A2], {A: RESTART, A2: RESTART}, "h1", [], (), ()),
        ([A, A2], {A: RESTART}, "h1", [], (), ()),  # nobody looked at it
        ([A, A2], {A: RESTART, A2: KEEP}, "h1", [], (), (("a/h2::a",),)),
        # of another model
        ([A, comes(B)], {A: RESTART, B: START}, "h1", [B], ("b/h1::b",), ()),
    ],
)
def test_nothing_goes_unless_what_serves_meanwhile_is_up(servers, actions, batch, ready, comes, needed):
    found = handed(servers, actions, [batch], ready=ready)
    assert (found.comes, found.needed) == (comes, needed)
    assert meeting(found) == Handover(comes=comes, needed=needed if comes else ())


def test_who_is_missed_is_named():
    servers = [A, comes(STANDS_IN), comes(B)]
    assert unmet(servers, ["a/h1::a-stand-in-1"]) == "a-stand-in-1 of h1 at 127.0.0.1:8082"


def test_a_name_is_forgotten_with_its_last_server():
    actions = {A: STOP, A2: STOP}
    servers = [goes(A), goes(A2)]
    first = handed(servers, actions, ["h1"])
    assert (first.forget, first.drain) == ((), ("a/h1::a::before",))
    last = handed(servers, actions, ["h2"], ["h1"])
    assert (last.forget, last.left, last.drain) == (("a",), ("a",), ("a/h2::a::before",))


def test_a_server_is_emptied_wherever_it_is():
    one = server("a", aliases=("chat",))
    other = server("b", port=8081, aliases=("chat",))
    found = handed([goes(one), other], {one: STOP, other: KEEP})
    assert (found.forget, found.left) == (("a",), ("a",))
    assert found.drain == ("a/h1::a::before",)
    assert {*found.empty} == {"a/h1::a::before", "chat/h1::a::before"}


def test_nothing_is_said_where_nothing_goes():
    assert not handed([A, A2], {A: KEEP, A2: RESTART})
    assert handed([A, A2], {A: KEEP, A2: RESTART}, ["h2"])
