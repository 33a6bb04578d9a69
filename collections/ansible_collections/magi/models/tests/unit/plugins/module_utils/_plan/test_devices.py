from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._plan.layers import option_sets
from ansible_collections.magi.models.plugins.module_utils._plan.values import AskedForError, PlanError
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import (
    BINARY,
    host,
    plan,
    profile,
    running,
    settings,
)

SAID = "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected"
NODE = ("/dev/nvidia0",)


def gpu_host(*instances, devices=("CUDA0",), own_choice=None, said="", nodes=NODE, **more):
    own_choice = (devices or ()) if own_choice is None else own_choice
    binary = replace(BINARY, devices=devices, default_devices=own_choice, no_gpu=said)
    return host(*instances, gpus=nodes, binary=binary, **more)


def lost_host(*instances, **more):
    return gpu_host(*instances, **{"devices": (), "said": SAID, **more})


def named(value):
    """Return what each instance is told, and what its host has for it."""
    return [(i.environment.get("LLAMA_ARG_DEVICE"), i.environment.get("MAGI_GPU")) for i in value.instances]


@pytest.mark.parametrize(
    ("on", "expected"),
    [
        (gpu_host(), ("CUDA0", "CUDA0")),
        (gpu_host(devices=("CUDA0", "CUDA1")), ("CUDA0,CUDA1", "CUDA0,CUDA1")),
        (gpu_host(devices=("ROCm0", "ROCm1"), own_choice=()), (None, "ROCm0,ROCm1")),  # which of them, it does not tell
        (gpu_host(devices=None), (None, None)),  # a build that can't list them
        (gpu_host(nodes=()), (None, None)),
        (gpu_host(nodes=(), devices=("RPC0",)), ("RPC0", "RPC0")),  # a device of another host has no node here
        (lost_host(), (None, None)),
        (host(), (None, None)),
    ],
)
def test_a_server_is_told_the_devices_that_it_would_take_by_itself(on, expected):
    assert named(plan("a-q2_k", on=on)) == [expected]


@pytest.mark.parametrize(
    ("entry", "of_host", "expected"),
    [
        ({"device": "CUDA1"}, {}, ("CUDA1", "CUDA0")),
        ({}, {"device": "CUDA1"}, ("CUDA1", "CUDA0")),
        ({"device": "none"}, {}, ("none", None)),
        ({"n_gpu_layers": 0}, {}, (None, None)),
        ({}, {"n_gpu_layers": 99}, ("CUDA0", "CUDA0")),
        ({"rpc": "10.0.0.2:50052"}, {}, (None, "CUDA0")),  # other hosts' devices come first
        ({"split_mode": "none", "main_gpu": 0}, {}, ("CUDA0", "CUDA0")),
    ],
)
def test_what_somebody_chose_counts(entry, of_host, expected):
    value = plan({"model": "a-q2_k", "options": entry}, on=gpu_host(), with_settings=settings(options=of_host))
    assert named(value) == [expected]


@pytest.mark.parametrize(
    ("of_profile", "of_host", "entry", "expected"),
    [
        ({"CUDA_VISIBLE_DEVICES": "1"}, {}, {}, None),
        ({}, {}, {"ROCR_VISIBLE_DEVICES": "1"}, None),
        ({"GGML_VK_VISIBLE_DEVICES": "1"}, {}, {}, None),
        ({"HSA_OVERRIDE_GFX_VERSION": "11.0.0"}, {}, {}, None),
        ({"LD_LIBRARY_PATH": "/opt/rocm/lib"}, {}, {}, None),
        # llama-server was asked with the host's, so it listed what its servers see
        ({}, {"CUDA_VISIBLE_DEVICES": "1"}, {}, "CUDA0"),
        ({"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}, {}, "CUDA0"),
        ({}, {"CUDA_VISIBLE_DEVICES": "1"}, {"CUDA_VISIBLE_DEVICES": "0"}, "CUDA0"),
        ({}, {"CUDA_VISIBLE_DEVICES": "1"}, {"CUDA_VISIBLE_DEVICES": None}, "CUDA0"),
        ({}, {"CUDA_VISIBLE_DEVICES": None}, {"CUDA_VISIBLE_DEVICES": "0"}, "CUDA0"),
        ({}, {"CUDA_VISIBLE_DEVICES": "1"}, {"ROCR_VISIBLE_DEVICES": "0"}, None),
        # these choose no device
        ({"GGML_CUDA_ENABLE_UNIFIED_MEMORY": "1"}, {}, {"OMP_PROC_BIND": "true"}, "CUDA0"),
    ],
)
def test_one_that_may_see_other_devices_is_told_none(of_profile, of_host, entry, expected):
    value = plan(
        {"model": "a-q2_k", "environment": entry},
        environment=of_profile,
        on=gpu_host(),
        with_settings=settings(environment=of_host),
    )
    assert named(value) == [(expected, "CUDA0")]


@pytest.mark.parametrize("value", ["", "-1"])
@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES"])
def test_one_that_is_to_see_no_device_is_meant_for_none(name, value):
    assert named(plan({"model": "a-q2_k", "environment": {name: value}}, on=gpu_host())) == [(None, None)]


(INSTANCE,) = plan("a-q2_k", on=gpu_host()).instances
(UNNAMED,) = plan("a-q2_k", on=gpu_host(own_choice=())).instances


@pytest.mark.parametrize(
    ("now", "on", "action", "reason"),
    [
        (running(INSTANCE), gpu_host(), "keep", "runs as desired"),
        (running(UNNAMED), gpu_host(), "restart", "device unset → CUDA0"),
        (running(INSTANCE), gpu_host(devices=("CUDA0", "CUDA1")), "restart", "device CUDA0 → CUDA0,CUDA1"),
        # it did not find its GPU at its start; now that is there
        (running(UNNAMED, fell_back=SAID), gpu_host(own_choice=()), "restart", "computes on the CPU, and CUDA0 can"),
        (running(UNNAMED), gpu_host(own_choice=()), "keep", "runs as desired"),
        # a GPU more in the list restarts nothing that was not told its name
        (running(UNNAMED), gpu_host(devices=("CUDA0", "Vulkan0"), own_choice=()), "keep", "runs as desired"),
        # a start without the GPU fails for now, not for good
        (
            running(INSTANCE, state="failed", pid=None, log=("invalid device: CUDA0",), exit_status="exit status 1"),
            gpu_host(),
            "start",
            "was failed",
        ),
    ],
)
def test_what_runs_is_compared(now, on, action, reason):
    (one,) = plan("a-q2_k", on=replace(on, instances=(now,))).actions
    assert one.action == action
    assert reason in one.reason


# --- a host whose GPU is gone ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "on",
    [
        lost_host(),
        lost_host(said=""),  # a build with its backends in files of their own says nothing
        lost_host(nodes=(), said=""),
        gpu_host(devices=None),  # the driver hangs
    ],
)
@pytest.mark.parametrize("options", [{}, {"ctx_size": 4096}])
@pytest.mark.parametrize("instance", [INSTANCE, UNNAMED])
def test_a_server_that_runs_is_left_as_it_runs(on, options, instance):
    now = running(instance)
    value = plan({"model": "a-q2_k", "options": options}, on=replace(on, instances=(now,)))
    (one,) = value.actions
    assert (one.action, value.instances) == (ActionKind.KEEP, ())
    assert [item.environment for item in value.kept] == [now.environment]
    assert value.gpu  # its unit keeps its way to the GPU
    (sentence,) = value.degraded
    assert sentence.startswith("Host gpu1: a-q2_k runs on as it is: llama-server lists no GPU now")
    assert "or set n_gpu_layers: 0 to move it to the CPU" in sentence


@pytest.mark.parametrize("options", [{"n_gpu_layers": 0}, {"device": "none"}])
def test_one_that_is_to_leave_the_gpu_does(options):
    value = plan({"model": "a-q2_k", "options": options}, on=lost_host(running(INSTANCE)))
    assert [(item.action, item.instance) for item in value.actions] == [(ActionKind.RESTART, "a-q2_k")]
    assert (named(value)[0][1], value.degraded) == (None, ())


def test_the_others_go_on_beside_one_that_is_left():
    now = running(INSTANCE, port=8080)
    value = plan("*", {"model": "a-q2_k"}, on=lost_host(now))
    assert {item.instance: item.action for item in value.actions} == {
        "a-q2_k": "keep",
        "b-q3_k_m": "start",
        "c-q4_k_m": "start",
        "d-q4_1": "start",
    }
    assert 8080 not in {item.port for item in value.instances}


FAILED = {"state": "failed", "pid": None, "log": ("invalid device: CUDA0",), "exit_status": "exit status 1"}


@pytest.mark.parametrize(
    ("now", "on", "device", "said"),
    [
        (None, lost_host(), None, f"a-q2_k computes on the CPU, since llama-server lists no GPU now ({SAID}); see"),
        (running(INSTANCE, **FAILED), lost_host(), "CUDA0", "a-q2_k can't start without CUDA0, and llama-server lists"),
        (running(INSTANCE, **FAILED), lost_host(said="", nodes=()), "CUDA0", "a-q2_k can't start without CUDA0"),
        (running(UNNAMED, **FAILED), lost_host(said=""), None, "a-q2_k computes on the CPU, since llama-server lists"),
        (None, lost_host(said=""), None, ""),  # a build for the CPU alone
        (None, host(), None, ""),
    ],
)
def test_one_that_is_to_start_keeps_its_device_or_says_that_it_computes_on_the_cpu(now, on, device, said):
    value = plan("a-q2_k", on=replace(on, instances=(now,) if now else ()))
    assert (value.actions[0].action, named(value)[0][0]) == ("start", device)
    assert len(value.degraded) == bool(said)
    assert not said or value.degraded[0].startswith(f"Host gpu1: {said}")
    if said:
        with pytest.raises(PlanError, match="strict is set"):
            plan("a-q2_k", on=replace(on, instances=(now,) if now else ()), strict=True)


@pytest.mark.parametrize(("layers", "said"), [(99, True), ("all", True), (0, False)])
def test_layers_for_a_gpu_that_the_build_can_not_use_are_said(layers, said):
    value = plan({"model": "a-q2_k", "options": {"n_gpu_layers": layers}}, on=lost_host(said=""))
    assert [("set llama_server_backend" in sentence) for sentence in value.degraded] == [True] * said


@pytest.mark.parametrize(("devices", "refused"), [((), False), (("CUDA0",), True)])
def test_a_device_that_is_gone_is_no_wrong_option(devices, refused):
    options = {"device": "CUDA1"}
    on = gpu_host(devices=devices, refused=('error while handling "LLAMA_ARG_DEVICE": invalid device: CUDA1',))
    assert len(option_sets(profile("*", options=options), {})) == 1
    if refused:
        with pytest.raises(AskedForError, match="invalid device: CUDA1"):
            plan("a-q2_k", options=options, on=on)
    else:
        (sentence,) = plan("a-q2_k", options=options, on=on).degraded
        assert "a-q2_k can't start without CUDA1" in sentence
