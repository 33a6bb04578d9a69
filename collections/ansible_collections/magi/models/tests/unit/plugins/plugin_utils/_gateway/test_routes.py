from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._llama.cause import Cause
from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import HostResult
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import Way
from ansible_collections.magi.models.plugins.plugin_utils._gateway.routes import (
    Part,
    Route,
    Server,
    meanwhile,
    reached,
    routes,
    shared_aliases,
    unlocked,
)
from ansible_collections.magi.models.plugins.plugin_utils._gateway.settings import Gateway
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import model, plan, settings

SSH = Way("gpu1.example.org", "ssh")


def server(instance, host="h1", model_id=None, port=8080, aliases=(), slots=4):
    return Server(host, instance, model_id or instance, "127.0.0.1", port, slots, tuple(aliases))


A1, A2 = server("a"), server("a", "h2")
SECOND = server("a-2", model_id="a", port=8081)


@pytest.mark.parametrize(
    ("servers", "names"),
    [
        ((), {}),
        ((A1,), {("a",): "h1/a"}),
        ((A1, A2), {("a",): "h1/a h2/a"}),
        ((A1, SECOND), {("a",): "h1/a h1/a-2", ("a-2",): "h1/a-2"}),
        # what stands in for another has its model's names, and none of its own
        ((A1, replace(server("a-x", model_id="a"), stands_in=True)), {("a",): "h1/a h1/a-x"}),
        # an alias of all servers of a model shares their queue
        ((replace(A1, aliases=("chat", "gpt")), replace(A2, aliases=("gpt",))), {("a", "gpt"): 2, ("chat",): 1}),
        # a model's id is never another's alias, nor another's instance
        ((A1, server("b", aliases=("a",))), {("a",): "h1/a", ("b",): "h1/b"}),
        ((A1, SECOND, server("a-2", "h2")), {("a",): "h1/a h1/a-2", ("a-2",): "h2/a-2"}),
    ],
)
def test_a_name_leads_to_its_servers_and_no_others(servers, names):
    found = {route.names: route.servers for route in routes(servers)}
    assert found.keys() == names.keys()
    for key, expected in names.items():
        theirs = " ".join(f"{item.host}/{item.instance}" for item in found[key])
        assert expected == (len(found[key]) if isinstance(expected, int) else theirs)


def test_routes_have_one_order():
    assert (
        routes((A1, server("b"))) == routes((A1, server("b"))) == (Route(("a",), (A1,)), Route(("b",), (server("b"),)))
    )


PLAN = plan("a", models=[model("a")])


def bound(address):
    return plan("a", models=[model("a")], with_settings=settings(host=address))


@pytest.mark.parametrize(
    ("address", "gateway", "way", "theirs", "expected"),
    [
        ("127.0.0.1", "gpu1", SSH, SSH, "127.0.0.1"),
        ("0.0.0.0", "gpu1", SSH, SSH, "127.0.0.1"),
        ("0.0.0.0", "gw1", SSH, SSH, "gpu1.example.org"),
        ("::", "gw1", SSH, Way("fd00::7", "ssh"), "fd00::7"),
        ("10.0.0.7", "gw1", SSH, SSH, "10.0.0.7"),
        ("127.0.0.1,10.0.0.7", "gw1", SSH, SSH, "10.0.0.7"),
        ("127.0.0.1,10.0.0.7", "gpu1", SSH, SSH, "127.0.0.1"),
        ("127.0.0.1", "gw1", SSH, SSH, None),
        ("/run/llama.sock", "gpu1", SSH, SSH, None),
        # both are this machine, under two names
        ("127.0.0.1", "gw1", Way("gw1", "local"), Way("gpu1", "local"), "127.0.0.1"),
        ("127.0.0.1", "gw1", Way("gw1", "local"), SSH, None),
    ],
)
def test_where_a_gateway_reaches_a_server(address, gateway, way, theirs, expected):
    found = reached(gateway, way, [HostResult("gpu1", bound(address), way=theirs)])
    assert [item.address for item in found.servers] == ([expected] if expected else [])
    assert len(found.warnings) == (expected is None)
    if not expected:
        assert "set model_server_host there" in found.warnings[0]


@pytest.mark.parametrize(("parallel", "slots"), [(None, 4), (-1, 4), (2, 2), (1, 1)])
def test_a_server_takes_as_many_requests_as_it_has_slots(parallel, slots):
    options = {"options": {"parallel": parallel}} if parallel else {}
    result = HostResult("gpu1", plan("a", models=[model("a")], **options), way=SSH)
    assert [item.slots for item in reached("gpu1", SSH, [result]).servers] == [slots]


LOST = Cause("host_unreachable", "it can't be reached")


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (HostResult("gpu1", PLAN), ["a"]),
        (HostResult("gpu1", trouble=LOST), ["old"]),
        # what its plan says does not run there yet
        (HostResult("gpu1", PLAN, trouble=Cause("held_back", "x")), ["old"]),
    ],
)
def test_what_a_lost_host_serves_is_remembered(result, expected):
    remembered = [server("old", "gpu1"), server("gone", "removed from the inventory")]
    assert [item.instance for item in reached("gpu1", SSH, [result], remembered).servers] == expected


def test_what_a_host_lost_in_the_middle_serves_is_what_it_served_before():
    goes, comes = server("a", "gpu1", port=1), server("a", "gpu1", port=2)
    alone = server("b", "gpu1")
    remembered = [replace(comes, part=Part.COMES), replace(goes, part=Part.GOES), replace(alone, part=Part.COMES)]
    found = reached("gpu1", SSH, [HostResult("gpu1", trouble=LOST)], remembered)
    assert found.servers == (goes, alone)


def test_an_alias_of_two_models_is_named():
    assert shared_aliases([replace(A1, aliases=("chat",)), replace(A2, aliases=("chat",))]) == []
    (said,) = shared_aliases([replace(A1, aliases=("chat",)), server("b", aliases=("chat",))])
    assert said.startswith("Alias chat is a name of several models (a, b)")


def test_a_server_survives_json():
    item = server("a", aliases=("chat",))
    assert Server.from_dict(item.to_dict()) == item


def test_a_server_that_wants_a_key_and_gets_none_is_named():
    result = HostResult("gpu1", plan("a", models=[model("a")], options={"api_key_file": "/etc/keys"}), way=SSH)
    (found,) = reached("gpu1", SSH, [result]).servers
    assert found.wants_key
    assert Server.from_dict(found.to_dict()) == found
    (said,) = unlocked(Gateway(keys_file="/k"), [found, A1])
    assert said.startswith(
        "Host gpu1, instance a: it has an API key file, and the gateway takes clients' keys for its own"
    )
    for gateway in (Gateway(), Gateway(keys_file="/k", backend_key_file="/b"), Gateway(backend_key_file="/b")):
        assert unlocked(gateway, [found, A1]) == []


POOL = {"name": "small", "models": ["a", {"model": "b", "aliases": ["chat"], "options": {"parallel": 2}}]}


def pooled(pool=None, **more):
    given = plan("d", models=[model(name) for name in "abcd"], pools=[pool or POOL], **more)
    return HostResult("gpu1", given, way=SSH)


def test_each_model_of_a_pool_leads_to_it_and_the_pool_s_own_name_nowhere():
    found = reached("gpu1", SSH, [pooled()]).servers
    assert [(x.instance, x.model_id, x.slots, x.pooled) for x in found] == [
        ("d", "d", 4, False),
        ("small", "a", 4, True),
        ("small", "b", 2, True),
    ]
    assert {x.port for x in found if x.pooled} == {8081}
    assert {route.names: [x.which for x in route.servers] for route in routes(found)} == {
        ("a",): [("gpu1", "small", "a")],
        ("b", "chat"): [("gpu1", "small", "b")],
        ("d",): [("gpu1", "d", "d")],
    }
    assert [Server.from_dict(x.to_dict()) for x in found] == [*found]
    # what this run knows nothing of stays
    assert reached("gpu1", SSH, [HostResult("gpu1", trouble=LOST)], found).servers == found


def test_a_pool_that_restarts_gains_models_and_loses_some():
    before = reached("gpu1", SSH, [pooled()]).servers
    after = reached("gpu1", SSH, [pooled({"name": "small", "models": ["b", "c"]})]).servers
    actions = {("gpu1", "small"): ActionKind.RESTART, ("gpu1", "d"): ActionKind.KEEP}
    found = meanwhile(before, after, actions)
    assert [(x.instance, x.model_id, x.part) for x in found] == [
        ("d", "d", Part.STAYS),
        ("small", "a", Part.GOES),
        ("small", "b", Part.STAYS),
        ("small", "c", Part.COMES),
    ]


def test_a_pool_that_wants_a_key_is_named_once():
    found = reached("gpu1", SSH, [pooled(options={"api_key_file": "/etc/keys"})]).servers
    assert len(unlocked(Gateway(keys_file="/k"), found)) == 2
