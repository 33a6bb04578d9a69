from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._host.values import WORKER
from ansible_collections.magi.models.plugins.module_utils._llama.need import HOST, Need
from ansible_collections.magi.models.plugins.module_utils._plan.values import Account, Action
from ansible_collections.magi.models.plugins.plugin_utils._fleet.phases import (
    Before,
    Phases,
    apart,
    phases,
    phases_lines,
)
from ansible_collections.magi.models.plugins.plugin_utils._fleet.stand_in import stand_in, stand_ins_of
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import (
    BINARY,
    host,
    model,
    plan,
    running,
    settings,
)

GIB = 1 << 30
MODELS = [model("a"), model("b")]
ONE = Need({HOST: GIB})
ON_GPU = Need({HOST: GIB, "CUDA0": 2 * GIB})
A, B = (plan(name, models=MODELS).instances[0] for name in "ab")
A2 = plan({"model": "a", "instances": 2}, models=MODELS).instances[1]
LEFT = stand_in(A, 8081, ())


def before(*entries, runs=(), free=10 * GIB, then=None, memory=None, need=ONE, gpu=False, changed=(), **more):
    """A host on which ``runs`` and that shall serve ``entries``, each with this ``need``; the instances ``changed``
    differ in their options. ``memory`` is that of its GPU, free; ``then`` is left of the host's once it is deployed."""
    ports = more.pop("ports", (8080, 8089))
    there = [replace(running(item), config_hash="old") if item in changed else running(item) for item in runs]
    gpus = {"CUDA0": (16 * GIB, memory)} if memory is not None else {}
    now = host(*there, available_bytes=free, binary=replace(BINARY, device_memory=gpus))
    made = plan(*entries, models=MODELS, on=now, with_settings=settings(beside=True, port_range=ports), **more)
    needing = tuple(replace(item, need=need) for item in made.instances)
    accounts = () if then is None else (Account(HOST, 16 * GIB, then + GIB, GIB),)
    return Before(replace(made, instances=needing, gpu=gpu, memory=accounts), now)


def said(found):
    return {(host, name): text for host, theirs in found.clients.items() for name, text in theirs.items()}


@pytest.mark.parametrize(
    ("hosts", "beside", "clients"),
    [
        # nothing goes: it is as without a gateway
        ({"h1": before("a")}, {}, {}),
        ({"h1": before("a", runs=[A])}, {}, {}),
        # one model for another
        (
            {"h1": before("b", runs=[A])},
            {"h1": ("b",)},
            {
                ("h1", "b"): "beside the old ones: it needs 1.0 GiB of memory, and 9.2 GiB are free",
                ("h1", "a"): "drained, then forgotten: nothing else serves its model",
            },
        ),
        ({"h1": before("b", runs=[A], free=GIB)}, {}, {("h1", "b"): "after the old ones: it needs 1.0 GiB of memory"}),
        ({"h1": before("b", runs=[A], free=None)}, {}, {("h1", "b"): "after the old ones: how much memory it needs"}),
        ({"h1": before("b", runs=[A], need=None)}, {}, {("h1", "b"): "after the old ones: how much memory it needs"}),
        ({"h1": before("b", runs=[A], gpu=True)}, {}, {("h1", "b"): "after the old ones: how much memory it needs"}),
        (
            {"h1": before("b", runs=[A], need=ON_GPU, memory=2 * GIB)},
            {},
            {("h1", "b"): "after the old ones: it needs 2.0 GiB of CUDA0, and 1.5 GiB are free"},
        ),
        (
            {"h1": before("b", runs=[A], need=ON_GPU, memory=3 * GIB)},
            {"h1": ("b",)},
            {("h1", "b"): "beside the old ones: it needs 1.0 GiB of memory, and 9.2 GiB are free; it needs 2.0 GiB of"},
        ),
        (
            {"h1": before({"model": "b", "port": A.port}, runs=[A])},
            {},
            {("h1", "b"): f"after the old ones: port {A.port} is that of a"},
        ),
        # a restart: what stands in has room now, and when the other has restarted with what it needs then
        (
            {"h1": before("a", runs=[A], changed=[A], then=2 * GIB)},
            {"h1": ("a-stand-in-1",)},
            {
                (
                    "h1",
                    "a",
                ): "beside: a-stand-in-1 on port 8081 serves its model while it restarts: it needs 1.0 GiB of "
                "memory, and 9.2 GiB are free"
            },
        ),
        (
            {"h1": before("a", runs=[A], changed=[A], then=GIB // 2)},
            {},
            {
                (
                    "h1",
                    "a",
                ): "held: nothing else serves its model; no stand-in: it needs 1.0 GiB of memory, and 512 MiB are"
            },
        ),
        (
            {"h1": before("a", runs=[A], changed=[A], then=2 * GIB, free=GIB)},
            {},
            {
                (
                    "h1",
                    "a",
                ): "held: nothing else serves its model; no stand-in: it needs 1.0 GiB of memory, and 205 MiB are"
            },
        ),
        (
            {"h1": before("a", runs=[A], changed=[A])},
            {},
            {
                (
                    "h1",
                    "a",
                ): "held: nothing else serves its model; no stand-in: how much memory it needs, or is free, is not"
            },
        ),
        (
            {"h1": before("a", runs=[A], changed=[A], then=2 * GIB, ports=(8080, 8080))},
            {},
            {("h1", "a"): "held: nothing else serves its model; no stand-in: no port of the range is free"},
        ),
        # of two servers of a model on one host, one stands in; beside what starts there, it takes what is left
        (
            {"h1": before({"model": "a", "instances": 2}, "b", runs=[A, A2], changed=[A, A2], then=2 * GIB)},
            {"h1": ("b", "a-stand-in-1")},
            {("h1", "a"): "beside: a-stand-in-1", ("h1", "a-2"): "drained, while h1 serves its model"},
        ),
        (
            {"h1": before("a", "b", runs=[A], changed=[A], then=2 * GIB, free=2 * GIB)},
            {"h1": ("b",)},
            {
                ("h1", "b"): "beside the old ones",
                ("h1", "a"): "held: nothing else serves its model; no stand-in: it needs",
            },
        ),
        # what is left of one goes as any other, and does not stop the next
        (
            {"h1": before("a", runs=[A, LEFT], then=2 * GIB)},
            {},
            {("h1", "a-stand-in-1"): "drained, while h1 serves its model"},
        ),
        (
            {"h1": before("a", runs=[A, LEFT], changed=[A], then=2 * GIB)},
            {"h1": ("a-stand-in-2",)},
            {("h1", "a"): "beside: a-stand-in-2 on port 8082 serves", ("h1", "a-stand-in-1"): "drained, while h1"},
        ),
        (
            {"h1": before("a", runs=[A], changed=[A]), "h2": before("a", runs=[A])},
            {},
            {("h1", "a"): "drained, while h2 serves its model"},
        ),
        # a model moves to another host
        (
            {"h1": before("b", runs=[A, B]), "h2": before("a")},
            {"h2": ("a",)},
            {("h2", "a"): "beside the old ones, as nothing goes here", ("h1", "a"): "drained, while h2 serves"},
        ),
    ],
)
def test_what_happens_to_clients(hosts, beside, clients):
    found = phases(hosts, [list(hosts)])
    assert dict(found.beside) == beside
    texts = said(found)
    assert {key: texts[key][: len(text)] for key, text in clients.items()} == clients
    assert bool(found.going) == bool(clients)
    assert len(phases_lines(found)) == len(texts)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda made: replace(made, restores=1.5), "a rollback starts none"),
        (
            lambda made: replace(made, instances=tuple(replace(item, members=(item,)) for item in made.instances)),
            "a pool has none",
        ),
    ],
)
def test_nothing_stands_in_for_a_pool_nor_during_a_rollback(change, why):
    item = before("a", runs=[A], changed=[A], then=2 * GIB)
    found = phases({"h1": replace(item, plan=change(item.plan))}, [["h1"]])
    assert said(found) == {("h1", "a"): f"held: nothing else serves its model; no stand-in: {why}"}
    assert (found.beside, found.stand_ins) == ({}, {})


def test_a_worker_has_no_clients_and_nothing_stands_in_for_a_server_that_has_workers():
    own = {**A.environment, "MAGI_WORKERS": "gpu2 1"}
    there = before("a", runs=[A], changed=[A], then=9 * GIB)
    planned = replace(there.plan, instances=tuple(replace(x, environment=own) for x in there.plan.instances))
    assert (
        "no stand-in: its workers have one server"
        in said(phases({"h1": replace(there, plan=planned)}, [["h1"]]))["h1", "a"]
    )
    worker = running(replace(A, name="w", environment={WORKER: "gpu1/big"}))
    goes = replace(planned, actions=(Action("w", ActionKind.STOP, "x"),), instances=())
    assert phases({"h1": Before(goes, host(worker))}, [["h1"]]) == Phases()


def test_what_stands_in_is_what_restarts_at_another_place():
    hosts = {"h1": before("a", runs=[A], changed=[A], then=2 * GIB)}
    found = phases(hosts, [["h1"]])
    ((made,),) = found.stand_ins.values()
    (restarts,) = hosts["h1"].plan.instances
    own = {
        "LLAMA_ARG_ALIAS": "a,a-stand-in-1",  # it says the first of them
        "LLAMA_ARG_PORT": "8081",
        "MAGI_INSTANCE": "a-stand-in-1",
        "MAGI_STANDS_IN": "a",
    }
    environment = {**restarts.environment, **own}
    assert made == replace(restarts, name="a-stand-in-1", port=8081, environment=environment)
    assert "a-stand-in-1" not in {item.name for item in hosts["h1"].plan.served}


def test_what_has_ended_stands_in_for_nothing_any_more():
    given = {"h1": [asdict(stand_in(A, 8081, ()))]}
    seen = {"rollout": {"stand_ins": given}, "planned": {"plan": {"restores": None}}}
    assert [item.name for item in stand_ins_of("h1", seen)] == ["a-stand-in-1"]
    assert stand_ins_of("h2", seen) == stand_ins_of("h1", {}) == []
    assert stand_ins_of("h1", {**seen, "relieved": {"changed": True}}) == []
    assert stand_ins_of("h1", {**seen, "planned": {"plan": {"restores": 1.5}}}) == []  # taken back


def test_two_that_start_do_not_count_the_same_memory():
    models = [*MODELS, model("c")]
    now = host(running(A), available_bytes=2 * GIB)
    made = plan("b", "c", models=models, on=now, with_settings=settings(beside=True))
    made = replace(made, instances=tuple(replace(item, need=ONE) for item in made.instances))
    found = phases({"h1": Before(made, now)}, [["h1"]])
    assert found.beside == {"h1": ("b",)}
    assert said(found)["h1", "c"] == "after the old ones: it needs 1.0 GiB of memory, and 205 MiB are free"


def test_in_one_batch_all_are_held_and_in_two_none():
    hosts = {name: before("a", runs=[A], changed=[A]) for name in ("h1", "h2")}
    held = "held: nothing else serves its model; no stand-in: how much memory it needs, or is free, is not known"
    assert {*said(phases(hosts, [["h1", "h2"]])).values()} == {held}
    assert {text.partition(",")[0] for text in said(phases(hosts, [["h1"], ["h2"]])).values()} == {"drained"}


KEPT, CHANGED = before("a", runs=[A]), before("a", runs=[A], changed=[A])
OTHER = before("b", runs=[B], changed=[B])


@pytest.mark.parametrize(
    ("hosts", "batches"),
    [
        ({}, []),
        ({"1": KEPT, "2": KEPT}, ["12"]),
        ({"1": CHANGED}, ["1"]),
        ({"1": CHANGED, "2": CHANGED}, ["1", "2"]),
        ({"1": CHANGED, "2": CHANGED, "3": CHANGED}, ["1", "2", "3"]),
        ({"1": CHANGED, "2": CHANGED, "3": CHANGED, "4": CHANGED}, ["12", "34"]),
        ({"1": CHANGED, "2": KEPT, "3": KEPT, "4": CHANGED}, ["1234"]),
        # each model by itself
        ({"1": CHANGED, "2": OTHER}, ["12"]),
        ({"1": CHANGED, "2": OTHER, "3": CHANGED}, ["12", "3"]),
    ],
)
def test_servers_of_one_model_restart_apart(hosts, batches):
    assert ["".join(batch) for batch in apart(hosts)] == batches


def test_a_pool_is_served_elsewhere_only_if_all_of_its_models_are():
    """The pool of h1 restarts, and gains b; h2 has one of its models, h3 the other."""
    models = [*MODELS, model("c"), model("z")]

    def on(*entries, pools=(), runs=(), changed=True):
        there = [replace(running(item), config_hash="old" if changed else item.config_hash) for item in runs]
        made = plan(*entries, models=models, on=host(*there, available_bytes=10 * GIB), pools=list(pools))
        return Before(made, host(*there, available_bytes=10 * GIB))

    pool = {"name": "small", "models": ["a", "c"]}
    (old,) = (item for item in plan("z", models=models, pools=[pool]).instances if item.members)
    c = plan("c", models=models).instances[0]
    h1 = on("z", pools=[{**pool, "models": ["a", "b", "c"]}], runs=[old])
    h2, h3 = on("a", runs=[A]), on("c", runs=[c])
    assert apart({"h1": h1, "h2": h2}) == [["h1"], ["h2"]]
    assert apart({"h1": h1, "b": on("b", runs=[B])}) == [["h1", "b"]]  # it has no b yet
    held = "held: nothing else serves all of its 2 models; no stand-in: a pool has none"
    for others, text in (
        ({"h2": h2}, held),
        ({"h2": h2, "h3": h3}, "drained, while h2 and h3 serve all of its 2 models"),
    ):
        hosts = {"h1": h1, **others}
        assert said(phases(hosts, [[name] for name in hosts]))["h1", "small"] == text
    # who waits for the pool's a, and for b, which it has not yet
    found = said(phases({"h1": h1, "h2": h2, "b": on("b", runs=[B])}, [["h1"], ["h2"], ["b"]]))
    assert found["h2", "a"] == "drained, while h1 serves its model"
    assert found["b", "b"].startswith("held: nothing else serves its model; no stand-in: ")
    # and one that ends
    gone = on("z", runs=[old])
    assert said(phases({"h1": gone}, [["h1"]]))["h1", "small"] == (
        "drained, then forgotten: nothing else serves all of its 2 models"
    )


def test_nothing_is_decided_without_hosts():
    assert phases({}, []) == Phases()
