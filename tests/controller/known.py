"""Hosts for the controller's tests: plain values, as read from real hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._llama.help import parse_help
from ansible_collections.magi.models.plugins.module_utils._llama.options import Binary
from ansible_collections.magi.models.plugins.module_utils._models.model import FileVersion, Model

from magi.state.catalog import Known

ROOT = Path(__file__).parents[2]
HELP = ROOT / "collections/ansible_collections/magi/models/tests/unit/fixtures/llama-server-help.txt"
BINARY = Binary("/opt/llama-server", "11434", "11434 15405344 1795385464", parse_help(HELP.read_text()), devices=())


def model(model_id: str, name: str, tier: str, **more: Any) -> dict[str, Any]:
    """Return a model as in the registry; ``name`` is the display name without the quantization."""
    quantization = model_id.rpartition("-")[2].upper()
    path = f"/models/{name.replace(' ', '-')}-{quantization}.gguf"
    found = Model(
        id=model_id,
        display_name=f"{name} ({quantization})",
        quantization=quantization,
        tier=tier,
        task="chat",
        path=path,
        files=(FileVersion(path, 1 << 30, 5),),
        size_bytes=1 << 30,
        architecture="llama",
        parameter_count=1 << 30,
        context_length=4096,
        shape={},
        mmproj=None,
        duplicates=(),
        fingerprint="f" * 64,
    )
    return {**found.to_dict(), **more}


Q2 = model("deepseek-r1-qwen3-8b-q2_k", "DeepSeek R1 Qwen3 8B", "Q2")
Q3 = model("deepseek-r1-qwen3-8b-q3_k_m", "DeepSeek R1 Qwen3 8B", "Q3")
Q4 = model("llama-3.2-3b-q4_k_m", "Llama 3.2 3B", "Q4")


def host(name: str = "gpu1", *models: dict[str, Any], **more: Any) -> Known:
    return Known(name, tuple(models or (Q2, Q3, Q4)), **more)
