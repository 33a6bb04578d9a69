# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What llama.cpp computes with on a host: which backends suit its GPUs, and what building for each takes."""

from __future__ import annotations

import ctypes
import glob
import os
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.magi.models.plugins.module_utils._base.gpus import gpus
from ansible_collections.magi.models.plugins.module_utils._install.step import InstallError

CPU = "cpu"
BACKENDS = ("auto", CPU, "cuda", "rocm", "vulkan")

Version = tuple  # of numbers: (12, 8)


@dataclass(frozen=True)
class Toolkit:
    """What building for a backend takes (llama.cpp docs/build.md)."""

    flags: tuple[str, ...]
    compiler: str
    name: str
    """For people; with ``packages`` empty, they install it themselves."""
    folder: str = ""
    """Where its programs are, if they are not in PATH."""
    packages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Debian packages, each with files of which one is there if it is installed."""


TOOLKITS = {
    # For the GPUs of the host that builds (cmake 3.24), or for all: upstream's own choice.
    "cuda": Toolkit(("-DGGML_CUDA=ON", "-DGGML_NATIVE=ON"), "nvcc", "NVIDIA's CUDA toolkit", "/usr/local/cuda/bin"),
    "rocm": Toolkit(("-DGGML_HIP=ON",), "hipcc", "AMD's ROCm 6.1 or later", "/opt/rocm/bin"),
    "vulkan": Toolkit(
        ("-DGGML_VULKAN=ON",),
        "glslc",
        "the Vulkan SDK 1.3.272 or later",
        packages={
            "glslc": ("/usr/bin/glslc",),
            "libvulkan-dev": ("/usr/include/vulkan/vulkan.hpp",),
            "spirv-headers": ("/usr/share/cmake*/SPIRV-Headers", "/usr/lib/*/cmake/SPIRV-Headers"),
        },
    ),
}
VULKAN_HEADER = Path("/usr/include/vulkan/vulkan_core.h")
VULKAN_NEEDS = "VK_EXT_layer_settings"
"""What ggml-vulkan.cpp uses since 2026, and headers have since 1.3.272: those of Debian 12 do not."""
_VENDORS = {"cuda": ("nvidia", "nvhost-gpu", "nvgpu", "dxg"), "rocm": ("kfd",)}


def candidates(asked: str, nodes: Collection[str]) -> tuple[str, ...]:
    """Return the backends for GPUs with these device nodes, the best first, the CPU last; or the one asked for."""
    if asked != "auto":
        return (asked,)
    names = [Path(node).name for node in nodes]
    own = [backend for backend, kinds in _VENDORS.items() if any(name.startswith(kinds) for name in names)]
    return (*own, "vulkan", CPU) if names else (CPU,)


def here(asked: str) -> tuple[str, ...]:
    """Return the candidates for this host."""
    return candidates(asked, gpus())


def of_flags(cmake_flags: Sequence[str]) -> str:
    """Return the backend that flags of cmake ask for."""
    on = {flag.upper().replace(":BOOL", "") for flag in cmake_flags}
    return next((name for name, kit in TOOLKITS.items() if on & {kit.flags[0], kit.flags[0].replace("ON", "1")}), CPU)


@dataclass(frozen=True)
class Choice:
    """The backend that a build is for."""

    backend: str
    lacking: str = ""
    """Why it is not a better one."""


def buildable(asked: str) -> Choice:
    """Return the best backend that this host has the tools to build for; what is asked for itself is not questioned."""
    lacking = []
    for backend in here(asked):
        if asked != "auto" or backend == CPU or (program(backend) and not (backend == "vulkan" and _old_headers())):
            return Choice(backend, " and ".join(lacking))
        lacking.append(f"{TOOLKITS[backend].name} ({TOOLKITS[backend].compiler})")
    return Choice(CPU, " and ".join(lacking))


def program(backend: str) -> str | None:
    """Return the compiler of a backend's toolkit."""
    return shutil.which(TOOLKITS[backend].compiler, path=search_path(backend))


def search_path(backend: str) -> str:
    """Return PATH, with the folder of a backend's toolkit at its end."""
    folder = TOOLKITS[backend].folder if backend in TOOLKITS else ""
    return os.pathsep.join(filter(None, (os.environ.get("PATH", os.defpath), folder)))


def missing(backend: str) -> list[str]:
    """Return the Debian packages that building for a backend lacks. Raises InstallError where they are not packages."""
    kit = TOOLKITS.get(backend)
    if kit is None or (backend == "vulkan" and os.environ.get("VULKAN_SDK")):
        return []
    if not kit.packages and not program(backend):
        raise InstallError(
            f"building llama.cpp for {backend} needs {kit.compiler}, which is not in PATH or {kit.folder}: install "
            f"{kit.name}, or set llama_server_backend to vulkan or cpu"
        )
    if backend == "vulkan" and _old_headers():
        raise InstallError(
            f"building llama.cpp for vulkan needs Vulkan headers 1.3.272 or later, and {VULKAN_HEADER} is older: "
            "install the Vulkan SDK and set VULKAN_SDK, or set llama_server_backend to cpu"
        )
    return [name for name, files in kit.packages.items() if not any(glob.glob(file) for file in files)]


def _old_headers() -> bool:
    if os.environ.get("VULKAN_SDK") or not VULKAN_HEADER.exists():
        return False
    return VULKAN_NEEDS not in VULKAN_HEADER.read_text(errors="replace")


def version(backend: str) -> Version | None:
    """Return the newest version of CUDA that the host's driver knows, or that of its ROCm; None: there is none."""
    if backend == "rocm":
        try:
            found = re.match(r"(\d+)\.(\d+)", Path("/opt/rocm/.info/version").read_text())
        except OSError:
            return None
        return (int(found[1]), int(found[2])) if found else None
    number = ctypes.c_int()
    try:  # the driver's own answer; it starts nothing on the GPU (CUDA driver API, cuDriverGetVersion)
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return None
    return None if failed else (number.value // 1000, number.value % 1000 // 10)
