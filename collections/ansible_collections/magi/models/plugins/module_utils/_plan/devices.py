# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which GPUs an instance computes on, by name: a start without them fails then, and does not fall to the CPU. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.states import State
from ansible_collections.magi.models.plugins.module_utils._host.values import Host, Running
from ansible_collections.magi.models.plugins.module_utils._llama.options import Binary
from ansible_collections.magi.models.plugins.module_utils._plan.capacity import for_gpu, on_gpu


@dataclass(frozen=True)
class Devices:
    """What an instance has of the GPUs of its host."""

    there: str = ""
    """The names of those that llama-server lists; empty: the instance is not meant for a GPU."""
    named: str = ""
    """The option device that we give it; empty: none."""


_CHOOSES = re.compile(
    r"DEVICE|VISIBLE|^(DRI|GPU|HIP|HSA|LD|MESA|NVIDIA|ONEAPI|ROCR|SYCL|UR|VK|ZE)_|_PATH$|^GGML_DISABLE"
)
"""Variables with which a server may see other GPUs, or the same ones by other names."""


_LAYOUT = {"main_gpu", "split_mode", "tensor_split"}
"""Options with which somebody says how several GPUs are used."""


def ways(
    binary: Binary,
    options: Mapping[str, Any],
    variables: Mapping[str, str],
    asked_with: Mapping[str, str | None],
    count: int | None,
) -> tuple[tuple[str, ...], ...]:
    """Return how an instance (see ``devices``) can run on some of the GPUs, the fewest first, by the names of the first
    that there are; () where its options or llama-server itself decide. ``count`` is how many the profile asks for."""
    among = binary.default_devices
    chosen = {"device", "rpc", *(_LAYOUT if count is None else ())} & options.keys()
    known = any("device" in option.names for option in binary.options)
    if chosen or not known or not for_gpu(options) or not _alike(variables, asked_with):
        return ()
    if count is not None:
        return (among[:count],) if count <= len(among) else ()
    return (among[:1], among) if len(among) > 1 else ()


def too_few(count: int | None, options: Mapping[str, Any], host: Host) -> str:
    """Return why an instance can't have ``count`` GPUs of ``host``, or an empty string. One whose GPUs are gone now is
    no mistake of the profile."""
    listed = host.binary.devices if host.binary else ()
    among = host.binary.default_devices if host.binary else ()
    if count is None or not listed or not for_gpu(options) or count <= len(among):
        return ""
    if not among:
        return f"devices: {count} can't be chosen among {', '.join(listed)}, which differ; name them"
    return f"devices: {count} are asked for, and llama-server has {len(among)} ({', '.join(among)})"


def _alike(variables: Mapping[str, str], asked_with: Mapping[str, str | None]) -> bool:
    """Whether a server with ``variables`` sees the GPUs that llama-server listed when it was ``asked_with`` some."""
    given = {name: value for name, value in asked_with.items() if value is not None}
    return all(variables.get(name) == given.get(name) for name in {*variables, *given} if _CHOOSES.search(name))


def _hides(variable: str, value: str) -> bool:
    """Whether a variable is there to keep a server off all GPUs."""
    return variable.endswith("VISIBLE_DEVICES") and value.strip() in ("", "-1")


def devices(
    options: Mapping[str, Any],
    variables: Mapping[str, str],
    host: Host,
    asked_with: Mapping[str, str | None],
    now: Running | None,
    count: int | None = None,
) -> Devices:
    """Return the devices of an instance with ``options`` and ``variables``; ``now`` is the instance as it is on
    ``host``, whose llama-server listed its devices when it was ``asked_with`` some variables.

    A start that does not find a device that it is told to use ends with 1 (llama.cpp common/arg.cpp,
    ``parse_device_list``); one that is told none goes on on the CPU. All that llama-server would take by itself are
    named, in its order, so nothing else changes: main_gpu and tensor_split count in that order. An instance that shares
    its model with other hosts (rpc) takes those first, and one with variables of its own may see other names: they are
    told none. Where nothing is listed now, an instance that had devices from us keeps them: it fails until they are
    back, and is not moved to the CPU. ``count`` is how many the profile asks for. Where memory is looked at, Memory
    chooses among them.
    """
    binary = host.binary
    if binary is None or not for_gpu(options) or any(_hides(*given) for given in variables.items()):
        return Devices()
    names = {name for option in binary.options for name in option.names}
    ours = "device" in names and not {"device", "rpc"} & options.keys()
    if not binary.devices:
        environment = now.environment if now else {}
        had = meant_for(environment)
        return Devices(had, had if ours and told_of(environment) == had else "")
    if not on_gpu(options, host):
        return Devices()
    named = ",".join(binary.default_devices[:count]) if ours and _alike(variables, asked_with) else ""
    return Devices(",".join(binary.devices), named)


def alone(devices: Iterable[str]) -> Devices:
    """Return what an instance has that is told ``devices`` and has no others."""
    names = ",".join(devices)
    return Devices(names, names)


def told_of(environment: Mapping[str, str]) -> str:
    """Return the devices that an instance was told to use, or those that a pool tells its models; empty: none."""
    return environment.get("LLAMA_ARG_DEVICE") or environment.get("MAGI_POOL_DEVICE", "")


def meant_for(environment: Mapping[str, str]) -> str:
    """Return the devices that its host had when an instance was planned; empty: it is not meant for a GPU."""
    return environment.get("MAGI_GPU", "")


def stays(options: Mapping[str, Any], host: Host, now: Running | None) -> str:
    """Return why a running instance must be left as it runs, or an empty string.

    Where llama-server lists no GPU any more, say since the driver was updated below the running servers, one that
    computes on it goes on, and would not get it back if it were started again.
    """
    if (
        now is None
        or now.manager
        or host.binary is None
        or host.binary.devices
        or not now.pid
        or now.state not in (State.RUNNING, State.STARTING)
        or not for_gpu(options)
        or not meant_for(now.environment)
    ):
        return ""
    return f"llama-server lists no GPU now{_said(host)}, and a new start would not get it; {_REMEDY}"


_REMEDY = (
    "see that the driver works (nvidia-smi, rocminfo; after an update of it, boot the host) and run again, or set "
    "n_gpu_layers: 0 to move it to the CPU"
)


def _said(host: Host) -> str:
    return f" ({host.lost_gpu})" if host.lost_gpu else ""


def missing(name: str, options: Mapping[str, Any], host: Host, found: Devices) -> str:
    """Return what the instance ``name``, which is to be started, lacks of a GPU, as a sentence; or an empty string."""
    if host.binary is None or host.binary.devices != () or not for_gpu(options) or "rpc" in options:
        return ""
    device = found.named or options.get("device", "")
    if device:
        return f"{name} can't start without {device}, and llama-server lists no GPU now{_said(host)}; {_REMEDY}."
    if host.lost_gpu or found.there:
        return f"{name} computes on the CPU, since llama-server lists no GPU now{_said(host)}; {_REMEDY}."
    if host.gpus and "n_gpu_layers" in options:
        return (
            f"{name} has n_gpu_layers and computes on the CPU: this llama-server lists no GPU, though there is "
            f"{host.gpus[0]}; set llama_server_backend (auto, cuda, rocm or vulkan) and run magi prepare, or take "
            "n_gpu_layers away."
        )
    return ""
