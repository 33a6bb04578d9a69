"""Headers of models of the common families, as large as the real ones, with tensors that are a hole in the file."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.magi.models.tests.unit.plugins.module_utils.gguf_files import F32, Q4_0, Tensor, build

Shape = tuple[int, ...]


def _matrix(name: str, *shape: int) -> Tensor:
    return Tensor(name, shape, Q4_0 if shape[0] % 32 == 0 and len(shape) > 1 else F32)


def _attention(i: int, width: int, heads: int, kv: int, key: int, normed: bool = False) -> list[Tensor]:
    found = [
        _matrix(f"blk.{i}.attn_norm.weight", width),
        _matrix(f"blk.{i}.attn_q.weight", width, heads * key),
        _matrix(f"blk.{i}.attn_k.weight", width, kv * key),
        _matrix(f"blk.{i}.attn_v.weight", width, kv * key),
        _matrix(f"blk.{i}.attn_output.weight", heads * key, width),
    ]
    return found + [_matrix(f"blk.{i}.attn_{x}_norm.weight", key) for x in "kq" if normed]


def _dense(i: int, width: int, inner: int) -> list[Tensor]:
    return [
        _matrix(f"blk.{i}.ffn_norm.weight", width),
        *(_matrix(f"blk.{i}.ffn_{x}.weight", width, inner) for x in ("gate", "up")),
        _matrix(f"blk.{i}.ffn_down.weight", inner, width),
    ]


def _experts(i: int, width: int, inner: int, count: int, norm: bool = True) -> list[Tensor]:
    return [
        *([_matrix(f"blk.{i}.ffn_norm.weight", width)] if norm else []),
        _matrix(f"blk.{i}.ffn_gate_inp.weight", width, count),
        *(_matrix(f"blk.{i}.ffn_{x}_exps.weight", width, inner, count) for x in ("gate", "up")),
        _matrix(f"blk.{i}.ffn_down_exps.weight", inner, width, count),
    ]


def _ends(width: int, vocabulary: int, tied: bool = False) -> list[Tensor]:
    return [
        _matrix("token_embd.weight", width, vocabulary),
        _matrix("output_norm.weight", width),
        *([] if tied else [_matrix("output.weight", width, vocabulary)]),
    ]


def _pairs(arch: str, layers: int, width: int, vocabulary: int, context: int, **more: int | float) -> list[tuple]:
    named = {"block_count": layers, "embedding_length": width, "vocab_size": vocabulary, "context_length": context}
    numbers = {**named, **{key.replace("__", "."): value for key, value in more.items()}}
    return [
        ("general.architecture", "str", arch),
        ("general.file_type", "u32", 2),
        ("tokenizer.ggml.model", "str", "none"),
        (f"{arch}.attention.layer_norm_rms_epsilon", "f32", 1e-6),
        *((f"{arch}.{key}", "f32" if isinstance(value, float) else "u32", value) for key, value in numbers.items()),
    ]


def _heads(heads: int, kv: int, key: int) -> dict[str, int]:
    return {
        "attention__head_count": heads,
        "attention__head_count_kv": kv,
        "attention__key_length": key,
        "attention__value_length": key,
        "rope__dimension_count": key,
    }


def _llama() -> tuple[list[tuple], list[Tensor]]:
    pairs = _pairs("llama", 32, 4096, 128256, 131072, feed_forward_length=14336, **_heads(32, 8, 128))
    layers = [t for i in range(32) for t in (*_attention(i, 4096, 32, 8, 128), *_dense(i, 4096, 14336))]
    return pairs, _ends(4096, 128256) + layers


def _qwen3() -> tuple[list[tuple], list[Tensor]]:
    pairs = _pairs("qwen3", 36, 2560, 151936, 40960, feed_forward_length=9728, **_heads(32, 8, 128))
    layers = [t for i in range(36) for t in (*_attention(i, 2560, 32, 8, 128, True), *_dense(i, 2560, 9728))]
    return pairs, _ends(2560, 151936, tied=True) + layers


def _qwen3moe() -> tuple[list[tuple], list[Tensor]]:
    more = {"feed_forward_length": 6144, "expert_count": 128, "expert_used_count": 8, "expert_feed_forward_length": 768}
    pairs = _pairs("qwen3moe", 48, 2048, 151936, 40960, **more, **_heads(32, 4, 128))
    layers = [t for i in range(48) for t in (*_attention(i, 2048, 32, 4, 128, True), *_experts(i, 2048, 768, 128))]
    return pairs, _ends(2048, 151936) + layers


def _gemma3() -> tuple[list[tuple], list[Tensor]]:
    more = {"feed_forward_length": 10240, "attention__sliding_window": 1024}
    pairs = _pairs("gemma3", 34, 2560, 262208, 131072, **more, **_heads(8, 4, 256))
    layers = [t for i in range(34) for t in (*_attention(i, 2560, 8, 4, 256, True), *_dense(i, 2560, 10240))]
    layers += [_matrix(f"blk.{i}.post_{x}_norm.weight", 2560) for i in range(34) for x in ("attention", "ffw")]
    return pairs, _ends(2560, 262208, tied=True) + layers


def _gpt_oss() -> tuple[list[tuple], list[Tensor]]:
    more = {"feed_forward_length": 2880, "expert_count": 32, "expert_used_count": 4, "expert_feed_forward_length": 2880}
    more |= {"attention__sliding_window": 128}
    pairs = _pairs("gpt-oss", 24, 2880, 201088, 131072, **more, **_heads(64, 8, 64))
    layers = []
    for i in range(24):
        layers += [*_attention(i, 2880, 64, 8, 64), *_experts(i, 2880, 2880, 32, norm=False)]
        layers += [_matrix(f"blk.{i}.post_attention_norm.weight", 2880), _matrix(f"blk.{i}.attn_sinks.weight", 64)]
        layers += [_matrix(f"blk.{i}.attn_output.bias", 2880), _matrix(f"blk.{i}.ffn_gate_inp.bias", 32)]
        layers += [Tensor(f"blk.{i}.ffn_{x}_exps.bias", (2880, 32)) for x in ("gate", "up", "down")]
        layers += [_matrix(f"blk.{i}.attn_{x}.bias", size) for x, size in (("q", 4096), ("k", 512), ("v", 512))]
    return pairs, _ends(2880, 201088) + layers


def _mamba() -> tuple[list[tuple], list[Tensor]]:
    more = {"ssm__conv_kernel": 4, "ssm__inner_size": 5120, "ssm__state_size": 16, "ssm__time_step_rank": 160}
    more |= {"feed_forward_length": 0, "attention__head_count": 0}
    layers = []
    for i in range(64):
        layers += [_matrix(f"blk.{i}.attn_norm.weight", 2560), _matrix(f"blk.{i}.ssm_in.weight", 2560, 10240)]
        layers += [Tensor(f"blk.{i}.ssm_conv1d.weight", (4, 5120)), _matrix(f"blk.{i}.ssm_conv1d.bias", 5120)]
        layers += [_matrix(f"blk.{i}.ssm_x.weight", 5120, 192), _matrix(f"blk.{i}.ssm_dt.weight", 160, 5120)]
        layers += [_matrix(f"blk.{i}.ssm_dt.bias", 5120), Tensor(f"blk.{i}.ssm_a", (16, 5120))]
        layers += [_matrix(f"blk.{i}.ssm_d", 5120), _matrix(f"blk.{i}.ssm_out.weight", 5120, 2560)]
    return _pairs("mamba", 64, 2560, 50280, 1048576, **more), _ends(2560, 50280, tied=True) + layers


def _deepseek2() -> tuple[list[tuple], list[Tensor]]:
    heads = {"attention__head_count": 16, "attention__head_count_kv": 1, "attention__kv_lora_rank": 512}
    heads |= {"attention__key_length": 576, "attention__value_length": 512, "rope__dimension_count": 64}
    heads |= {"attention__key_length_mla": 192, "attention__value_length_mla": 128}
    more = {
        "feed_forward_length": 10944,
        "expert_count": 64,
        "expert_used_count": 6,
        "expert_feed_forward_length": 1408,
    }
    more |= {"expert_shared_count": 2, "leading_dense_block_count": 1}
    layers = []
    for i in range(27):
        layers += [_matrix(f"blk.{i}.attn_norm.weight", 2048), _matrix(f"blk.{i}.attn_kv_a_norm.weight", 512)]
        layers += [_matrix(f"blk.{i}.attn_q.weight", 2048, 3072), _matrix(f"blk.{i}.attn_kv_a_mqa.weight", 2048, 576)]
        layers += [_matrix(f"blk.{i}.attn_k_b.weight", 128, 512, 16), _matrix(f"blk.{i}.attn_v_b.weight", 512, 128, 16)]
        layers += [_matrix(f"blk.{i}.attn_output.weight", 2048, 2048)]
        if i == 0:
            layers += _dense(i, 2048, 10944)
            continue
        layers += _experts(i, 2048, 1408, 64)
        layers += [_matrix(f"blk.{i}.ffn_{x}_shexp.weight", 2048, 2816) for x in ("gate", "up")]
        layers += [_matrix(f"blk.{i}.ffn_down_shexp.weight", 2816, 2048)]
    return _pairs("deepseek2", 27, 2048, 102400, 163840, **more, **heads), _ends(2048, 102400) + layers


FAMILIES = {
    "llama 8B": _llama,
    "qwen3 4B": _qwen3,
    "qwen3moe 30B": _qwen3moe,
    "gemma3 4B": _gemma3,
    "gpt-oss 20B": _gpt_oss,
    "mamba 2.8B": _mamba,
    "deepseek2 16B": _deepseek2,
}


def write_family(name: str, folder: Path) -> Path:
    """Write the file of a family: its header, and as many bytes as it says, none of which is on the disk."""
    pairs, tensors = FAMILIES[name]()
    path = folder / f"{name.replace(' ', '-')}.gguf"
    head = build(pairs, tensors, data=False)
    path.write_bytes(head)
    with path.open("r+b") as file:
        file.truncate(len(head) + sum(-(-tensor.nbytes // 32) * 32 for tensor in tensors))
    return path
