# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""An estimate of what llama-fit-params would print, from a model's header. Pure.

For hosts that have no such program. The numbers follow llama.cpp: src/llama-kv-cache.cpp and llama-kv-cache-iswa.cpp
for the context, src/llama-memory-recurrent.cpp for recurrent layers; the compute buffer is fitted to what it prints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._llama.need import HOST, Row
from ansible_collections.magi.models.plugins.module_utils._models.model import Model

SLOTS = 4
"""How many requests llama-server works on at a time by default (tools/server/server.cpp)."""
UBATCH = 512
"""Tokens that it computes at a time by default."""

_BYTES = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
}
"""Bytes of one value in a cache of a type."""

_FULL_EACH = {
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gemma-embedding": 6,
    "gpt-oss": 2,
    "cohere2": 4,
    "exaone4": 4,
    "llama4": 4,
    "olmo2": 4,
    "smallthinker": 4,
}
"""By architecture, of how many layers one sees the whole context, and the others a window (src/models,
``set_swa_pattern``)."""


def number(options: Mapping[str, Any], name: str, default: int) -> int:
    """Return an option that is a number; ``default`` where it is not given, or a word."""
    try:
        return int(float(options.get(name, default)))
    except ValueError:
        return default


def context_of(model: Model, options: Mapping[str, Any]) -> int:
    """Return the tokens of context of a server, padded as llama.cpp does."""
    tokens = number(options, "ctx_size", 0) or model.context_length or 4096
    return -(-tokens // 256) * 256


def slots_of(options: Mapping[str, Any]) -> int:
    slots = number(options, "parallel", SLOTS)
    return slots if slots > 0 else SLOTS


def estimate(model: Model, options: Mapping[str, Any], devices: Sequence[str] = ()) -> tuple[Row, ...]:
    """Return the rows for a server of ``model`` with these resolved ``options``, on ``devices`` (the GPUs that it
    uses) and the host."""
    compute = _compute(model, options)
    host_model, context = model.size_bytes, _context(model, options)
    if not devices:
        return (Row(HOST, host_model, context, compute),)
    layers = max(model.shape.get("block_count") or 1, 1)
    on = number(options, "n_gpu_layers", -1)
    share = 1.0 if on < 0 else min(on / layers, 1.0)
    there = [
        Row(name, int(host_model * share * each), int(context * share * each), int(compute * (1 + each) / 2))
        for name, each in zip(devices, _split(options, len(devices)))
    ]
    tokens = (model.shape.get("vocab_size") or 0) * (model.shape.get("embedding_length") or 0)
    embeddings = tokens * model.size_bytes // max(model.parameter_count, 1)
    rest = int(host_model * (1 - share)) + min(embeddings, host_model)
    return (*there, Row(HOST, rest, int(context * (1 - share)), compute if share < 1 else compute // 4))


def _split(options: Mapping[str, Any], count: int) -> list[float]:
    """Return which part of a model each of ``count`` devices gets: as tensor_split says, else the same."""
    parts = re.findall(r"[0-9.]+", str(options.get("tensor_split", "")))
    try:
        sizes = [float(part) for part in parts]
    except ValueError:
        sizes = []
    whole = sum(sizes) if len(sizes) == count else 0
    return [size / whole for size in sizes] if whole else [1 / count] * count


def _context(model: Model, options: Mapping[str, Any]) -> int:
    shape = {name: value or 0 for name, value in model.shape.items()}
    cells, slots = context_of(model, options), slots_of(options)
    layers, heads = shape.get("block_count", 0), shape.get("head_count", 0)
    total = shape.get("head_count_kv_total", 0) or layers * heads
    width = shape.get("embedding_length", 0) // max(heads, 1)
    key, value = shape.get("key_length", 0) or width, shape.get("value_length", 0) or width
    if shape.get("kv_lora_rank"):  # latent attention: one compressed row for each token, and no values
        total, value = layers, 0
        key = max(key, shape["kv_lora_rank"])
    bytes_k, bytes_v = (_BYTES.get(str(options.get(f"cache_type_{side}", "f16")), 4.0) for side in "kv")
    cell = key * bytes_k + value * bytes_v
    seen = float(cells)
    window, each = shape.get("sliding_window", 0), _FULL_EACH.get(model.architecture, 0)
    if window and each and layers and not options.get("swa_full"):
        windowed = min(cells, slots * -(-(window + number(options, "ubatch_size", UBATCH)) // 256) * 256)
        full = layers // each
        seen = (cells * full + windowed * (layers - full)) / layers
    recurrent = 0
    if shape.get("ssm_inner_size"):
        inner, state = shape["ssm_inner_size"], shape.get("ssm_state_size", 0)
        recurrent = slots * layers * 4 * (inner * state + 3 * (inner + 2 * state))
        total = total if shape.get("head_count_kv_total") else 0
    return int(total * seen * cell) + recurrent


def _compute(model: Model, options: Mapping[str, Any]) -> int:
    shape = {name: value or 0 for name, value in model.shape.items()}
    cells, ubatch = context_of(model, options), number(options, "ubatch_size", UBATCH)
    width = shape.get("embedding_length", 0)
    experts = shape.get("expert_used_count", 0)
    inner = max(shape.get("feed_forward_length", 0), experts * shape.get("expert_feed_forward_length", 0))
    floats = (
        shape.get("vocab_size", 0) + 2 * width + max(2 * inner, experts * width, 2 * shape.get("ssm_inner_size", 0))
    )
    recurrent = bool(shape.get("ssm_inner_size")) and not shape.get("head_count_kv_total")
    mask = 0 if recurrent else ubatch * cells // 2
    attention = cells if options.get("flash_attn") == "off" else 0
    return 4 * ubatch * (floats + attention * max(shape.get("head_count", 1), 1)) + mask
