# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a file is for: a model with a task, a model's companion, or nothing that llama-server serves. Pure.

Architectures are those of llama.cpp src/llama-arch.cpp, and of programs that write GGUF files for other servers.
"""

from __future__ import annotations

from ansible_collections.magi.models.plugins.module_utils._models.facts import Facts


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _others(text: str) -> frozenset[str]:
    """Names as ``_other`` compares them: programs write both hyphens and underscores."""
    return _names(text.replace("-", "_"))


_ENCODERS = _names(
    """bert modern-bert nomic-bert nomic-bert-moe neo-bert jina-bert-v2 jina-bert-v3 eurobert gemma-embedding
    llama-embed t5encoder"""
)
# How each drafts: the value of llama-server's option spec_type.
_DRAFTERS = {
    "gemma4-assistant": "draft-mtp",
    "eagle": "draft-eagle3",
    "eagle2": "draft-eagle3",
    "eagle3": "draft-eagle3",
    "dflash": "draft-dflash",
    "dspark": "draft-dspark",
}
_DRAFTER_ENDINGS = ("-assistant", "-mtp", "_mtp", "-draft", "-eagle3", "-dflash")
# Code: what the sentence says about it, and the architectures.
_OTHERS: dict[str, tuple[str, frozenset[str]]] = {
    "image_model": (
        "is part of a model for images or video ({}); use it with stable-diffusion.cpp or ComfyUI",
        _others(
            """flux flux2 sd sd1 sd2 sd3 sdxl aura auraflow hidream cosmos ltxv ltx2 hyvid hunyuan_video hunyuan_image
            hunyuan-dit wan wan22 lumina2 qwen_image qwen_image_edit chroma chroma_radiance z_image zimage kolors pixart
            omnigen omnigen2 mochi cogvideox svd kandinsky5 ovis_image longcat_image ernie_image anima pig cow vae taesd
            unet controlnet esrgan"""
        ),
    ),
    "text_encoder": (
        "is the text encoder of a model for images or video ({}); use it with stable-diffusion.cpp or ComfyUI",
        _others("t5xxl umt5 clip_l clip_g clip-l clip-g clip_text text_encoder"),
    ),
    "speech_model": (
        "is part of a model for speech or sound ({}); use it with the program that it was made for, such as llama-tts "
        "or whisper.cpp",
        _others(
            """wavtokenizer-dec qwen3tts qwen3-tts qwen3_tts qwen3_asr pockettts whisper moonshine parakeet canary
            sensevoice paraformer wav2vec2 hubert kokoro dia parler-tts snac bark encodec dac mimi csm vibevoice voxcpm
            cosyvoice chatterbox s3gen bigvgan vocos hifigan hifi-gan piper vits outetts f5-tts musicgen"""
        ),
    ),
    "vision_model": (
        "is a model that looks at images and writes no text ({}); use it with the program that it was made for",
        _others("sam sam2 sam3 mobile-sam yolo dino dinov2 dinov3 birefnet migan depthany depth-anything siglip vit"),
    ),
    "text_diffusion": (  # src/llama-arch.cpp llm_arch_is_diffusion
        "writes text by diffusion ({}), which llama-server does not do; run it with llama-diffusion-cli",
        _others("dream llada llada-moe rnd1"),
    ),
    "encoder_decoder": (
        "has an encoder besides its decoder ({}), which llama-server does not run; serve another model",
        _others("t5"),
    ),
    "foreign_format": (
        "is in Ollama's own format ({}); get the model as GGUF from its publisher, or serve it with Ollama",
        _others("gptoss mllama qwen25vl glmocr deepseekocr glm4moelite"),
    ),
}
# Names of tensors in files that name no architecture (stable-diffusion.cpp, ComfyUI, Diffusers).
_IMAGE_PARTS = _names(
    """first_stage_model cond_stage_model conditioner double_blocks single_blocks joint_blocks transformer_blocks
    single_transformer_blocks input_blocks output_blocks down_blocks up_blocks diffusion_model unet vae time_embed
    patch_embedding x_embedder"""
)


def task_of(facts: Facts) -> str:
    """``chat``, ``embedding`` or ``rerank``: by how it pools tokens, else by the architecture."""
    if facts.pooling == 4:
        return "rerank"
    return "embedding" if facts.pooling in (1, 2, 3) or facts.architecture in _ENCODERS else "chat"


def companion_kind(facts: Facts) -> str | None:
    """``adapter``, ``mmproj``, ``control_vector``, ``drafter``, or None for what is none of these.

    llama.cpp gguf-py/gguf/constants.py GGUFType; projectors older than general.type have the architecture clip.
    """
    if facts.kind == "adapter":
        return None if _other(facts.architecture or "") == "image_model" else "adapter"
    if facts.architecture == "clip" and facts.has_text_encoder and not facts.projector_types:
        return None
    if facts.kind == "mmproj" or facts.architecture == "clip":
        return "mmproj"
    if facts.architecture == "controlvector":
        return "control_vector"
    return "drafter" if drafts_by(facts) else None


def drafts_by(facts: Facts) -> str | None:
    """The value of spec_type that a drafter needs; None for what is not a drafter."""
    name = facts.architecture or ""
    if name in _DRAFTERS:
        return _DRAFTERS[name]
    if 0 < facts.layers <= (facts.nextn_layers or 0):  # a model's drafting layers in a file of their own
        return "draft-mtp"
    if name.endswith(_DRAFTER_ENDINGS):
        return next((kind for ending, kind in _DRAFTERS.items() if name.endswith(ending)), "draft-mtp")
    return None


def set_aside(facts: Facts) -> tuple[str, str] | None:
    """Code and reason why a well-formed file is not a model; None for one that is."""
    if facts.kind == "imatrix":
        return "imatrix", "is an importance matrix for quantizing, not a model"
    if facts.architecture is None and not facts.split_number:  # a later shard names none
        return _nameless(facts)
    name = (facts.architecture or "").lower()
    code = _other(name)
    if code:
        return code, _OTHERS[code][0].format(facts.architecture)
    if name == "t5encoder" and facts.pooling is None:
        return "text_encoder", _OTHERS["text_encoder"][0].format(facts.architecture)
    if name == "clip":
        return "text_encoder", "has a CLIP text encoder, which llama-server does not serve; use it with clip.cpp"
    if facts.has_vision or ({"v", "mm"} & set(facts.parts) and facts.architecture):
        return "foreign_format", (
            "has its vision part in one file with the model, Ollama's own format; get the model and its projector as "
            "GGUF from their publisher, or serve it with Ollama"
        )
    if facts.tensor_count == 0 and (facts.split_count or 0) < 2:
        return "vocab_only", "holds a vocabulary and no weights"
    return None


def _other(architecture: str) -> str | None:
    """The code of what is not a language model; a version may follow its name, as in wan2.2 and flux.1-dev."""
    name = architecture.lower().replace("-", "_")
    for code, (_reason, architectures) in _OTHERS.items():
        if any(name.startswith(other) and not name[len(other) : len(other) + 1].isalpha() for other in architectures):
            return code
    return None


def _nameless(facts: Facts) -> tuple[str, str]:
    if _IMAGE_PARTS & set(facts.parts):
        return "image_model", _OTHERS["image_model"][0].format("its tensors say so")
    return (
        "no_architecture",
        "names no architecture (general.architecture), so llama-server can't load it; convert the model again with "
        "convert_hf_to_gguf.py",
    )
