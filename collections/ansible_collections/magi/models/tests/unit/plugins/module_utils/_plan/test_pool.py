from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._llama.need import HOST, MIB, Need, Row, Told
from ansible_collections.magi.models.plugins.module_utils._plan.build import build_plan
from ansible_collections.magi.models.plugins.module_utils._plan.leave import kept_instance
from ansible_collections.magi.models.plugins.module_utils._plan.need import questions, together
from ansible_collections.magi.models.plugins.module_utils._plan.refusal import DoesNotFit
from ansible_collections.magi.models.plugins.module_utils._plan.select import select
from ansible_collections.magi.models.plugins.module_utils._plan.values import AskedForError, Plan, PlanError
from ansible_collections.magi.models.plugins.module_utils._services.containers import Docker
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import (
    BINARY,
    host,
    inventory,
    model,
    names,
    plan,
    profile,
    running,
    settings,
)

GIB = 1 << 30


def pool(*models, name="small", **more):
    return {"name": name, "models": list(models), **more}


def pooled(*pools, entries=("b-q3_k_m",), **more):
    return plan(*entries, pools=list(pools), **more)


def test_a_pool_is_one_instance_with_a_port_and_its_models_have_none_of_their_own():
    value = pooled(pool("a-q2_k", {"model": "c-q4_k_m", "aliases": ["chat"]}), entries=["*"])
    assert names(value) == ["b-q3_k_m", "d-q4_1", "small"]
    small = value.instances[-1]
    assert (small.port, small.model_id, small.loaded, small.tier) == (8082, "small", 1, "")
    assert [(x.name, x.model_id, x.tier, x.port, x.aliases) for x in small.members] == [
        ("a-q2_k", "a-q2_k", "Q2", 8082, ()),
        ("c-q4_k_m", "c-q4_k_m", "Q4", 8082, ("chat",)),
    ]
    assert small.environment["LLAMA_ARG_MODELS_PRESET"] == "/srv/magi/instances/small.ini"
    assert small.environment["LLAMA_ARG_MODELS_MAX"] == "1"
    assert "LLAMA_ARG_MODEL" not in small.environment  # with it, it would be no router
    assert (value.models_enabled, small.extra_args) == (4, ())
    assert Plan.from_dict(value.to_dict()) == value


def test_options_of_profile_host_pool_and_model_lie_over_each_other():
    value = pooled(
        pool({"model": "a-q2_k", "options": {"ctx_size": 4}}, "c-q4_k_m", options={"ctx_size": 3}, idle="1m"),
        options={"ctx_size": 1, "parallel": 1},
        with_settings=settings(options={"parallel": 2, "ctx_size": 2}),
    )
    a, c = value.instances[-1].members
    assert [(x.options["ctx_size"], x.options["parallel"]) for x in (a, c)] == [("4", "2"), ("3", "2")]
    assert a.extra_args == c.extra_args == ("--sleep-idle-seconds", "60")


def test_its_models_share_its_threads():
    value = pooled(pool("a-q2_k", "c-q4_k_m", "d-q4_1", loaded=2))
    assert value.instances[0].environment["LLAMA_ARG_THREADS"] == "4"
    assert [x.environment["LLAMA_ARG_THREADS"] for x in value.instances[1].members] == ["2", "2", "2"]


def test_a_model_has_its_own_threads():
    small = pooled(pool("a-q2_k", {"model": "c-q4_k_m", "options": {"threads": 3}})).instances[-1]
    assert [x.environment["LLAMA_ARG_THREADS"] for x in small.members] == ["4", "3"]
    assert ["MAGI_THREADS" in x.environment for x in small.members] == [True, False]


@pytest.mark.parametrize(
    ("options", "threads", "prompts"),
    [({}, "4", "4096"), ({"threads": 6}, "2", "4096"), ({"cache_ram": 0}, "4", "8192")],
)
def test_one_that_runs_on_as_it_is_has_its_share_of_cores_and_caches(options, threads, prompts):
    """Its files are gone: the other gets what it gets beside the pool in the plan."""
    given = pool("c-q4_k_m", "d-q4_1", options=options)
    memory = {"memory_bytes": 64 * GIB}
    first = pooled(given, entries=["a-q2_k"], on=host(**memory))
    there = host(running(first.instances[-1]), **memory)
    (beside,) = pooled(given, entries=["a-q2_k"], on=there, models=[model("a-q2_k")]).instances
    for single in (first.instances[0], beside):
        found = single.environment
        assert (found["LLAMA_ARG_THREADS"], found["LLAMA_ARG_CACHE_RAM"]) == (threads, prompts)


@pytest.mark.parametrize(
    "changed",
    [
        pool("a-q2_k"),
        pool("a-q2_k", {"model": "c-q4_k_m", "aliases": ["chat"]}),
        pool("a-q2_k", {"model": "c-q4_k_m", "options": {"ctx_size": 1}}),
        pool("a-q2_k", "c-q4_k_m", loaded=2),
        pool("a-q2_k", "c-q4_k_m", environment={"A": "b"}),
    ],
)
def test_what_changes_a_pool_restarts_it_and_nothing_else_does(changed):
    before = pooled(pool("a-q2_k", "c-q4_k_m"))
    there = host(*(running(item) for item in before.instances))
    same = pooled(pool("a-q2_k", "c-q4_k_m"), on=there)
    assert {item.action for item in same.actions} == {ActionKind.KEEP}
    after = pooled(changed, on=there)
    assert after.names(ActionKind.RESTART) == ("small",)
    newer = model("a-q2_k", "Q2", files=(replace(model("a-q2_k").files[0], mtime_ns=6),))
    others = [item for item in inventory().models if item.id != "a-q2_k"]
    assert pooled(pool("a-q2_k", "c-q4_k_m"), on=there, models=(newer, *others)).names(ActionKind.RESTART) == ("small",)


def test_one_that_is_no_longer_in_the_profile_ends():
    before = pooled(pool("a-q2_k"))
    there = host(*(running(item) for item in before.instances))
    assert plan("b-q3_k_m", on=there).names(ActionKind.STOP) == ("small",)


def test_a_model_that_is_missing_degrades_the_pool_and_none_at_all_leaves_it_out():
    value = pooled(pool("a-q2_k", "nope"), pool("nor-this", name="other"))
    assert names(value) == ["b-q3_k_m", "small"]
    assert [item.split(": no such")[0] for item in value.degraded] == [
        "Profile test, pool small, model 2 (nope)",
        "Profile test, pool other, model 1 (nor-this)",
    ]


def test_where_the_pool_is_not_for_the_host_its_models_are_the_others():
    given = profile("*", pools=[pool("a-q2_k", "*-q4_1", hosts="gpu*")])
    assert given.entries[1].is_placed
    there, _missing = select(given, inventory().models, (), "gpu1", (), [None, None])
    assert [(x.name, [y.name for y in x.members]) for x in there] == [
        ("b-q3_k_m", []),
        ("c-q4_k_m", []),
        ("small", ["a-q2_k", "d-q4_1"]),
    ]
    elsewhere, _missing = select(given, inventory().models, (), "cpu1", (), [None, {}])
    assert [x.name for x in elsewhere] == ["a-q2_k", "b-q3_k_m", "c-q4_k_m", "d-q4_1"]


def test_a_pool_whose_files_are_all_gone_runs_on():
    before = pooled(pool("a-q2_k"))
    there = host(*(running(item) for item in before.instances))
    others = [item for item in inventory().models if item.id != "a-q2_k"]
    value = pooled(pool("a-q2_k"), on=there, models=others)
    assert value.names(ActionKind.KEEP) == ("b-q3_k_m", "small")
    assert [(x.name, [y.model_id for y in x.members]) for x in value.kept] == [("small", ["a-q2_k"])]
    assert "small runs on as it is: the files of its models are gone or set aside" in " ".join(value.degraded)


def test_a_pool_needs_a_name_that_no_model_has():
    with pytest.raises(PlanError, match="pool a-q2_k: the instance name a-q2_k is also another model's id; give the"):
        pooled(pool("d-q4_1", name="a-q2_k"), entries=["b-q3_k_m"])


def test_a_build_without_router_mode_is_an_error():
    old = replace(BINARY, options=tuple(x for x in BINARY.options if "models_preset" not in x.names))
    with pytest.raises(AskedForError, match=r"pool small: llama-server .* has no router mode"):
        pooled(pool("a-q2_k"), on=host(binary=old))


def test_a_manager_that_can_not_run_pools_is_an_error():
    with pytest.raises(AskedForError, match=r"pool small: docker can't run it: pools need systemd or supervisor; set"):
        pooled(pool("a-q2_k"), on=host(manager="docker", can=Docker.capabilities))


def test_what_clients_meet_at_the_pool_itself_has_its_options():
    value = pooled(pool("a-q2_k", options={"ui": False, "cors_origins": "http://x", "timeout": 5, "ctx_size": 1}))
    found = value.instances[-1].environment
    assert (found["LLAMA_ARG_UI"], found["LLAMA_ARG_CORS_ORIGINS"], found["LLAMA_ARG_TIMEOUT"]) == (
        "0",
        "http://x",
        "5",
    )
    assert "LLAMA_ARG_CTX_SIZE" not in found


@pytest.mark.parametrize("path", ["/models/a;b.gguf", "/models/#1/a.gguf", "/models/a.gguf "])
def test_a_name_that_the_file_of_a_pool_can_not_hold_is_refused(path):
    with pytest.raises(AskedForError, match=r"pool small: x: the file of a pool can't hold '/models/.*rename the file"):
        pooled(pool("x"), entries=["y"], models=[model("x", path=path), model("y")])


def test_what_runs_tells_which_models_it_has():
    value = pooled(pool("a-q2_k", {"model": "c-q4_k_m", "aliases": ["chat"], "options": {"parallel": 3}}))
    kept = kept_instance(running(value.instances[-1]))
    assert [(x.model_id, x.tier, x.task, x.aliases, x.port) for x in kept.members] == [
        ("a-q2_k", "Q2", "chat", (), kept.port),
        ("c-q4_k_m", "Q4", "chat", ("chat",), kept.port),
    ]
    assert kept.members[1].environment["LLAMA_ARG_N_PARALLEL"] == "3"
    assert kept_instance(running(value.instances[0])).members == ()


@pytest.mark.parametrize(
    "told", ["", "{", "{}", "7", "[1]", '[{"model": "a"}]', '[{"model": [], "aliases": 1}]', "[" * 99999]
)
def test_a_process_that_tells_something_else_is_no_pool(told):
    now = running(pooled(pool("a-q2_k")).instances[-1])
    assert kept_instance(replace(now, environment={**now.environment, "MAGI_POOL": told})).members == ()


# --- memory ----------------------------------------------------------------------------------------------------------


def test_it_needs_what_its_largest_models_need_on_each_device_by_itself():
    needs = [Need({"CUDA0": 5, HOST: 1}, 2), Need({"CUDA0": 1, HOST: 4}), Need({"CUDA0": 3, HOST: 1}, estimated="why")]
    assert together(needs, 1).own == {"CUDA0": 5, HOST: 4 + 64 * MIB}
    found = together(needs, 2)
    assert (found.own, found.mapped, found.estimated) == ({"CUDA0": 8, HOST: 7 + 64 * MIB}, 0, "why")


def sized(*sizes):
    return tuple(model(f"m{size}", size_bytes=size * GIB, parameter_count=size * GIB) for size in sizes)


def told_by_size(*pools, models, gib):
    """Return the plan of a host with so much memory, whose llama-fit-params says that each model needs its size."""
    chosen, known, given = profile(pools=list(pools)), inventory(*models), {"cache_ram": 0}
    sizes = {item.path: item.size_bytes for item in models}
    return build_plan(
        host_name="gpu1",
        profile=chosen,
        inventory=known,
        host=host(memory_bytes=gib * GIB, available_bytes=gib * GIB),
        settings=settings(options=given),
        scan_paths=("/models",),
        needs={
            item.key: Told((Row(HOST, sizes[item.variables["LLAMA_ARG_MODEL"]], 0, 0),))
            for item in questions(chosen, known, BINARY, given, {})
        },
    )


def test_its_largest_models_are_what_counts():
    value = told_by_size(pool("m*", loaded=2), models=sized(1, 4, 6, 2), gib=16)
    small = value.instances[0]
    assert round(small.need.total() / GIB, 1) == 10.2  # 6 + 4, and 64 MiB for each of three processes
    assert value.memory[0].given == small.need.total()
    assert "LLAMA_ARG_MODELS_MAX" in small.environment and "MAGI_NEED" in small.environment


def test_one_that_does_not_fit_is_refused_with_the_number_that_would():
    with pytest.raises(DoesNotFit) as refused:
        told_by_size(pool("m*", loaded=3), models=sized(1, 4, 6, 2), gib=11)
    assert str(refused.value).startswith(
        "Host gpu1: 1 of 1 instance does not fit into memory, and nothing was changed. Profile test, pool small: with "
        "3 models in memory (m6, m4, m2): it needs 12.2 GiB of memory, 10.5 GiB are left, 1.8 GiB are missing; with "
        "loaded: 2 it fits."
    )
    asked = {item.question.key: 512 for item in refused.value.lacking}
    assert str(refused.value.with_contexts(asked)) == str(refused.value)  # no context is asked for
    with pytest.raises(DoesNotFit, match=r"with 1 model in memory \(m6\): .*; no smaller number of loaded would do"):
        told_by_size(pool("m*"), models=sized(1, 6), gib=5)


def test_two_pools_never_count_the_same_memory():
    with pytest.raises(DoesNotFit, match="pool two: with 1 model in memory"):
        told_by_size(pool("m6", name="one"), pool("m5", name="two"), models=sized(6, 5), gib=11)
