from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._llama.need import HOST, MIB, Row, Told
from ansible_collections.magi.models.plugins.module_utils._models.model import Companion, FileVersion, Inventory
from ansible_collections.magi.models.plugins.module_utils._plan.build import build_plan
from ansible_collections.magi.models.plugins.module_utils._plan.need import (
    largest_context,
    need_of,
    prompt_share,
    question,
    questions,
    sizes_of,
)
from ansible_collections.magi.models.plugins.module_utils._plan.options import resolve_options
from ansible_collections.magi.models.plugins.module_utils._plan.refusal import DoesNotFit
from ansible_collections.magi.models.plugins.module_utils._plan.values import AskedForError
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import (
    BINARY,
    host,
    inventory,
    model,
    profile,
    running,
    settings,
)

GIB = 1 << 30
HAVE = {"memory_bytes": 16 * GIB, "available_bytes": 16 * GIB}
SHAPE = {"block_count": 32, "embedding_length": 4096, "head_count": 32, "head_count_kv": 8, "vocab_size": 128256}
SHAPE |= {"head_count_kv_total": 32 * 8, "feed_forward_length": 14336}
LLAMA = model("llama", size_bytes=4 * GIB, parameter_count=8_000_000_000, context_length=8192, shape=SHAPE)


def rows(weights, context=0.25, compute=0.25, **devices):
    """Return the rows of the host, and of devices, in GiB."""
    of_host = Row(HOST, int(weights * GIB), int(context * GIB), int(compute * GIB))
    return (*(Row(name, int(size * GIB), 0, 0) for name, size in devices.items()), of_host)


def planned(*entries, told=None, models=(LLAMA,), on=None, with_settings=None, **more):
    """Return the plan of a host whose llama-fit-params says ``told`` of every question; None: it said nothing."""
    there, chosen, known = on or host(**HAVE), profile(*entries, **more), inventory(*models)
    asked = questions(chosen, known, BINARY, {}, {})
    return build_plan(
        host_name="gpu1",
        profile=chosen,
        inventory=known,
        host=there,
        settings=with_settings or settings(),
        scan_paths=("/models",),
        needs={item.key: told for item in asked} if told else {},
    )


@pytest.mark.parametrize(
    ("options", "variables"),
    [
        ({}, {"LLAMA_ARG_N_PARALLEL": "4", "LLAMA_ARG_KV_UNIFIED": "1"}),
        ({"parallel": "-1"}, {"LLAMA_ARG_N_PARALLEL": "4", "LLAMA_ARG_KV_UNIFIED": "1"}),
        ({"parallel": "2"}, {"LLAMA_ARG_N_PARALLEL": "2"}),
        (
            {"parallel": "2", "kv_unified_per_slot": "1000"},
            {"LLAMA_ARG_N_PARALLEL": "2", "LLAMA_ARG_KV_UNIFIED_PER_SLOT": "1000", "LLAMA_ARG_CTX_SIZE": "2000"},
        ),
    ],
)
def test_it_is_asked_with_what_the_server_sets_itself(options, variables):
    found = question(BINARY, LLAMA, resolve_options(BINARY, [("", options)]), {"CUDA_VISIBLE_DEVICES": "1"})
    assert found.variables == {**variables, "LLAMA_ARG_MODEL": LLAMA.path, "CUDA_VISIBLE_DEVICES": "1"}


def test_an_embedder_sees_all_its_tokens_at_once():
    embedder = model("e", task="embedding")
    assert question(BINARY, embedder, {"ubatch_size": "64"}, {}).variables["LLAMA_ARG_BATCH"] == "64"


def test_what_changes_the_answer_changes_the_question():
    given = {"ctx_size": "1024"}
    asked = {
        question(binary, of, options, {}).key
        for binary, of, options in (
            (BINARY, LLAMA, given),
            (BINARY, LLAMA, {"ctx_size": "2048"}),
            (BINARY, replace(LLAMA, files=(FileVersion(LLAMA.path, 1, 1),)), given),
            (replace(BINARY, identity="newer"), LLAMA, given),
            (replace(BINARY, devices=("CUDA0",)), LLAMA, given),
        )
    }
    assert len(asked) == 5
    # neither keys, nor what is not counted there, nor when it sleeps
    more = {**given, "api_key_file": "/keys", "cache_ram": "1", "sleep_idle_seconds": "600"}
    assert question(BINARY, LLAMA, more, {}) == question(BINARY, LLAMA, given, {})


def test_instances_that_are_alike_are_one_question():
    chosen = profile({"model": "a-q2_k", "instances": 20}, {"model": "a-q2_k", "options": {"ctx_size": 1}}, "c-q4_k_m")
    assert len(questions(chosen, inventory(), BINARY, {}, {})) == 3
    # the plan says what is wrong
    assert questions(profile("*", options={"ctx_sise": 1}), inventory(), BINARY, {}, {}) == []


def test_what_it_does_not_count_is_added():
    companion = Companion("p", "/mmproj.gguf", "mmproj", "p", "clip", 400 * MIB, ("llama",), "")
    lora = Companion("l", "/lora.gguf", "adapter", "l", None, 40 * MIB, (), "")
    sizes = sizes_of(Inventory((LLAMA,), (companion, lora)))
    options = {"mmproj": "/mmproj.gguf", "lora": "/lora.gguf"}
    # of 4 GiB, 1 is in what it prints: the CPU has the others in another order
    need = need_of(LLAMA, options, Told(rows(1)), (), 512 * MIB, sizes)
    assert need.parts == {
        "process": 64 * MIB,
        "repacked": 3 * GIB,
        "projector": 628 * MIB,
        "beside": 50 * MIB,
        "prompts": 512 * MIB,
    }
    assert (need.mapped, need.own) == (GIB, {HOST: GIB // 2 + sum(need.parts.values())})
    assert need.estimated == ""
    private = need_of(LLAMA, {**options, "load_mode": "none"}, Told(rows(1)), (), 512 * MIB, sizes)
    assert (private.mapped, private.total()) == (0, need.total())


def test_a_server_of_embeddings_keeps_the_logits_of_all_tokens_of_a_batch():
    """all-MiniLM-L6-v2 in F16, llama-server b11434: 130 MiB at its peak, of which 43 are the mapped model."""
    minilm = replace(LLAMA, task="embedding", size_bytes=43 * MIB, shape={"vocab_size": 30522, "embedding_length": 384})
    told = Told((Row(HOST, 43 * MIB, 0, 7 * MIB),))
    need = need_of(minilm, {"ctx_size": "512"}, told, (), 0, {})
    assert need.parts == {"process": 64 * MIB, "outputs": 4 * 30906 * 512}
    assert 130 * MIB < need.total() < 180 * MIB
    large = need_of(minilm, {"ubatch_size": "4096"}, told, (), 0, {})
    assert large.parts["outputs"] == 4 * 30906 * 2048  # batch_size is less
    chat = replace(minilm, task="chat")
    assert "outputs" not in need_of(chat, {}, told, (), 0, {}).parts
    for option in ("embeddings", "reranking"):
        assert need_of(chat, {option: True}, told, (), 0, {}).parts == need.parts


def test_each_process_takes_more_of_a_gpu_but_not_of_another_host():
    told = Told(rows(0.25, CUDA0=2, RPC0=2))
    need = need_of(LLAMA, {}, told, (), 0, {})
    assert need.own == {"CUDA0": 2 * GIB + 640 * MIB, "RPC0": 2 * GIB, HOST: GIB // 2 + 384 * MIB}
    assert need.parts == {"process": 384 * MIB}


# What llama-fit-params foretold, and what nvidia-smi and smaps_rollup (Pss) showed of the process after a prompt that
# filled its context: one NVIDIA H200, driver 580.159.04, llama-server b11434 with CUDA 13.0, two Llamas in Q8_0; in MiB.
@pytest.mark.parametrize(
    ("options", "on_gpu", "on_host", "peak_on_gpu", "peak_on_host"),
    [
        ({"ctx_size": "32768"}, (7277, 4096, 136), (204, 0, 40), 12122, 636),
        ({"ctx_size": "2048"}, (7277, 256, 130), (204, 0, 34), 8252, 602),
        ({"ctx_size": "32768", "cache_type_k": "q8_0"}, (7277, 2176, 176), (204, 0, 40), 10254, 641),
        ({"ctx_size": "16384", "ubatch_size": "2048"}, (7277, 2048, 528), (204, 0, 144), 10426, 718),
        ({"ctx_size": "8192", "n_gpu_layers": "16"}, (3519, 480, 172), (3961, 544, 34), 4788, 5122),
        ({"ctx_size": "8192", "flash_attn": "off"}, (7277, 1024, 176), (204, 0, 40), 9808, 835),
        ({"ctx_size": "131072"}, (1088, 4096, 176), (102, 0, 80), 5916, 554),
        ({"ctx_size": "2048"}, (1088, 64, 114), (102, 0, 18), 1822, 476),
        ({"ctx_size": "8192", "kv_offload": False}, (1088, 0, 112), (102, 256, 18), 1776, 737),
        ({"ctx_size": "8192", "n_gpu_layers": "0"}, (0, 0, 218), (1190, 256, 18), 704, 1808),
        ({"ctx_size": "2048", "load_mode": "none"}, (1088, 64, 114), (102, 0, 18), 1822, 478),
        # in F16; here llama-server itself told its buffers
        ({"ctx_size": "4096"}, (2048, 128, 68), (192, 0, 20), 2942, 691),
    ],
)
def test_the_need_is_what_a_real_gpu_was_seen_to_give(options, on_gpu, on_host, peak_on_gpu, peak_on_host):
    told = Told((Row("CUDA0", *(x * MIB for x in on_gpu)), Row(HOST, *(x * MIB for x in on_host))))
    tier = "F16" if on_gpu[0] == 2048 else "Q8"
    there = model("llama", tier, size_bytes=sum(row.model for row in told.rows), shape=SHAPE)
    need = need_of(there, options, told, (), 0, {})
    assert 0.95 < need.own["CUDA0"] / MIB / peak_on_gpu < 1.25
    assert 0.95 < need.total() / MIB / peak_on_host < 1.25


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (Told((), "llama-fit-params did not answer in 20 seconds"), "llama-fit-params did not answer in 20 seconds"),
        (Told(rows(90)), "llama-fit-params counts more weights than the file has"),
    ],
)
def test_without_a_good_answer_the_header_tells_with_a_margin(told, why):
    need = need_of(LLAMA, {"ctx_size": "8192"}, told, (), 0, {})
    # weights, context (128 KiB a token) and compute buffer
    assert 1.25 * (4 + 1) * GIB < need.total() < 1.25 * (4 + 1 + 0.4) * GIB
    assert (need.mapped, need.estimated) == (0, why)
    on_gpu = need_of(LLAMA, {"ctx_size": "8192"}, told, ("CUDA0",), 0, {})
    assert 1.25 * 5 * GIB < on_gpu.own["CUDA0"] < 1.25 * 5.4 * GIB + 640 * MIB
    assert on_gpu.total() < 2 * GIB


def test_the_caches_of_prompts_share_an_eighth_of_the_memory():
    assert [prompt_share(16 * GIB, count) for count in (0, 1, 2, 3, 5)] == [2048, 2048, 1024, 512, 256]
    assert (prompt_share(1024 * GIB, 1), prompt_share(MIB, 1)) == (8192, 0)


def test_the_plan_has_needs_and_leaves_what_the_user_set():
    plan = planned("llama", told=Told(rows(4)))
    (instance,) = plan.instances
    assert instance.need.total() == int(4.5 * GIB) + (64 + 2048) * MIB
    assert [item.given for item in plan.memory] == [instance.need.total()]
    shown = {name: instance.environment[f"LLAMA_ARG_{name}"] for name in ("FIT", "CACHE_RAM")}
    assert shown == {"FIT": "off", "CACHE_RAM": "2048"}
    (own,) = planned("llama", told=Told(rows(4)), options={"cache_ram": 64, "fit": "on"}).instances
    assert own.need.parts["prompts"] == 64 * MIB
    assert (own.environment["LLAMA_ARG_FIT"], own.environment["LLAMA_ARG_CACHE_RAM"]) == ("on", "64")
    assert "MAGI_PROMPTS" not in own.environment


def test_shares_and_needs_restart_nothing():
    (one,) = planned("llama", told=Told(rows(4))).instances
    on = host(running(one), **HAVE)
    two = planned("llama", "small", told=Told(rows(3)), models=(LLAMA, model("small")), on=on)
    assert two.names("keep") == ("llama",)
    assert two.instances[0].environment["LLAMA_ARG_CACHE_RAM"] == "1024"
    assert planned("llama", told=Told(rows(4)), options={"cache_ram": 2048}, on=on).names("restart") == ("llama",)


def test_one_that_runs_on_without_its_file_has_its_share_still():
    both = planned("*", told=Told(rows(3)), models=(LLAMA, model("small"))).instances
    on = host(*map(running, both), **HAVE)
    one = planned("*", told=Told(rows(3)), on=on)
    assert [item.name for item in one.kept] == ["small"]
    assert one.instances[0].environment["LLAMA_ARG_CACHE_RAM"] == "1024"


def test_what_does_not_fit_is_refused_with_numbers():
    entry = {"model": "llama", "instances": 20, "options": {"cache_ram": 0}}
    with pytest.raises(DoesNotFit) as error:
        planned(
            entry,
            told=Told(rows(1, 0.5, 0.5)),
            models=(replace(LLAMA, size_bytes=GIB),),
            with_settings=settings(port_range=(8080, 8199)),
        )
    (lacking,) = error.value.lacking
    assert str(error.value) == (
        "Host gpu1: 7 of 20 instances do not fit into memory, and nothing was changed. Profile test, entry 1 (llama): "
        "7 of 20, llama-14 to llama-20: each needs 1.1 GiB of memory, 397 MiB are left, 7.0 GiB are missing. Enable "
        "fewer models, lower ctx_size, or set model_server_memory: warn to try all the same."
    )
    assert lacking.room({HOST: GIB})[HOST] == GIB - -(-(7 * 1088 - 396.8) * MIB // 20)
    said = str(error.value.with_contexts({lacking.question.key: 2048}))
    assert "7.0 GiB are missing; with ctx_size: 2048 all fit. Enable" in said
    assert "missing; no ctx_size would do." in str(error.value.with_contexts({lacking.question.key: 0}))


def test_an_estimate_finds_its_context_itself():
    with pytest.raises(DoesNotFit) as error:
        planned({"model": "llama", "options": {"ctx_size": 131072, "cache_ram": 0}})
    (lacking,) = error.value.lacking
    assert "it needs about 25." in str(error.value)
    assert f"; with ctx_size: {lacking.fits} it fits." in str(error.value)
    planned({"model": "llama", "options": {"ctx_size": lacking.fits, "cache_ram": 0}})
    with pytest.raises(DoesNotFit):
        planned({"model": "llama", "options": {"ctx_size": lacking.fits + 256, "cache_ram": 0}})


def test_an_estimate_is_called_one():
    plan = planned("llama", told=Told((), "llama-fit-params did not answer in 20 seconds"))
    assert plan.notes == ("The memory that llama needs is an estimate: llama-fit-params did not answer in 20 seconds.",)


def test_it_may_be_a_warning_or_nobody_looks():
    told = Told(rows(4, 90))
    warned = planned("llama", told=told, with_settings=settings(memory="warn"))
    assert warned.names("start") == ("llama",)
    assert warned.warnings[0].startswith("Host gpu1: memory is short. Profile test, entry 1 (llama): llama: it needs")
    off = planned("llama", told=told, with_settings=settings(memory="off"))
    assert (off.warnings, off.memory, off.instances[0].need) == ((), (), None)
    assert not {"LLAMA_ARG_FIT", "LLAMA_ARG_CACHE_RAM", "MAGI_NEED"} & off.instances[0].environment.keys()


TWO = ("CUDA0", "CUDA1")


def on_gpus(
    *entries, weights=4, other=15, there=(), free=None, devices=TWO, answers=True, options=None, pools=(), **more
):
    """Return the plan of a host with GPUs of 24 GiB, and models llama with ``weights`` (GiB) and other. Of one GPU alone,
    llama-fit-params says 1 GiB more than the weights, or nothing without ``answers``."""
    free = free or dict.fromkeys(devices, 24)
    memory = {device: (24 * GIB, int(free[device] * GIB)) for device in devices}
    binary = replace(BINARY, devices=devices, default_devices=devices, device_memory=memory)
    chosen = profile(*entries, pools=list(pools), options=options or {})
    second = replace(LLAMA, id="other", path="/models/other.gguf", size_bytes=other * GIB)
    known = inventory(replace(LLAMA, size_bytes=weights * GIB), second)

    def said(variables):
        names = variables.get("LLAMA_ARG_DEVICE", ",".join(devices)).split(",")
        size = other if "other" in variables["LLAMA_ARG_MODEL"] else weights
        return Told(rows(0.1, 0, 0, **dict.fromkeys(names, (size + 1) / len(names))))

    asked = questions(chosen, known, binary, {}, {}) if answers else ()
    return build_plan(
        host_name="gpu1",
        profile=chosen,
        inventory=known,
        host=host(*there, **HAVE, binary=binary, gpus=("/dev/nvidia0",)),
        settings=settings(**more),
        scan_paths=("/models",),
        needs={item.key: said(item.variables) for item in asked},
    )


def told(value):
    return {item.name: item.environment["LLAMA_ARG_DEVICE"] for item in value.instances}


def test_a_pool_gets_the_gpu_that_fits_its_largest_models_and_keeps_it():
    pools = [{"name": "small", "models": ["llama"]}]
    first = on_gpus("none", free={"CUDA0": 20, "CUDA1": 8}, pools=pools)
    (pool,) = first.instances
    assert pool.members[0].environment["LLAMA_ARG_DEVICE"] == pool.environment["MAGI_POOL_DEVICE"] == "CUDA1"
    assert "LLAMA_ARG_DEVICE" not in pool.environment
    assert pool.need.own["CUDA1"] == 5 * GIB + 640 * MIB
    # nothing of it is in memory, and another GPU would be the better one now
    there = [running(pool, models={"llama": "unloaded"}, asleep=True)]
    again = on_gpus("none", free={"CUDA0": 6, "CUDA1": 20}, there=there, pools=pools)
    assert again.names(ActionKind.KEEP) == ("small",)


def test_each_instance_gets_the_gpu_that_fits_it_best_and_keeps_it():
    first = on_gpus("llama", free={"CUDA0": 20, "CUDA1": 8})
    assert told(first) == {"llama": "CUDA1"}
    (one,) = first.instances
    assert one.need.own == {"CUDA1": 5 * GIB + 640 * MIB, HOST: one.need.own[HOST]}
    assert one.environment["MAGI_GPU"] == "CUDA1"
    # one with more room would be a better fit for the others, and it stays
    wanted = {"model": "llama", "instances": 3}
    more = on_gpus(wanted, free={"CUDA0": 20, "CUDA1": 2}, there=[running(one)])
    assert told(more) == {"llama": "CUDA1", "llama-2": "CUDA0", "llama-3": "CUDA0"}
    assert [item.action.value for item in more.actions] == ["keep", "start", "start"]
    assert not more.notes
    # nor does it go if somebody else takes more of its GPU meanwhile
    assert told(on_gpus("llama", free={"CUDA0": 20, "CUDA1": 0}, there=[running(one)])) == {"llama": "CUDA1"}


def test_one_that_is_too_large_for_a_gpu_is_split_and_the_plan_says_so():
    value = on_gpus("llama", weights=30)
    assert told(value) == {"llama": "CUDA0,CUDA1"}
    assert value.notes == ("llama is split over CUDA0, CUDA1, since it is too large for one GPU.",)
    assert value.instances[0].need.own["CUDA1"] == 15.5 * GIB + 640 * MIB


@pytest.mark.parametrize(
    ("asked", "expected"), [(2, "CUDA0,CUDA2"), (1, "CUDA2"), (["CUDA1"], "CUDA1"), (["CUDA2", "CUDA0"], "CUDA2,CUDA0")]
)
def test_an_entry_says_how_many_gpus_or_which(asked, expected):
    given = {"devices": ("CUDA0", "CUDA1", "CUDA2"), "free": {"CUDA0": 20, "CUDA1": 23, "CUDA2": 10}}
    value = on_gpus({"model": "llama", "devices": asked}, **given)
    assert told(value) == {"llama": expected}
    assert not value.notes
    nobody_looks = told(on_gpus({"model": "llama", "devices": asked}, **given, memory="off"))
    assert len(nobody_looks["llama"].split(",")) == len(expected.split(","))


def test_a_gpu_that_somebody_named_has_room_for_others_only_beside_that():
    for entries in (
        [{"model": "llama", "devices": ["CUDA0"]}, "other"],
        ["other", {"model": "llama", "devices": ["CUDA0"]}],
    ):
        assert told(on_gpus(*entries, weights=20)) == {"llama": "CUDA0", "other": "CUDA1"}


def test_an_estimate_is_of_the_gpus_that_were_named():
    with pytest.raises(DoesNotFit, match="of CUDA1"):
        on_gpus({"model": "llama", "devices": ["CUDA1"]}, weights=30, answers=False)
    value = on_gpus({"model": "llama", "devices": ["CUDA1"]}, answers=False)
    assert {*value.instances[0].need.own} == {HOST, "CUDA1"}


def test_another_kind_of_number_moves_nobody():
    """llama-fit-params answers in one run and not in another."""
    split = on_gpus("llama", weights=20, answers=False)
    assert told(split) == {"llama": "CUDA0,CUDA1"}
    again = on_gpus("llama", weights=20, there=[running(split.instances[0])], free={"CUDA0": 12, "CUDA1": 12})
    assert [item.action.value for item in again.actions] == ["keep"]
    one = on_gpus("llama", weights=12)
    (item,) = one.instances
    left = dict.fromkeys(TWO, 17) | {item.environment["LLAMA_ARG_DEVICE"]: 1}
    again = on_gpus("llama", weights=12, there=[running(item)], free=left, answers=False)
    assert [item.action.value for item in again.actions] == ["keep"]


def test_an_entry_s_number_of_gpus_is_not_hidden():
    two = {"model": "llama", "devices": 2}
    assert told(on_gpus(two, options={"device": "CUDA0"})) == {"llama": "CUDA0,CUDA1"}
    said = (
        r"entry 1 \(llama\): devices: 2 can't be chosen, as its options or variables say which GPUs it sees; leave one"
    )
    with pytest.raises(AskedForError, match=said):
        on_gpus({**two, "environment": {"CUDA_VISIBLE_DEVICES": "1,0"}})


def test_an_option_that_can_not_be_passed_is_an_error_of_the_profile():
    with pytest.raises(AskedForError, match=r"^Host gpu1: .*has no variable"):
        on_gpus({"model": "llama", "options": {"grammar": "a\nb"}})


def test_more_gpus_than_there_are_is_an_error_of_the_profile():
    said = r"entry 1 \(llama\): devices: 3 are asked for, and llama-server has 2 \(CUDA0, CUDA1\)"
    with pytest.raises(AskedForError, match=said):
        on_gpus({"model": "llama", "devices": 3})


def test_a_gpu_full_of_other_work_is_not_used_and_what_fits_none_is_refused_by_name():
    assert told(on_gpus("llama", free={"CUDA0": 24, "CUDA1": 1})) == {"llama": "CUDA0"}
    missing = r"llama: it needs 5\.6 GiB of CUDA0, 1\.5 GiB are left, 4\.1 GiB are missing"
    with pytest.raises(DoesNotFit, match=missing) as refused:
        on_gpus("llama", free={"CUDA0": 2, "CUDA1": 1})
    (lacking,) = refused.value.lacking
    assert lacking.question.variables["LLAMA_ARG_DEVICE"] == "CUDA0"  # for the context that would fit
    with pytest.raises(DoesNotFit, match=r"of CUDA1, 1\.5 GiB are left"):
        on_gpus("llama", free={"CUDA0": 1, "CUDA1": 2})


@pytest.mark.parametrize("fit", ["off", "on"])
def test_a_server_that_fits_itself_to_the_gpu_is_not_refused_for_that(fit):
    binary = replace(BINARY, devices=("CUDA0",), device_memory={"CUDA0": (GIB, GIB)})
    on = host(**HAVE, binary=binary, gpus=("/dev/nvidia0",))
    chosen, known = profile("llama", options={"fit": fit}), inventory(LLAMA)
    (asked,) = questions(chosen, known, binary, {}, {})

    def build():
        return build_plan(
            host_name="gpu1",
            profile=chosen,
            inventory=known,
            host=on,
            settings=settings(),
            scan_paths=("/models",),
            needs={asked.key: Told(rows(0.1, 0, 0, CUDA0=4))},
        )

    if fit == "on":
        assert build().names("start") == ("llama",)
    else:
        with pytest.raises(DoesNotFit, match=r"it needs 4\.6 GiB of CUDA0, 512 MiB are left, 4\.1 GiB are missing"):
            build()


@pytest.mark.parametrize(
    ("below", "limit", "found"),
    [(8192, 5000, 4864), (8192, 8192, 7936), (8192, 0, 0), (256, 9999, 0), (0, 9999, 0)],
)
def test_the_largest_context_that_fits(below, limit, found):
    assert largest_context(below, lambda context: context <= limit) == found
