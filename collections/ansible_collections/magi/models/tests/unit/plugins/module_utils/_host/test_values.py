from __future__ import annotations

import dataclasses
import json
import sys

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.addresses import overlaps, reachable
from ansible_collections.magi.models.plugins.module_utils._host.procfs import parse_listeners
from ansible_collections.magi.models.plugins.module_utils._host.values import Host, Listener, foreign_listeners
from ansible_collections.magi.models.plugins.module_utils._llama.help import default_devices, parse_devices, parse_help
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import (
    BINARY,
    HELP,
    foreign,
    host,
    running,
)

OPTIONS = {option.name: option for option in parse_help(HELP)}


@pytest.mark.parametrize(
    ("name", "names", "environment", "takes_value"),
    [
        ("threads", {"threads"}, "LLAMA_ARG_THREADS", True),
        ("n_gpu_layers", {"gpu_layers", "n_gpu_layers"}, "LLAMA_ARG_N_GPU_LAYERS", True),
        ("kv_offload", {"kv_offload", "no_kv_offload"}, "LLAMA_ARG_KV_OFFLOAD", False),
        ("no_host", {"no_host"}, "LLAMA_ARG_NO_HOST", False),
        ("mmproj_auto", {"mmproj_auto", "no_mmproj", "no_mmproj_auto"}, "LLAMA_ARG_MMPROJ_AUTO", False),
        ("flash_attn", {"flash_attn"}, "LLAMA_ARG_FLASH_ATTN", True),
        ("override_tensor", {"override_tensor"}, "LLAMA_ARG_OVERRIDE_TENSOR", True),
        ("logit_bias", {"logit_bias"}, None, True),
        ("special", {"special"}, None, False),
        ("api_key", {"api_key"}, "LLAMA_API_KEY", True),
    ],
)
def test_options_are_read_from_help(name, names, environment, takes_value):
    option = OPTIONS[name]
    assert (set(option.names), option.environment, option.takes_value) == (names, environment, takes_value)


def test_removed_options_are_not_options():
    assert "draft_max" not in {name for option in OPTIONS.values() for name in option.names}


def test_every_variable_of_the_help_is_found():
    assert HELP.count("(env: ") - len([option for option in OPTIONS.values() if option.environment]) == 2  # removed


@pytest.mark.parametrize(
    ("listed", "devices"),
    [
        ("Available devices:\n  (none)\n", ()),
        (
            "ggml_cuda_init: found 1 CUDA devices:\n  Device 0: NVIDIA L4, compute capability 8.9, VMM: yes\n"
            "Available devices:\n  CUDA0: NVIDIA L4 (22563 MiB, 22325 MiB free)\n",
            ("CUDA0",),
        ),
        (
            "Available devices:\n  Vulkan0: Intel(R) UHD Graphics (TGL GT1) (11800 MiB, 10620 MiB free)\n"
            "  BLAS: OpenBLAS (0 MiB, 0 MiB free)\n",
            ("Vulkan0",),
        ),
        ("Available devices:\n  BLAS: OpenBLAS (0 MiB, 0 MiB free)\n", ()),
        ("error: invalid argument: --list-devices\n", None),
    ],
)
def test_devices_are_read_from_their_list(listed, devices):
    assert parse_devices(listed) == devices


@pytest.mark.parametrize(
    ("listed", "own_choice"),
    [
        ({}, ()),
        ({"CUDA0": "NVIDIA H100 80GB HBM3"}, ("CUDA0",)),
        ({"Vulkan0": "Intel(R) UHD Graphics", "BLAS": "OpenBLAS"}, ("Vulkan0",)),
        # one backend, one product: all discrete, or all integrated
        ({"ROCm0": "Radeon RX 7900 XTX", "ROCm1": "Radeon RX 7900 XTX"}, ("ROCm0", "ROCm1")),
        # a card beside a processor's graphics, which llama-server leaves out; the list does not say which is which
        ({"ROCm0": "Radeon RX 7900 XTX", "ROCm1": "AMD Radeon Graphics"}, ()),
        ({"Vulkan0": "Radeon RX 7900 XTX", "Vulkan1": "NVIDIA L4"}, ()),
        # NVIDIA's integrated GPUs are alone on their boards
        ({"CUDA0": "NVIDIA GeForce RTX 4090", "CUDA1": "NVIDIA GeForce RTX 3090"}, ("CUDA0", "CUDA1")),
        # one card by two backends' names
        ({"CUDA0": "NVIDIA L4", "Vulkan0": "NVIDIA L4"}, ()),
        # those of a build that computes on RPC servers
        ({"RPC0": "10.0.0.2:50052", "RPC1": "10.0.0.3:50052"}, ("RPC0", "RPC1")),
        # another host's, and a backend that we don't know
        ({"CUDA0": "NVIDIA L4", "RPC0": "10.0.0.2:50052"}, ()),
        ({"HTP0": "Hexagon"}, ()),
    ],
)
def test_what_llama_server_takes_by_itself_is_told_where_its_list_tells_it(listed, own_choice):
    lines = [f"  {name}: {product} (100 MiB, 90 MiB free)" for name, product in listed.items()]
    assert default_devices("\n".join(["Available devices:", *lines])) == own_choice


@pytest.mark.parametrize(
    ("nodes", "devices", "said", "lost"),
    [
        (("/dev/nvidia0",), (), "failed to initialize CUDA: no device", True),
        (("/dev/kfd",), (), "failed to initialize ROCm: no device", True),
        (("/dev/nvidia0",), ("CUDA0",), "", False),
        (("/dev/nvidia0",), None, "", False),
        # a build for GPUs of another kind than the host's
        (("/dev/dri/renderD128",), (), "failed to initialize CUDA: no device", False),
        (("/dev/kfd",), (), "failed to initialize CUDA: no device", False),
        (("/dev/nvidia0",), (), "", False),  # a build for the CPU alone
        ((), (), "failed to initialize CUDA: no device", False),
    ],
)
def test_a_gpu_is_lost_where_its_node_is_there_and_its_backend_complains(nodes, devices, said, lost):
    on = host(gpus=nodes, binary=dataclasses.replace(BINARY, devices=devices, no_gpu=said))
    assert on.lost_gpu == (said if lost else "")


@pytest.mark.skipif(sys.byteorder != "little", reason="the table is of a little-endian machine")
def test_listeners_are_read_from_proc():
    tcp = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1 0 100 0\n"
        "   1: 0100007F:1F91 0100007F:0016 01 00000000:00000000 00:00000000 00000000     0        0 78 1 0 100 0\n"
        "   2: 00000000000000000000000000000000:1F92 0:0 0A 0:0 00:0 0 0 0 79 1 0 100 0\n"
        "   3: 0000000000000000FFFF00000100007F:1F93 0:0 0A 0:0 00:0 0 0 0 80 1 0 100 0\n"
        "broken line\n"
    )
    assert list(parse_listeners(tcp))[:2] == [
        ("127.0.0.1", 8080, "77"),
        ("::", 8082, "79"),
    ]
    address, port, inode = parse_listeners(tcp)[2]
    assert (port, inode) == (8083, "80")
    assert overlaps(address, "127.0.0.1")


@pytest.mark.parametrize(
    ("bound", "wanted", "expected"),
    [
        ("0.0.0.0", "127.0.0.1", True),
        ("::", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.2", "127.0.0.1", False),
        ("127.0.0.1", "localhost", True),
        ("10.0.0.1", "127.0.0.1", False),
    ],
)
def test_addresses_that_keep_each_other_from_binding(bound, wanted, expected):
    assert overlaps(bound, wanted) is expected


@pytest.mark.parametrize(
    ("wanted", "ports"),
    [
        ("127.0.0.1", {8081}),
        ("10.1.1.1", {8082}),
        ("127.0.0.1,10.1.1.1", {8081, 8082}),
        ("10.2.2.2, 127.0.0.1", {8081}),
        ("10.2.2.2,10.3.3.3", set()),
        ("0.0.0.0,::", {8081, 8082}),
    ],
)
def test_foreign_listeners_are_those_on_any_wanted_address_that_are_not_ours(wanted, ports):
    ours = Listener("127.0.0.1", 8080, 1, "llama-server", "a")
    assert foreign_listeners([ours, foreign(8081), foreign(8082, "10.1.1.1")], wanted).keys() == ports


@pytest.mark.parametrize(
    ("bound", "address"),
    [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("127.0.0.1", "127.0.0.1"), ("10.1.1.1,::1", "10.1.1.1")],
)
def test_where_a_server_is_reached_on_its_own_host(bound, address):
    assert reachable(bound) == address


def test_a_host_survives_the_way_through_json():
    from ansible_collections.magi.models.plugins.module_utils._plan.values import Instance

    instance = Instance("a", "a", "A", "Q4", "chat", "/a", "127.0.0.1", 8080, {}, {"LLAMA_ARG_PORT": "8080"})
    value = host(running(instance, model_ids=("a",), log=("x",)), listeners=(foreign(8081),), gpus=("/dev/kfd",))
    assert Host.from_dict(json.loads(json.dumps(value.to_dict()))) == value
    assert Host.from_dict(host(binary=None).to_dict()).binary is None
    on_gpu = host(binary=dataclasses.replace(BINARY, devices=("CUDA0",)))
    assert Host.from_dict(json.loads(json.dumps(on_gpu.to_dict()))) == on_gpu
    assert value.binary == BINARY
