"""What llama.cpp computes with, by the GPUs, drivers and tools that a host has."""

from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._install import backend as module
from ansible_collections.magi.models.plugins.module_utils._install.backend import (
    Choice,
    buildable,
    candidates,
    missing,
    of_flags,
    search_path,
)
from ansible_collections.magi.models.plugins.module_utils._install.step import InstallError


@pytest.mark.parametrize(
    ("asked", "nodes", "found"),
    [
        ("auto", (), ("cpu",)),
        ("auto", ("/dev/nvidia0", "/dev/nvidia1"), ("cuda", "vulkan", "cpu")),
        ("auto", ("/dev/dxg",), ("cuda", "vulkan", "cpu")),
        ("auto", ("/dev/kfd",), ("rocm", "vulkan", "cpu")),
        ("auto", ("/dev/kfd", "/dev/nvidia0"), ("cuda", "rocm", "vulkan", "cpu")),
        ("auto", ("/dev/dri/renderD128",), ("vulkan", "cpu")),
        ("cpu", ("/dev/nvidia0",), ("cpu",)),
        ("rocm", (), ("rocm",)),
    ],
)
def test_backends_by_gpus(asked, nodes, found):
    assert candidates(asked, nodes) == found


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        (["-DGGML_RPC=ON"], "cpu"),
        (["-DGGML_CUDA=ON"], "cuda"),
        (["-DGGML_CUDA=1", "-DX=1"], "cuda"),
        (["-DGGML_VULKAN:BOOL=on"], "vulkan"),
        (["-DGGML_HIP=ON"], "rocm"),
        (["-DGGML_CUDA=OFF"], "cpu"),
    ],
)
def test_flags_name_a_backend(flags, found):
    assert of_flags(flags) == found


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Make the host one with these GPUs and programs, and no others."""

    def have(nodes=(), programs=()):
        monkeypatch.setattr(module, "gpus", lambda: nodes)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("VULKAN_SDK", raising=False)
        monkeypatch.setattr(module, "VULKAN_HEADER", tmp_path / "vulkan_core.h")
        for name in programs:
            (tmp_path / name).write_text("#!/bin/sh\n")
            (tmp_path / name).chmod(0o755)
        kits = {
            name: module.Toolkit(kit.flags, kit.compiler, kit.name, kit.folder and str(tmp_path / name), kit.packages)
            for name, kit in module.TOOLKITS.items()
        }
        monkeypatch.setattr(module, "TOOLKITS", kits)

    return have


@pytest.mark.parametrize(
    ("asked", "programs", "found"),
    [
        ("auto", ["nvcc", "glslc"], Choice("cuda")),
        ("auto", ["glslc"], Choice("vulkan", "NVIDIA's CUDA toolkit (nvcc)")),
        ("auto", [], Choice("cpu", "NVIDIA's CUDA toolkit (nvcc) and the Vulkan SDK 1.3.272 or later (glslc)")),
        ("cpu", ["nvcc"], Choice("cpu")),
        ("vulkan", [], Choice("vulkan")),
    ],
)
def test_what_a_host_builds_for(host, asked, programs, found):
    host(("/dev/nvidia0",), programs)
    assert buildable(asked) == found


def test_a_host_without_a_gpu_lacks_nothing(host):
    host()
    assert buildable("auto") == Choice("cpu")


def test_a_toolkit_is_found_in_its_own_folder(host, tmp_path):
    host(("/dev/nvidia0",))
    (tmp_path / "cuda").mkdir()
    (tmp_path / "cuda/nvcc").write_text("#!/bin/sh\n")
    (tmp_path / "cuda/nvcc").chmod(0o755)
    assert buildable("auto") == Choice("cuda")
    assert search_path("cuda").endswith(str(tmp_path / "cuda"))
    assert missing("cuda") == []


@pytest.mark.parametrize("backend", ["cuda", "rocm"])
def test_a_toolkit_that_is_no_package_is_asked_for(host, backend):
    host()
    with pytest.raises(
        InstallError, match=f"building llama.cpp for {backend} needs .*: install .* or set llama_server_b"
    ):
        missing(backend)


def test_packages_of_vulkan_are_those_that_lack(host, tmp_path, monkeypatch):
    host()
    there = tmp_path / "vulkan.hpp"
    there.touch()
    packages = {"glslc": (str(tmp_path / "none"),), "libvulkan-dev": (str(tmp_path / "*.hpp"),)}
    monkeypatch.setitem(module.TOOLKITS, "vulkan", module.Toolkit((), "glslc", "the Vulkan SDK", packages=packages))
    assert missing("vulkan") == ["glslc"]
    assert missing("cpu") == []
    monkeypatch.setenv("VULKAN_SDK", "/opt/vulkan")
    assert missing("vulkan") == []


@pytest.mark.parametrize(
    ("content", "backend"), [("#define VK_EXT_layer_settings 1", "vulkan"), ("#define VK_x", "cpu")]
)
def test_headers_that_are_too_old_are_no_vulkan(host, tmp_path, content, backend):
    host(("/dev/dri/renderD128",), ["glslc"])
    (tmp_path / "vulkan_core.h").write_text(content)
    assert buildable("auto").backend == backend
    if backend == "cpu":
        with pytest.raises(InstallError, match=r"needs Vulkan headers 1.3.272 or later, and .*vulkan_core.h is older"):
            missing("vulkan")
