# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a llama-server says about itself: its options (--help), its GPUs (--list-devices), and that it can't use one.
Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ansible_collections.magi.models.plugins.module_utils._llama.options import Option

_FLAGS = re.compile(r"-{1,2}[A-Za-z0-9][\w.-]*(?:,\s+-{1,2}[A-Za-z0-9][\w.-]*)*")

_NUMBERS = {"INDEX", "N", "P", "SECONDS", "SEED", "SIMILARITY"}
"""What stands for a number (common/arg.cpp); the default of those that take a fraction is shown with one."""


def parse_help(text: str) -> tuple[Option, ...]:
    """Return the options that ``llama-server --help`` lists, without those marked as removed.

    An option starts in the first column with its flags; a single space before more text means that it takes a value,
    several spaces or the line's end that it doesn't; ``(env: X)`` in its description names its variable
    (llama.cpp common/arg.cpp, ``common_arg::to_string``).
    """
    blocks: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("-") and _FLAGS.match(line) and not line.startswith("-----"):
            blocks.append([line])
        elif blocks and line.startswith(" "):
            blocks[-1].append(line)
    options = []
    for block in blocks:
        head = _FLAGS.match(block[0])
        description = " ".join(block)
        if head is None or "argument has been removed" in re.sub(r"\s+", " ", description):
            continue
        flags = tuple(flag for flag in re.split(r",\s+", head.group()) if flag.startswith("--"))
        names = tuple(flag[2:].replace("-", "_") for flag in flags)
        if not names:
            continue
        positive = [name for name in names if not name.startswith("no_")] or list(names)
        variable = re.search(r"\(env: (\w+)\)", description)
        value = re.match(r" (\S+)", block[0][head.end() :])
        number = value is not None and value.group(1) in _NUMBERS
        words = tuple(re.findall(r"'(\w+)'", description)) if number else ()
        whole = number and re.search(r"\(default:\s+-?\d+(?![\d.])", description) is not None
        environment = variable.group(1) if variable else None
        options.append(Option(positive[-1], names, flags, environment, bool(value), number, words, whole))
    return tuple(options)


_DEVICE = re.compile(r"^  (\S+): (.*) \((\d+) MiB, (\d+) MiB free\)$", re.MULTILINE)


_ON_THE_CPU = {"BLAS", "ZenDNN", "zDNN"}
"""Devices of ggml's kind ACCEL (ggml/src/ggml-*): libraries for the CPU."""


def parse_devices(text: str) -> tuple[str, ...] | None:
    """Return the names of the GPUs that ``llama-server --list-devices`` lists; None if it lists nothing at all
    (llama.cpp common/arg.cpp, ``common_print_available_devices``: every device but the CPU itself)."""
    _before, found, listed = text.partition("Available devices:\n")
    return tuple(name for name, *_more in _DEVICE.findall(listed) if name not in _ON_THE_CPU) if found else None


def device_memory(text: str) -> dict[str, tuple[int, int]]:
    """Return the bytes that each GPU of the list has, and that are free."""
    listed = _DEVICE.findall(text)
    return {name: (int(has) << 20, int(free) << 20) for name, _product, has, free in listed if name not in _ON_THE_CPU}


_GPU = re.compile(r"(CUDA|MTL|MUSA|ROCm|RPC|SYCL|Vulkan)\d+")


def default_devices(text: str) -> tuple[str, ...]:
    """Return the GPUs that llama-server takes without ``--device``, in its order; empty where the list that
    ``--list-devices`` printed does not tell.

    llama.cpp src/llama.cpp, ``llama_prepare_model_devices``: all discrete GPUs; where there is none, the integrated
    ones; of two backends' names for one card, the first. The list does not say what is integrated, or which names are
    one card. So it tells where there is one device; where all are the same product, and so of one kind; where all are
    CUDA's, which are integrated on boards that have no other; and where all are of RPC servers, which it takes all.
    """
    listed = [(name, product) for name, product, *_sizes in _DEVICE.findall(text) if name not in _ON_THE_CPU]
    backends = {match and match[1] for match in (_GPU.fullmatch(name) for name, _product in listed)}
    if None in backends or len(backends) != 1:
        return ()
    alike = len({product for _name, product in listed}) == 1 or backends in ({"CUDA"}, {"RPC"})
    return tuple(name for name, _product in listed) if alike else ()


def fell_back(lines: Iterable[str]) -> str:
    """Return the line in which a server says that it can't use the GPU, or an empty string (ggml/src/ggml-*,
    common/arg.cpp). Vulkan says nothing at llama-server's usual verbosity, unless the layers for the GPU are given."""
    said = r"no usable GPU found|failed to initialize (?:CUDA|ROCm|HIP|MUSA|Vulkan|SYCL)"
    found = next((line.strip() for line in lines if re.search(said, line)), "")
    return re.sub(r"^[\d.]+ [A-Z] ", "", found)[:300]  # without time and level
