from __future__ import annotations

import dataclasses
import json

import pytest
from ansible_collections.magi.models.plugins.module_utils._host.values import Running
from ansible_collections.magi.models.plugins.module_utils._models.model import FileVersion
from ansible_collections.magi.models.plugins.module_utils._plan.build import AskedForError, Plan, PlanError, build_plan
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import (
    BINARY,
    MODELS,
    foreign,
    host,
    model,
    profile,
    registry,
    running,
    settings,
)


def plan(*entries, models=None, rejected=(), on=None, with_settings=None, **more):
    return build_plan(
        host_name="gpu1",
        profile=profile(*entries, **more),
        registry=registry(*(models or ()), rejected=rejected),
        host=on or host(),
        settings=with_settings or settings(),
    )


def names(value):
    return [item.name for item in value.instances]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (["*"], ["a-q2_k", "b-q3_k_m", "c-q4_k_m", "d-q4_1"]),
        ([{"tier": "Q4"}], ["c-q4_k_m", "d-q4_1"]),
        ([{"tier": "q4"}, "a-*"], ["c-q4_k_m", "d-q4_1", "a-q2_k"]),
        # selectors enable a model once
        ([{"tier": "Q4"}, "*-q4_*", "*"], ["c-q4_k_m", "d-q4_1", "a-q2_k", "b-q3_k_m"]),
        # exact names add up
        (["a-q2_k", "a-q2_k"], ["a-q2_k", "a-q2_k-2"]),
        (["a-q2_k", {"model": "a-q2_k", "instances": 2}], ["a-q2_k", "a-q2_k-2", "a-q2_k-3"]),
        # and an exact entry speaks for its model, wherever it stands
        (["*", {"model": "c-q4_k_m", "options": {"ctx_size": 1}}], ["a-q2_k", "b-q3_k_m", "d-q4_1", "c-q4_k_m"]),
        ([{"model": "*-q2_k", "instances": 2}], ["a-q2_k", "a-q2_k-2"]),
    ],
)
def test_what_a_profile_enables_in_its_order(entries, expected):
    assert names(plan(*entries)) == expected


@pytest.mark.parametrize(
    ("entry", "rejected", "said"),
    [
        ("nope", (), "Profile test, entry 2 (nope): no such model on gpu1; playbooks/discover.yml lists"),
        ("b-q3_k_s", (), "no such model on gpu1; did you mean b-q3_k_m? playbooks/discover.yml lists"),
        # of another model, whose name only begins alike
        ("llama-70b-q4_k_m", [{"id": "llama-7", "path": "/L.gguf", "code": "x", "reason": "no."}], "no such model on"),
        ("llama-7-q4_k_m", [{"id": "llama-7", "path": "/L.gguf", "code": "x", "reason": "L is short."}], "L is short."),
        ({"tier": "Q8"}, (), "Profile test, entry 2 (tier Q8): matches no model on gpu1."),
        ("z-*", (), "entry 2 (z-*)"),
        (
            "broken-*",
            [
                {"id": "broken-q4_k_m", "path": "/models/B.gguf", "code": "truncated", "reason": "B.gguf is short."},
                {"id": "other-q4_k_m", "path": "/models/O.gguf", "code": "truncated", "reason": "O.gguf is short."},
            ],
            "entry 2 (broken-*): matches no model on gpu1. Set aside: B.gguf is short.",
        ),
        (
            "broken-q4_k_m",
            [
                {
                    "id": "broken-q4_k_m",
                    "path": "/models/B.gguf",
                    "code": "truncated",
                    "reason": "/models/B.gguf is short.",
                }
            ],
            "set aside on gpu1: /models/B.gguf is short.",
        ),
    ],
)
def test_what_is_missing_is_named_and_the_rest_goes_on(entry, rejected, said):
    value = plan("a-q2_k", entry, rejected=rejected)
    assert names(value) == ["a-q2_k"]
    assert len(value.degraded) == 1
    assert said in value.degraded[0]


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


@pytest.mark.parametrize(
    "evil", [{"path": "/models/evil\x1b.gguf"}, {"mmproj": FileVersion("/models/\ufffe.gguf", 1, 1)}]
)
def test_a_file_name_that_no_service_file_can_hold_is_left_out(evil):
    value = plan("*", models=[*MODELS, model("evil-q4_0", **evil)])
    assert "evil-q4_0" not in names(value)
    assert "rename it" in value.degraded[0]


def test_two_instances_of_one_name_are_refused():
    with pytest.raises(PlanError, match="the instance name a-q2_k-2 is also"):
        plan("a-q2_k", "a-q2_k", models=[*MODELS, model("a-q2_k-2", "Q2")])


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
        "LLAMA_ARG_ENDPOINT_METRICS": "1",
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
        "MAGI_THREADS": "shared",
        "MAGI_TIER": "Q2",
        "OMP_WAIT_POLICY": "passive",
    }
    assert instance.url == "http://127.0.0.1:8080"
    # host is the inventory's name for it, here as in a report
    assert {key: value for key, value in instance.to_dict().items() if key in ("address", "host")} == {
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
        (None, {}, None, "restart"),
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
        # an instance on a GPU keeps one core busy; one that is kept off it computes on the rest
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


# --- ports -----------------------------------------------------------------------------------------------------------


def ports(value):
    return {item.name: item.port for item in value.instances}


def test_ports_are_given_in_order_around_what_others_hold():
    value = plan("*", on=host(listeners=(foreign(8081), foreign(8082, "10.9.9.9"))))
    assert list(ports(value).values()) == [8080, 8082, 8083, 8084]
    assert value.notes == ("Port 8081 is taken by process 4242 (nc -l) and was left out.",)


def test_a_fixed_port_comes_first_and_is_the_first_instance_s():
    value = plan("d-q4_1", {"model": "a-q2_k", "instances": 2, "port": 8080})
    assert ports(value) == {"d-q4_1": 8081, "a-q2_k": 8080, "a-q2_k-2": 8082}


def test_an_instance_keeps_the_port_that_it_holds():
    first = plan("a-q2_k", "d-q4_1")
    now = host(*(running(item) for item in first.instances))
    assert ports(plan("d-q4_1", "a-q2_k", "b-q3_k_m", on=now)) == {"d-q4_1": 8081, "a-q2_k": 8080, "b-q3_k_m": 8082}


def test_a_port_outside_the_range_is_given_up():
    assert ports(plan("a-q2_k", on=host(Running("a-q2_k", "running", 1, 9999)))) == {"a-q2_k": 8080}


@pytest.mark.parametrize(
    ("entries", "on", "with_settings", "said"),
    [
        (
            [{"model": "a-q2_k", "port": 8081}],
            host(listeners=(foreign(8081),)),
            None,
            "Host gpu1: port 8081 of a-q2_k is taken by process 4242 (nc -l)",
        ),
        (
            ["a-q2_k"],
            host(Running("a-q2_k", "stopped", None, 8081), listeners=(foreign(8081),)),
            None,
            "port 8081 of a-q2_k is taken",
        ),
        (
            [{"model": "a-q2_k", "port": 8081}, {"model": "d-q4_1", "port": 8081}],
            None,
            None,
            "port 8081 is fixed for both a-q2_k and d-q4_1",
        ),
        (
            ["*"],
            host(listeners=(foreign(8081, "0.0.0.0"),)),
            settings(port_range=(8080, 8083)),
            "no free port for d-q4_1 in 8080-8083 (taken: 8081 by process 4242 (nc -l)); widen",
        ),
    ],
)
def test_a_port_that_can_not_be_had_is_named(entries, on, with_settings, said):
    with pytest.raises(PlanError) as error:
        plan(*entries, on=on, with_settings=with_settings)
    assert said in str(error.value)


# --- actions ---------------------------------------------------------------------------------------------------------

FIRST = plan("a-q2_k").instances[0]


def failed(**more):
    return running(FIRST, **{"state": "failed", "pid": None, "exit_status": "exit status 1", **more})


@pytest.mark.parametrize(
    ("now", "action", "reason"),
    [
        (None, "start", "new in this profile"),
        (running(FIRST), "keep", "runs as desired"),
        (running(FIRST, state="starting"), "keep", "runs as desired"),
        (running(FIRST, keys_changed=True), "restart", "its file of API keys was changed after it started"),
        (running(FIRST, state="stopped", pid=None), "start", "was stopped"),
        # started from an older file: what is desired was not tried yet
        (failed(config_hash=None), "start", "was failed (exit status 1)"),
        (failed(config_hash="x"), "start", "was failed (exit status 1)"),
        (failed(), "quarantine", "failed with just this configuration (exit status 1)"),
        (
            failed(log=("error: invalid argument: --x",)),
            "quarantine",
            "failed with just this configuration (exit status 1)",
        ),
        # mended where no hash shows it
        (
            failed(log=("couldn't bind HTTP server socket, hostname: ::, port: 1",)),
            "start",
            "was failed (exit status 1)",
        ),
        (running(FIRST, state="orphaned", pid=7), "restart", "process 7 runs outside its service manager"),
        (
            running(FIRST, config_hash="x"),
            "restart",
            "its model file, arguments or llama-server changed",
        ),
        (
            running(
                FIRST,
                config_hash="x",
                environment={**running(FIRST).environment, "LLAMA_ARG_CTX_SIZE": "9", "LLAMA_ARG_THREADS": "1"},
            ),
            "restart",
            "ctx_size 9 → unset",
        ),
    ],
)
def test_running_is_compared_with_desired(now, action, reason):
    value = plan("a-q2_k", on=host(*([now] if now else [])))
    assert [(item.action, item.reason) for item in value.actions] == [(action, reason)]


def test_a_quarantined_instance_is_tried_again_when_it_is_asked_for():
    value = plan("a-q2_k", on=host(failed()), with_settings=settings(retry_quarantined=True))
    assert [item.action for item in value.actions] == ["start"]


def test_what_is_not_enabled_is_stopped():
    value = plan("d-q4_1", on=host(running(FIRST)))
    assert [(item.instance, item.action) for item in value.actions] == [("d-q4_1", "start"), ("a-q2_k", "stop")]
    assert value.actions[1].reason == "not enabled by profile test"


def test_switching_profiles_keeps_what_both_enable_though_its_share_changes():
    both = plan("*")
    value = plan("a-q2_k", on=host(*(running(item) for item in both.instances)))
    assert value.names("keep") == ("a-q2_k",)
    assert value.names("stop") == ("b-q3_k_m", "c-q4_k_m", "d-q4_1")
    assert value.notes == ("a-q2_k keeps 2 threads until its next restart; its share is now 8.",)


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
        on=host(manager="systemd"),
        resources={"memory_max": "8G", "nice": 9},
        with_settings=settings(resources={"memory_max": "4G"}),
    )
    first, second = value.instances
    assert first.resources == {"memory_max": "4G", "nice": "1"}
    assert first.environment["MAGI_RESOURCES"] == "memory_max=4G nice=1"
    assert second.resources == {"memory_max": "4G", "nice": "9"}
    assert not value.warnings
    # limits that change restart the instance, and say so
    now = host(running(first, environment=dict(first.environment)), manager="systemd")
    (action,) = plan({"model": "a-q2_k", "resources": {"nice": 2}}, on=now).actions
    assert (action.action, action.reason) == ("restart", "resources memory_max=4G nice=1 → nice=2")


def test_limits_that_the_manager_can_not_hold_are_warned_of():
    (warning,) = plan({"model": "a-q2_k", "resources": {"memory_max": "1G"}}, on=host(manager="supervisor")).warnings
    assert warning.startswith("Host gpu1: supervisor can't hold the resources of a-q2_k")


def test_a_relative_path_of_api_keys_is_refused():
    with pytest.raises(PlanError, match=r"api_key_file must be an absolute path on the host, not 'keys'"):
        plan("a-q2_k", options={"api_key_file": "keys"})


def test_a_configuration_that_is_silently_read_is_warned_of():
    value = plan("a-q2_k", on=host(silent_configs=("/etc/llama.cpp/config.ini",)))
    assert "/etc/llama.cpp/config.ini" in value.warnings[0]


def test_a_plan_survives_the_way_through_json():
    value = plan("*", "nope", on=host(running(FIRST)))
    assert Plan.from_dict(json.loads(json.dumps(value.to_dict()))) == value
