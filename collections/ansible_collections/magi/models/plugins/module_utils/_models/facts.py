# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is kept of a header and its file: plain values that travel through JSON. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.text import one_line
from ansible_collections.magi.models.plugins.module_utils._gguf.format import Array, Header

# What a memory estimate needs: our name → the key behind "<architecture>." (llama.cpp src/llama-arch.cpp).
_SHAPE_KEYS: Mapping[str, str] = {
    "block_count": "block_count",
    "embedding_length": "embedding_length",
    "feed_forward_length": "feed_forward_length",
    "head_count": "attention.head_count",
    "head_count_kv": "attention.head_count_kv",
    "key_length": "attention.key_length",
    "value_length": "attention.value_length",
    "sliding_window": "attention.sliding_window",
    "kv_lora_rank": "attention.kv_lora_rank",
    "expert_count": "expert_count",
    "expert_used_count": "expert_used_count",
    "expert_feed_forward_length": "expert_feed_forward_length",
    "ssm_state_size": "ssm.state_size",
    "ssm_inner_size": "ssm.inner_size",
    "vocab_size": "vocab_size",
}


# What a projector delivers, by its type: the tensor and the axis of its shape (llama.cpp tools/mtmd/clip.cpp
# clip_n_mmproj_embd). These types are older than the key projection_dim, which means something else there, or is 0.
_WIDTH_TENSORS: Mapping[str, tuple[str, int]] = {
    "mlp": ("mm.2.weight", 1),
    "ldp": ("mm.model.mb_block.1.block.2.1.bias", 0),
    "ldpv2": ("mm.model.peg.0.bias", 0),
    "resampler": ("resampler.proj.weight", 0),
    "adapter": ("adapter.linear.dense_4h_to_h.weight", 1),
}
_SIDES = ("", "vision.", "audio.", "gen.audio.")  # of a projector's keys


@dataclass(frozen=True)
class Facts:
    """What is kept of a header: plain values that travel through JSON."""

    architecture: str | None
    kind: str | None  # general.type: model, adapter, mmproj, imatrix, …
    name: str | None
    basename: str | None  # "SmolLM2": a part of its name
    size_label: str | None  # "135M"
    finetune: str | None  # "Instruct"
    file_type: int | None
    weights: Mapping[str, int]  # elements by tensor type, see Header.weights_by_type
    parts: Sequence[str]  # see Header.parts
    tensor_count: int
    parameter_count: int
    context_length: int | None  # tokens
    shape: Mapping[str, int | None]
    pooling: int | None  # 0 none, 1 mean, 2 cls, 3 last, 4 rank (llama.cpp include/llama.h llama_pooling_type)
    has_vision: bool  # a vision part inside the model, which only Ollama writes
    layers: int  # that have tensors
    nextn_layers: int | None  # of those, the ones that only draft: multi-token prediction
    deepstack: int | None  # layers that take part of a projector's output; in a projector, those it delivers for
    projector_types: Sequence[str]  # of a projector
    projector_width: int | None  # of a projector: what it delivers for one layer
    has_text_encoder: bool  # of a clip file
    split_number: int | None  # from 0
    split_count: int | None
    split_tensors: int | None  # of all shards together
    tensor_names: str  # of a shard: eight hexadecimal digits for each tensor
    fingerprint: str

    @classmethod
    def of(cls, header: Header) -> Facts:
        data = header.metadata
        architecture = one_line(data.get("general.architecture"))
        is_clip, vision = architecture == "clip", f"{architecture}.vision."
        types = [kind for kind in (one_line(data.get(f"clip.{side}projector_type")) for side in _SIDES) if kind]
        return cls(
            architecture=architecture,
            kind=one_line(data.get("general.type")),
            name=one_line(data.get("general.name")),
            basename=one_line(data.get("general.basename")),
            size_label=one_line(data.get("general.size_label")),
            finetune=one_line(data.get("general.finetune")),
            file_type=_integer(data.get("general.file_type")),
            weights=dict(header.weights_by_type),
            parts=list(header.parts),
            tensor_count=header.tensor_count,
            parameter_count=header.parameter_count,
            context_length=_integer(data.get(f"{architecture}.context_length")),
            shape=_shape(data, architecture),
            pooling=_integer(data.get(f"{architecture}.pooling_type")),
            has_vision=not is_clip and any(key.startswith(vision) for key in data),
            layers=header.layers,
            nextn_layers=_integer(data.get(f"{architecture}.nextn_predict_layers")),
            deepstack=_deepstack(header, architecture),
            projector_types=types,
            projector_width=_projector_width(header, types) if is_clip else None,
            has_text_encoder=is_clip and data.get("clip.has_text_encoder") is True,
            split_number=_integer(data.get("split.no")),
            split_count=_integer(data.get("split.count")),
            split_tensors=_integer(data.get("split.tensors.count")),
            tensor_names="".join(f"{zlib.crc32(name.encode()):08x}" for name in header.tensor_names),
            fingerprint=header.fingerprint,
        )

    def to_row(self) -> list[Any]:
        """Plain values for JSON, without names: a registry has a row for each file, and each run reads it."""
        return [list(value.values()) if name == "shape" else value for name, value in vars(self).items()]

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Facts:
        """The inverse of ``to_row``."""
        values = dict(zip((item.name for item in fields(cls)), row))
        return cls(**{**values, "shape": dict(zip((*_SHAPE_KEYS, "head_count_kv_total"), values["shape"]))})


def _integer(value: Any) -> int | None:
    """A number from the metadata; the largest where there is one per layer."""
    if isinstance(value, Array) and value.values:
        numbers = [number for number in map(_integer, value.values) if number is not None]
        return max(numbers, default=None)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63:
        return value
    return None


def _shape(data: Mapping[str, Any], architecture: str | None) -> dict[str, int | None]:
    shape = {name: _integer(data.get(f"{architecture}.{key}")) for name, key in _SHAPE_KEYS.items()}
    tokens = data.get("tokenizer.ggml.tokens")
    if shape["vocab_size"] is None and isinstance(tokens, Array):
        shape["vocab_size"] = tokens.length
    per_layer = data.get(f"{architecture}.attention.head_count_kv")
    # Layers may differ, and some have none (recurrent ones): the cache's size follows the sum.
    if isinstance(per_layer, Array) and per_layer.values is not None:
        shape["head_count_kv_total"] = sum(_integer(heads) or 0 for heads in per_layer.values)
    elif shape["head_count_kv"] is not None and shape["block_count"] is not None:
        shape["head_count_kv_total"] = shape["head_count_kv"] * shape["block_count"]
    else:
        shape["head_count_kv_total"] = None
    return shape


def _deepstack(header: Header, architecture: str | None) -> int | None:
    """llama.cpp src/llama-hparams.cpp n_embd_inp, src/models/granite-swa.cpp, tools/mtmd/clip.cpp TN_DEEPSTACK."""
    data = header.metadata
    if architecture == "clip":
        layers = {name.split(".")[2] for name in header.shapes if name.startswith("v.deepstack.")}
        said = data.get("clip.vision.is_deepstack_layers")
        if layers or not isinstance(said, Array) or said.values is None:
            return len(layers) or None
        return sum(map(bool, said.values))
    mapping = data.get(f"{architecture}.deepstack_mapping")
    if isinstance(mapping, Array) and mapping.values:
        return len({layer for layer in mapping.values if isinstance(layer, int) and layer >= 0})
    return _integer(data.get(f"{architecture}.n_deepstack_layers"))


def _projector_width(header: Header, types: Sequence[str]) -> int | None:
    tensor, axis = _WIDTH_TENSORS.get(types[0] if types else "mlp", ("", 0))
    shape = header.shapes.get(tensor, ())
    if len(shape) > axis:
        return shape[axis]
    widths = (_integer(header.metadata.get(f"clip.{side}projection_dim")) for side in _SIDES)
    return next(filter(None, widths), None)
