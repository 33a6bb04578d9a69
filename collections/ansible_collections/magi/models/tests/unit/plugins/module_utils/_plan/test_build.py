from __future__ import annotations

import dataclasses
import json

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._host.values import Unreadable
from ansible_collections.magi.models.plugins.module_utils._llama.options import Option
from ansible_collections.magi.models.plugins.module_utils._models.model import FileVersion
from ansible_collections.magi.models.plugins.module_utils._plan.layers import option_sets
from ansible_collections.magi.models.plugins.module_utils._plan.values import AskedForError, Plan, PlanError
from ansible_collections.magi.models.plugins.module_utils._services.values import Capabilities
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import (
    BINARY,
    host,
    model,
    plan,
    profile,
    running,
    settings,
)


def test_nothing_available_is_an_error():
    with pytest.raises(PlanError, match="nothing that profile test enables is available"):
        plan("nope")


@pytest.mark.parametrize("more", [{"strict": True}, {"with_settings": dataclasses.replace(settings(), strict=True)}])
def test_strict_makes_a_missing_model_an_error(more):
    with pytest.raises(PlanError, match="strict is set"):
        plan("a-q2_k", "nope", **more)


def test_no_binary_is_an_error():
    with pytest.raises(PlanError, match="Host gpu1: there is none"):
        plan("*", on=host(binary=None, binary_error="there is none"))


# --- options ---------------------------------------------------------------------------------------------------------


def test_profile_under_host_under_entry():
    value = plan(
        {"model": "a-q2_k", "options": {"ctx_size": 3}},
        "d-q4_1",
        options={"ctx_size": 1, "parallel": 1, "ubatch_size": 1},
        with_settings=settings(options={"ctx_size": 2, "parallel": 2}),
    )
    chosen = [
        {name: item.options.get(name) for name in ("ctx_size", "parallel", "ubatch_size")} for item in value.instances
    ]
    assert chosen == [
        {"ctx_size": "3", "parallel": "2", "ubatch_size": "1"},
        {"ctx_size": "2", "parallel": "2", "ubatch_size": "1"},
    ]


def test_an_unknown_option_names_profile_entry_build_and_the_nearest():
    with pytest.raises(AskedForError) as error:
        plan("d-q4_1", {"model": "a-q2_k", "options": {"ctx_sise": 3}})
    assert str(error.value) == (
        "Host gpu1: Profile test, entry 2 (a-q2_k): llama-server (11434) has no option ctx_sise; did you mean ctx_size?"
    )


def test_an_instance_has_what_its_process_needs():
    instance = plan("a-q2_k").instances[0]
    assert instance.environment == {
        "LLAMA_ARG_ALIAS": "a-q2_k",
        "LLAMA_ARG_CACHE_RAM": "2048",
        "LLAMA_ARG_ENDPOINT_METRICS": "1",
        "LLAMA_ARG_FIT": "off",
        "LLAMA_ARG_HOST": "127.0.0.1",
        "LLAMA_ARG_MODEL": "/models/a-q2_k.gguf",
        "LLAMA_ARG_OFFLINE": "1",
        "LLAMA_ARG_PORT": "8080",
        "LLAMA_ARG_THREADS": "8",
        "MAGI_CONFIG_HASH": instance.config_hash,
        "MAGI_DISPLAY_NAME": "A-Q2_K",
        "MAGI_HOME": "/srv/magi",
        "MAGI_INSTANCE": "a-q2_k",
        "MAGI_MODEL_ID": "a-q2_k",
        "MAGI_PROMPTS": "shared",
        "MAGI_THREADS": "shared",
        "MAGI_TIER": "Q2",
        "MAGI_TASK": "chat",
        "OMP_WAIT_POLICY": "passive",
    }
    # host is the inventory's name for it, here as in a report
    assert {key: value for key, value in dataclasses.asdict(instance).items() if key in ("address", "host")} == {
        "address": "127.0.0.1"
    }


PROJECTOR = FileVersion("/models/mmproj.gguf", 10, 5)


@pytest.mark.parametrize(
    ("projector", "options", "served", "action"),
    [
        (PROJECTOR, {}, "/models/mmproj.gguf", "keep"),
        (dataclasses.replace(PROJECTOR, size=11), {}, "/models/mmproj.gguf", "restart"),
        (dataclasses.replace(PROJECTOR, mtime_ns=6), {}, "/models/mmproj.gguf", "restart"),
        (dataclasses.replace(PROJECTOR, path="/models/mmproj-2.gguf"), {}, "/models/mmproj-2.gguf", "restart"),
        (PROJECTOR, {"mmproj": "/models/other.gguf"}, "/models/other.gguf", "restart"),
    ],
)
def test_a_projector_comes_with_its_model_and_restarts_it_when_it_changes(projector, options, served, action):
    (first,) = plan("v-q4_0", models=[model("v-q4_0", mmproj=PROJECTOR)]).instances
    models = [model("v-q4_0", mmproj=projector)]
    value = plan("v-q4_0", models=models, options=options, on=host(running(first)))
    assert value.instances[0].environment.get("LLAMA_ARG_MMPROJ") == served
    assert value.names(action) == ("v-q4_0",)


def test_a_projector_that_a_profile_replaces_is_not_what_the_server_is_made_of():
    (first, second) = (
        plan("v-q4_0", models=[model("v-q4_0", mmproj=projector)], options={"mmproj": "/other.gguf"}).instances[0]
        for projector in (PROJECTOR, dataclasses.replace(PROJECTOR, size=11))
    )
    assert first == second


# --- cores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "gpu", "threads"),
    [
        (["*"], False, ["2", "2", "2", "2"]),
        ([{"model": "a-q2_k", "options": {"threads": 6}}, "d-q4_1"], False, ["6", "2"]),
        # an instance on a GPU keeps one core busy; one kept off the GPU computes on the rest
        ([{"model": "a-q2_k", "options": {"n_gpu_layers": 0}}, "d-q4_1"], True, ["7", None]),
    ],
)
def test_cores_are_shared_out(entries, gpu, threads):
    value = plan(*entries, on=with_gpu(("/dev/nvidia0",), ("CUDA0",)) if gpu else None)
    assert [item.environment.get("LLAMA_ARG_THREADS") for item in value.instances] == threads


def with_gpu(nodes, devices):
    return host(gpus=nodes, binary=dataclasses.replace(BINARY, devices=devices))


@pytest.mark.parametrize(
    ("nodes", "devices", "gpu"),
    [
        (("/dev/nvidia0",), ("CUDA0",), True),
        (("/dev/dri/renderD128",), (), False),  # a build for the CPU alone, on a laptop
        ((), ("CUDA0",), False),
        (("/dev/nvidia0",), None, True),  # a build that can't list its devices
        ((), None, False),
    ],
)
def test_a_gpu_counts_where_llama_server_can_compute_on_it(nodes, devices, gpu):
    value = plan("a-q2_k", on=with_gpu(nodes, devices))
    assert (value.gpu, value.instances[0].threads) == (gpu, None if gpu else 8)


FIRST = plan("a-q2_k").instances[0]

# --- warnings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "options", "warned"),
    [
        ("127.0.0.1", {}, False),
        ("127.8.0.1", {}, False),
        ("127.0.0.1,10.0.0.1", {}, True),
        ("/run/a.sock", {}, False),
        ("0.0.0.0", {}, True),
        ("10.0.0.1", {}, True),
        ("0.0.0.0", {"api_key_file": "/etc/keys"}, False),
    ],
)
def test_an_open_server_without_a_key_is_warned_of(address, options, warned):
    value = plan("a-q2_k", options=options, with_settings=settings(host=address))
    assert bool(value.warnings) is warned


@pytest.mark.parametrize(
    ("of_profile", "warned"),
    [({}, "the group all has an api_key_file"), ({"api_key_file": "/etc/keys"}, None)],
)
def test_a_host_that_hides_its_group_s_api_keys_is_warned_of(of_profile, warned):
    value = plan("a-q2_k", options=of_profile, with_settings=settings(key_hidden_from="all"))
    assert len(value.warnings) == bool(warned)
    assert (warned or "") in " ".join(value.warnings)


def test_a_file_of_api_keys_is_known_by_its_own_path_wherever_the_server_gets_it():
    (instance,) = plan("a-q2_k", options={"api_key_file": "/etc/keys"}).instances
    assert instance.api_key_file == "/etc/keys"
    as_credential = {**instance.environment, "LLAMA_ARG_API_KEY_FILE": "/run/credentials/a/api-keys"}
    now = running(instance, environment=as_credential)
    assert plan("a-q2_k", options={"api_key_file": "/etc/keys"}, on=host(now)).actions[0].action == "keep"
    (action,) = plan("a-q2_k", options={"api_key_file": "/etc/other"}, on=host(now)).actions
    assert (action.action, action.reason) == ("restart", "api_key_file /etc/keys → /etc/other")


def test_limits_of_the_profile_the_host_and_the_entry_reach_the_instance():
    entry = {"model": "a-q2_k", "resources": {"nice": 1}}
    value = plan(
        entry,
        "d-q4_1",
        on=host(manager="systemd", can=Capabilities(limits=True)),
        resources={"memory_max": "8G", "nice": 9},
        with_settings=settings(resources={"memory_max": "4G"}),
    )
    first, second = value.instances
    assert first.resources == {"memory_max": "4G", "nice": "1"}
    assert first.environment["MAGI_RESOURCES"] == "memory_max=4G nice=1"
    assert second.resources == {"memory_max": "4G", "nice": "9"}
    assert not value.warnings
    # changed limits restart the instance, and the reason says so
    now = host(running(first, environment=dict(first.environment)), manager="systemd", can=Capabilities(limits=True))
    (action,) = plan({"model": "a-q2_k", "resources": {"nice": 2}}, on=now).actions
    assert (action.action, action.reason) == ("restart", "resources memory_max=4G nice=1 → nice=2")


def test_limits_that_the_manager_can_not_hold_are_warned_of():
    (warning,) = plan({"model": "a-q2_k", "resources": {"memory_max": "1G"}}, on=host(manager="supervisor")).warnings
    assert warning.startswith("Host gpu1: supervisor can't apply the resources of a-q2_k")


def test_a_relative_path_of_api_keys_is_refused():
    with pytest.raises(PlanError, match=r"api_key_file must be an absolute path on the host, not 'keys'"):
        plan("a-q2_k", options={"api_key_file": "keys"})


def test_a_configuration_that_is_silently_read_is_warned_of():
    value = plan("a-q2_k", on=host(silent_configs=("/etc/llama.cpp/config.ini",)))
    assert "/etc/llama.cpp/config.ini" in value.warnings[0]


def test_a_plan_survives_the_way_through_json():
    value = plan("*", "nope", on=host(running(FIRST)))
    assert Plan.from_dict(json.loads(json.dumps(value.to_dict()))) == value


def test_an_instance_whose_file_can_not_be_read_any_more_is_warned_of():
    """An instance that is kept goes on serving: it has the file open."""
    shut = Unreadable("/models/a-q2_k.gguf", "-rw-------", ("/models/a-q2_k.gguf",))
    first = plan("a-q2_k", on=host())
    now = host(running(first.instances[0]), unreadable=(shut,), can=Capabilities(own_user=True))
    value = plan("a-q2_k", on=now)
    assert value.names(ActionKind.KEEP) == ("a-q2_k",)
    (warning,) = value.warnings
    assert warning.startswith("Host gpu1: a-q2_k can't be started: /models/a-q2_k.gguf (-rw-------) is not readable")
    assert warning.endswith("chmod o+r /models/a-q2_k.gguf.")


def test_a_model_that_would_cover_a_folder_of_the_image_is_left_out():
    covered = Unreadable("/tmp", "covered", ("/models/a-q2_k.gguf",))
    value = plan("a-q2_k", "d-q4_1", on=host(unreadable=(covered,), can=Capabilities(image=True)))
    assert [item.name for item in value.instances] == ["d-q4_1"]
    (said,) = value.degraded
    assert said.endswith(
        "a-q2_k on gpu1: /tmp has /models/a-q2_k.gguf, and would cover that folder of the image; move it to a folder "
        "of its own."
    )


def test_variables_of_the_profile_the_host_and_the_entry_reach_the_process():
    value = plan(
        {"model": "a-q2_k", "environment": {"A": "3", "D": None, "E": "3", "F": "3"}},
        "d-q4_1",
        environment={"A": "1", "B": "1", "D": "1", "E": "1", "OMP_WAIT_POLICY": "active"},
        with_settings=settings(environment={"A": "2", "C": "2", "F": None}),
    )
    first, second = value.instances
    assert [first.environment.get(name) for name in "ABCDEF"] == ["2", "1", "2", None, "3", None]
    assert [second.environment.get(name) for name in "ABCDEF"] == ["2", "1", "2", "1", "1", None]
    assert first.environment["OMP_WAIT_POLICY"] == "active"
    # a change restarts the instance, and the reason says what changed
    now = host(running(second, environment=dict(second.environment)))
    (action,) = plan("d-q4_1", environment={"A": "9"}, on=now).actions
    assert action.action == "restart"
    assert action.reason.startswith("environment A=2 B=1 C=2 D=1 E=1 OMP_WAIT_POLICY=active → A=9")


def test_a_variable_that_no_service_file_can_hold_is_refused():
    with pytest.raises(AskedForError, match="the variable A has control characters"):
        plan("a-q2_k", environment={"A": "\x1b"})


def test_aliases_reach_the_server():
    value = plan({"model": "a-q2_k", "instances": 2, "aliases": ["chat", "gpt-4o-mini"]})
    assert [item.environment["LLAMA_ARG_ALIAS"] for item in value.instances] == [
        "a-q2_k,chat,gpt-4o-mini",
        "a-q2_k-2,chat,gpt-4o-mini",
    ]
    assert value.instances[1].aliases == ("chat", "gpt-4o-mini")


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([{"tier": "Q4", "aliases": ["chat"]}], "alias chat of d-q4_1 is also a name of c-q4_k_m"),
        ([{"model": "a-q2_k", "aliases": ["d-q4_1"]}], "alias d-q4_1 of a-q2_k is also a name of d-q4_1"),
        ([{"model": "a-*", "aliases": ["b-q3_k_m"]}], "alias b-q3_k_m of a-q2_k is also a name of b-q3_k_m"),
    ],
)
def test_an_alias_is_the_name_of_one_model(entries, said):
    with pytest.raises(AskedForError) as error:
        plan(*entries)
    assert said in str(error.value)


def test_options_that_the_host_s_build_refused_are_named_before_anything_changes():
    entry = {"model": "a-q2_k", "options": {"cache_type_k": "q9_0"}}
    assert option_sets(profile("d-q4_1", entry, options={"parallel": 2}), {"ctx-size": 1, "api_key_file": "/k"}) == [
        {"parallel": 2, "ctx_size": 1},
        {"parallel": 2, "ctx_size": 1, "cache_type_k": "q9_0"},
    ]
    with pytest.raises(AskedForError) as error:
        plan("d-q4_1", entry, on=host(refused=("Unsupported cache type: q9_0",)))
    assert str(error.value) == (
        "Host gpu1: Profile test, entry 2 (a-q2_k): llama-server (11434) refuses its options, with those of profile and "
        "host: Unsupported cache type: q9_0; correct them."
    )
    assert plan("d-q4_1", entry, on=host(refused=("",))).degraded == ()


# --- tasks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "options", "variables"),
    [
        ("chat", {}, {}),
        ("embedding", {}, {"LLAMA_ARG_EMBEDDINGS": "1"}),
        ("rerank", {}, {"LLAMA_ARG_RERANKING": "1"}),
        ("embedding", {"embeddings": False}, {"LLAMA_ARG_EMBEDDINGS": "0"}),
        ("embedding", {"embedding": False}, {"LLAMA_ARG_EMBEDDINGS": "0"}),
    ],
)
def test_embedders_and_rerankers_get_the_option_that_they_need(task, options, variables):
    (instance,) = plan("e-q4_0", models=[model("e-q4_0", task=task)], options=options).instances
    wanted = ("LLAMA_ARG_EMBEDDINGS", "LLAMA_ARG_RERANKING")
    assert {name: instance.environment[name] for name in wanted if name in instance.environment} == variables
    assert (instance.task, instance.environment["MAGI_TASK"]) == (task, task)


def test_a_build_that_calls_the_option_otherwise_gets_its_own_name():
    options = [option for option in BINARY.options if "embeddings" not in option.names]
    older = Option("embedding", ("embedding", "embeddings"), ("--embedding",), "LLAMA_ARG_EMBEDDINGS", False)
    binary = dataclasses.replace(BINARY, options=(*options, older))
    (instance,) = plan("e-q4_0", models=[model("e-q4_0", task="embedding")], on=host(binary=binary)).instances
    assert instance.options["embedding"] is True


def test_a_server_that_may_sleep_is_told_when():
    value = plan({"model": "a-q2_k", "idle": "10m"}, "b-q3_k_m")
    first, second = value.instances
    assert first.extra_args == ("--sleep-idle-seconds", "600")
    assert first.environment["MAGI_IDLE"] == "600"
    assert second.extra_args == ()
    assert "MAGI_IDLE" not in second.environment
    awake = plan({"model": "a-q2_k"}).instances[0]
    changed = plan({"model": "a-q2_k", "idle": "10m"}, on=host(running(awake)))
    assert [(item.action, item.reason) for item in changed.actions] == [("restart", "idle unset → 600")]
    # the option is the same thing, and takes it back
    assert (
        plan({"model": "a-q2_k", "options": {"sleep_idle_seconds": 600}}).instances[0].config_hash == first.config_hash
    )
    never = plan({"model": "a-q2_k", "idle": "10m", "options": {"sleep_idle_seconds": -1}}).instances[0]
    assert "MAGI_IDLE" not in never.environment


def test_a_build_that_can_not_sleep_is_named():
    older = dataclasses.replace(
        BINARY, options=tuple(item for item in BINARY.options if item.name != "sleep_idle_seconds")
    )
    with pytest.raises(AskedForError) as error:
        plan({"model": "a-q2_k", "idle": "10m"}, on=host(binary=older))
    assert str(error.value) == (
        "Host gpu1: Profile test, entry 1 (a-q2_k): llama-server (11434) has no option sleep_idle_seconds; idle needs "
        "it: install a later build, or take idle out."
    )
