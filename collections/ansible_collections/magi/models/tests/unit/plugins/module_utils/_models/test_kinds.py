# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a file is for: a task, a companion, or nothing that llama-server serves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._llama.architectures import _KNOWN
from ansible_collections.magi.models.plugins.module_utils._models.assemble import assemble
from ansible_collections.magi.models.plugins.module_utils._models.kinds import set_aside, task_of
from ansible_collections.magi.models.tests.unit.plugins.module_utils._models.builders import FACTS, entry


@pytest.mark.parametrize(
    ("architecture", "pooling", "task"),
    [
        ("llama", None, "chat"),
        ("qwen3", 0, "chat"),
        ("qwen3", 3, "embedding"),
        ("qwen3", 4, "rerank"),
        ("bert", 1, "embedding"),
        ("bert", 2, "embedding"),
        ("bert", 4, "rerank"),
        ("bert", None, "embedding"),
        ("gemma-embedding", None, "embedding"),
        ("t5encoder", 1, "embedding"),
    ],
)
def test_the_task_is_told_by_pooling_else_by_the_architecture(architecture, pooling, task):
    assert task_of(replace(FACTS, architecture=architecture, pooling=pooling)) == task
    assert [
        item.task for item in assemble([entry("/m/x.gguf", architecture=architecture, pooling=pooling)]).models
    ] == [task]


ASIDE = {
    "imatrix": ({"kind": "imatrix", "architecture": None}, "imatrix", "importance matrix"),
    "no architecture": ({"architecture": None}, "no_architecture", "convert_hf_to_gguf.py"),
    "vocabulary": ({"tensor_count": 0}, "vocab_only", "no weights"),
    "flux": ({"architecture": "flux"}, "image_model", "stable-diffusion.cpp"),
    "sd3": ({"architecture": "sd3"}, "image_model", "stable-diffusion.cpp"),
    "wan": ({"architecture": "wan"}, "image_model", "ComfyUI"),
    "wan, with a version": ({"architecture": "wan2.2"}, "image_model", "ComfyUI"),
    "with a hyphen": ({"architecture": "qwen-image"}, "image_model", "ComfyUI"),
    "whisper, with a size": ({"architecture": "whisper-large-v3"}, "speech_model", "whisper.cpp"),
    "a LoRA of flux": ({"architecture": "flux", "kind": "adapter"}, "image_model", "ComfyUI"),
    "stable-diffusion.cpp's": (
        {"architecture": None, "parts": ["first_stage_model", "model"]},
        "image_model",
        "ComfyUI",
    ),
    "text encoder": ({"architecture": "t5encoder"}, "text_encoder", "ComfyUI"),
    "clip": ({"architecture": "clip", "has_text_encoder": True}, "text_encoder", "clip.cpp"),
    "whisper": ({"architecture": "whisper"}, "speech_model", "whisper.cpp"),
    "vocoder": ({"architecture": "wavtokenizer-dec"}, "speech_model", "llama-tts"),
    "sam": ({"architecture": "sam"}, "vision_model", "writes no text"),
    "text diffusion": ({"architecture": "llada"}, "text_diffusion", "llama-diffusion-cli"),
    "encoder and decoder": ({"architecture": "t5"}, "encoder_decoder", "does not run"),
    "Ollama's, by its name": ({"architecture": "gptoss"}, "foreign_format", "Ollama"),
    "Ollama's, by its keys": ({"architecture": "gemma3", "has_vision": True}, "foreign_format", "Ollama"),
    "Ollama's, by its tensors": ({"architecture": "gemma3", "parts": ["blk", "mm", "v"]}, "foreign_format", "Ollama"),
}


@pytest.mark.parametrize("kind", ASIDE)
def test_what_no_llama_server_serves_is_set_aside_with_a_reason_and_a_remedy(kind):
    facts, code, said = ASIDE[kind]
    inventory = assemble([entry("/m/x.gguf", **facts)])
    assert (inventory.models, inventory.companions) == ((), ())
    (item,) = inventory.rejected
    assert item.code == code
    assert item.reason.startswith("/m/x.gguf ")
    assert item.reason.endswith(".")
    assert said in item.reason


COMPANIONS = {
    "projector": ({"architecture": "clip"}, "mmproj", "fits no model"),
    "projector by type": ({"kind": "mmproj"}, "mmproj", "fits no model"),
    "adapter": ({"kind": "adapter"}, "adapter", "option lora"),
    "control vector": ({"architecture": "controlvector"}, "control_vector", "option control_vector"),
    "mtp": ({"architecture": "gemma4-assistant"}, "drafter", "model_draft and spec_type: draft-mtp"),
    "mtp, its layers alone": (
        {"architecture": "qwen35", "layers": 1, "nextn_layers": 1},
        "drafter",
        "model_draft and spec_type: draft-mtp",
    ),
    "eagle": ({"architecture": "eagle3"}, "drafter", "model_draft and spec_type: draft-eagle3"),
    "dflash": ({"architecture": "dflash"}, "drafter", "model_draft and spec_type: draft-dflash"),
    "of a newer model": ({"architecture": "gemma9-assistant"}, "drafter", "model_draft and spec_type: draft-mtp"),
}


@pytest.mark.parametrize("kind", COMPANIONS)
def test_what_serves_a_model_is_a_companion_with_a_hint(kind):
    facts, code, said = COMPANIONS[kind]
    inventory = assemble([entry("/m/x-Q4_0.gguf", **facts)])
    assert (inventory.models, inventory.rejected) == ((), ())
    (item,) = inventory.companions
    assert (item.kind, item.id) == (code, "x-q4_0")
    assert said in item.reason


def test_a_model_with_layers_that_draft_is_a_model():
    assert assemble([entry("/m/x-Q4_0.gguf", architecture="qwen35", layers=41, nextn_layers=1)]).models


def test_of_what_llama_cpp_knows_only_this_is_no_model():
    aside = {name for name in _KNOWN if set_aside(replace(FACTS, architecture=name))}
    assert aside == {
        *("dream", "llada", "llada-moe", "rnd1", "t5", "t5encoder"),
        *("wavtokenizer-dec", "qwen3tts", "pockettts"),
    }
