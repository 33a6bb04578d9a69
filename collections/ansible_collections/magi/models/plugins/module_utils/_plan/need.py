# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is asked about the memory of an instance, and what follows from the answer. Pure."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._config.profile import Profile
from ansible_collections.magi.models.plugins.module_utils._llama.need import HOST, MIB, Need, Row, Told
from ansible_collections.magi.models.plugins.module_utils._llama.options import Binary
from ansible_collections.magi.models.plugins.module_utils._models.model import Inventory, Model
from ansible_collections.magi.models.plugins.module_utils._plan.devices import ways
from ansible_collections.magi.models.plugins.module_utils._plan.estimate import (
    UBATCH,
    context_of,
    estimate,
    number,
    slots_of,
)
from ansible_collections.magi.models.plugins.module_utils._plan.layers import option_layers, variables_of
from ansible_collections.magi.models.plugins.module_utils._plan.options import (
    IDLE,
    InstanceError,
    environment_and_args,
    resolve_options,
)
from ansible_collections.magi.models.plugins.module_utils._plan.select import select
from ansible_collections.magi.models.plugins.module_utils._plan.values import PlanError, Share

# Measured with llama-server b11434 (docs/capacity.md).
PROCESS = 64 * MIB
"""What a server takes of the host's memory besides what llama-fit-params counts."""
PROCESS_WITH_GPU = 384 * MIB
ON_GPU = 640 * MIB
"""What it takes of each GPU besides: the driver's context and kernels, and CUDA's own buffers."""
CUBLAS = 192 * MIB
"""What it takes of the host's memory once it uses cuBLAS, as it does without flash attention, and for weights that are
not quantized."""
SCORE = 6
"""Bytes of a GPU that each score of attention takes besides, without flash attention."""
MARGIN = 1.25
"""By what an estimate is multiplied."""
BATCH = 2048
"""Tokens that a server takes at once by default, in parts of UBATCH (common/common.h)."""
PROMPTS = 8192
"""The limit of cache_ram by default, in MiB (common/common.h)."""
_BESIDE = ("lora", "lora_scaled", "control_vector", "control_vector_scaled")


@dataclass(frozen=True)
class Question:
    """What a host's llama-fit-params is asked about one instance."""

    variables: Mapping[str, str]
    arguments: tuple[str, ...]
    """Those for options that have no variable."""
    key: str
    """Changes with everything that may change the answer."""


def question(binary: Binary, model: Model, options: Mapping[str, Any], variables: Mapping[str, str]) -> Question:
    """Return what to ask about a server of ``model`` with resolved ``options`` and ``variables`` of its process.

    llama-fit-params reads the server's variables, and has other defaults where the server sets its own
    (tools/server/server.cpp). Raises InstanceError.
    """
    given = {name: value for name, value in options.items() if name not in ("api_key_file", "cache_ram", IDLE)}
    known = {name: option.name for option in binary.options for name in option.names}
    if number(options, "parallel", -1) < 0 and "parallel" in known:
        given[known["parallel"]] = str(slots_of(options))
        if "kv_unified" in known:
            given[known["kv_unified"]] = True
    if model.task != "chat" and "batch_size" in known:  # such a model sees all its tokens at once
        given[known["batch_size"]] = str(number(options, "ubatch_size", UBATCH))
    per_slot = number(options, "kv_unified_per_slot", 0)
    if per_slot > 0 and number(options, "ctx_size", 0) <= 0:
        given[known["ctx_size"]] = str(per_slot * slots_of(options))
    environment, arguments = environment_and_args(binary, given)
    environment = {**environment, "LLAMA_ARG_MODEL": model.path, **variables}
    content = [
        *(sorted(environment.items()), arguments, [[file.path, file.size, file.mtime_ns] for file in model.files]),
        *(binary.path, binary.identity, binary.devices),
    ]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    return Question(environment, arguments, key)


def questions(
    profile: Profile, inventory: Inventory, binary: Binary, options: Mapping[str, Any], variables: Mapping[str, Any]
) -> list[Question]:
    """Return what to ask about the instances that ``profile`` enables on a host with these ``options`` and
    ``variables``, each question once. What the plan will refuse is not asked."""
    found: dict[str, Question] = {}
    for index, entry in enumerate(profile.entries):  # one that is not for this host may be wrong here
        if entry.rpc:  # its workers would have to run, and have one client at a time
            continue
        only: list[dict[str, Share] | None] = [None if other == index else {} for other in range(len(profile.entries))]
        with contextlib.suppress(InstanceError, PlanError):
            for item in select(profile, inventory.models, (), "", shares=only)[0]:
                resolved = resolve_options(binary, option_layers(profile, "", options, item))
                own = variables_of(profile, variables, item)
                can = ways(binary, resolved, own, variables, item.entry.devices) or ((),)
                for part in item.each:
                    given = resolve_options(binary, option_layers(profile, "", options, part))
                    for way in can:
                        asked = question(binary, part.model, on_devices(given, way), own)
                        found[asked.key] = asked
    return list(found.values())


def on_devices(options: Mapping[str, Any], devices: Iterable[str]) -> Mapping[str, Any]:
    """Return the options of a server that runs on ``devices``; none: as the options say."""
    named = ",".join(devices)
    return {**options, "device": named} if named else options


def need_of(
    model: Model,
    options: Mapping[str, Any],
    told: Told,
    devices: Iterable[str],
    prompts: int,
    sizes: Mapping[str, int],
) -> Need:
    """Return what a server of ``model`` with resolved ``options`` needs.

    ``told`` is what llama-fit-params said; ``devices`` are the GPUs that the server uses, for an estimate where that
    has no rows. ``prompts`` are the bytes that its cache of prompts may take, ``sizes`` the bytes of files by path.
    """
    rows, why = told.rows, told.why
    if rows and sum(row.model for row in rows) > 2 * model.size_bytes + 1024 * MIB:
        rows, why = (), "llama-fit-params counts more weights than the file has"
    rows = rows or estimate(model, options, tuple(devices))
    gpus = [row.device for row in rows if row.device != HOST]
    # Weights that the CPU computes with in another order (ggml's CPU_REPACK) are copies, and llama-fit-params leaves
    # them out (common/fit.cpp counts the buffers of the host and of devices alone).
    repacked = 0 if why else max(0, model.size_bytes - sum(row.model for row in rows))
    beside = [options.get(name) for name in ("model_draft", "spec_draft_model", *_BESIDE)]
    contexts = [*filter(has_context, gpus)]
    scores = options.get("flash_attn") == "off"
    cublas = scores or model.tier in ("F16", "BF16", "F32")
    parts = {
        "process": PROCESS_WITH_GPU + (CUBLAS if cublas else 0) if contexts else PROCESS,
        "repacked": repacked,
        "outputs": _outputs(model, options),
        "projector": _projector(model, options, sizes),
        "beside": int(sum(sizes.get(str(path), 0) for path in beside if path) * MARGIN),
        "prompts": prompts,
    }
    mapped = 0 if why or options.get("load_mode") in ("none", "dio") else rows[-1].model
    own = {row.device: row.model + row.context + row.compute for row in rows}
    own = {device: int(size * MARGIN) if why else size for device, size in own.items()}
    own[HOST] += parts["process"] + repacked + parts["outputs"] + prompts - mapped
    # A projector computes on the first GPU, and so does what drafts.
    first = gpus[0] if gpus else HOST
    own[first] += parts["beside"]
    own[first if options.get("mmproj_offload") is not False else HOST] += parts["projector"]
    for device in contexts:
        own[device] += ON_GPU + (_scores(model, options) if scores and not why else 0)
    return Need(own, mapped, {name: size for name, size in parts.items() if size}, why)


def together(needs: Sequence[Need], count: int) -> Need:
    """Return what a pool needs of each device with the ``count`` models in memory that need most of it; llama-server
    itself chooses which those are (router mode)."""
    devices = dict.fromkeys([*(device for need in needs for device in need.own), HOST])
    own = {x: sum(sorted((need.total(x) for need in needs), reverse=True)[:count]) for x in devices}
    own[HOST] += PROCESS
    return Need(own, 0, {"router": PROCESS}, next((need.estimated for need in needs if need.estimated), ""))


def has_context(device: str) -> bool:
    """Whether each process that uses the device takes some of its memory. A worker of another host (RPC) does that."""
    return not device.startswith("RPC")


def _scores(model: Model, options: Mapping[str, Any]) -> int:
    batch = number(options, "ubatch_size", UBATCH)
    return SCORE * (model.shape.get("head_count") or 0) * batch * context_of(model, options)


def _outputs(model: Model, options: Mapping[str, Any]) -> int:
    """A server of embeddings keeps logits and embedding of each token of its batch, though it answers with one of the
    latter (output_reserve in llama.cpp's src/llama-context.cpp): of a vocabulary of 152,000, 300 MiB for 512 tokens."""
    if model.task == "chat" and not (options.get("embeddings") or options.get("reranking")):
        return 0
    shape = (model.shape.get("vocab_size") or 0) + (model.shape.get("embedding_length") or 0)
    return 4 * shape * min(number(options, "ubatch_size", UBATCH), number(options, "batch_size", BATCH))


def _projector(model: Model, options: Mapping[str, Any], sizes: Mapping[str, int]) -> int:
    path = options.get("mmproj")
    size = sizes.get(str(path), 0) if path else model.mmproj.size if model.mmproj else 0
    return int(size * MARGIN) + 128 * MIB if size else 0


def sizes_of(inventory: Inventory) -> dict[str, int]:
    """Return the bytes of all files that a host has, by path."""
    return {
        **{item.path: item.size_bytes for item in inventory.companions},
        **{model.path: model.size_bytes for model in inventory.models},
    }


def prompt_share(memory: int, instances: int) -> int:
    """Return the MiB that the cache of prompts of each of ``instances`` may take on a host with this much memory.

    llama-server's own limit is 8 GiB for each, whatever the host has. All together get an eighth of it, in powers of
    two: what a share is changes seldom.
    """
    share = memory // 8 // max(instances, 1) // MIB
    return min(PROMPTS, 1 << max(share.bit_length() - 1, 0)) if share else 0


def prompt_shares(environment: Mapping[str, str]) -> int:
    """Return how many of the caches that share (``prompt_share``) an instance with this ``environment`` has: a pool one
    for each model in memory."""
    said = environment.get("MAGI_PROMPTS", "")
    return int(said) if said.isdecimal() else int(bool(said))


def prompts_of(options: Mapping[str, Any]) -> int:
    """Return the bytes that a server's cache of prompts may take; without a limit (-1), those of llama-server's own."""
    limit = number(options, "cache_ram", PROMPTS)
    return (limit if limit >= 0 else PROMPTS) * MIB


def work(rows: Iterable[Row]) -> dict[str, int]:
    """Return by device the bytes that depend on the context."""
    return {row.device: row.context + row.compute for row in rows}


def within(need: Mapping[str, int], room: Mapping[str, int]) -> bool:
    """Whether what depends on the context has room on each device."""
    return all(size <= room.get(device, size) for device, size in need.items())


def largest_context(top: int, fits: Callable[[int], bool]) -> int:
    """Return the largest size of context below ``top``, a multiple of 256 tokens, that ``fits``; 0: none does."""
    low, high = 0, max((top - 1) // 256, 0)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle * 256) else (low, middle - 1)
    return low * 256
