# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which projector goes with which model. Pure.

With another model's projector, llama-server ends or answers nonsense, so no projector is better than a guess.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ansible_collections.magi.models.plugins.module_utils._models.draft import Draft
from ansible_collections.magi.models.plugins.module_utils._models.found import KnownFile
from ansible_collections.magi.models.plugins.module_utils._models.naming import family
from ansible_collections.magi.models.plugins.module_utils._models.quantization import FILE_TYPES, quantization_in

# Types of projectors, and the architectures that they are made for. llama.cpp's converters (conversion/*.py) make both
# from one model; the older ones come from tools/mtmd/README.md.
_MADE_FOR: Mapping[str, str] = {
    "mlp": "llama qwen2 qwen3 phi2 phi3 gemma gemma2 stablelm minicpm deepseek granite internlm2 mistral3",
    "ldp": "llama",
    "ldpv2": "llama",
    "resampler": "minicpm minicpm3 llama qwen2 qwen3",
    "adapter": "chatglm glm4",
    "qwen2vl_merger": "qwen2vl",
    "qwen2.5vl_merger": "qwen2vl",
    "qwen2.5o": "qwen2vl",
    "qwen3vl_merger": "qwen3vl qwen3vlmoe qwen35 qwen35moe qwen4exp clef",
    "ling3vl": "bailingmoe3",
    "step3vl": "qwen3 step35",
    "gemma3": "gemma3",
    "gemma3nv": "gemma3n",
    "gemma3na": "gemma3n",
    "gemma4v": "gemma4",
    "gemma4a": "gemma4",
    "gemma4uv": "gemma4",
    "gemma4ua": "gemma4",
    "phi4": "phi3",
    "idefics3": "llama",
    "pixtral": "llama mistral3 mistral4",
    "ultravox": "llama qwen3 gemma3 glm4",
    "internvl": "internlm2 llama qwen2 qwen3 qwen3moe phi3 gpt-oss",
    "llama4": "llama4",
    "qwen2a": "qwen2 qwen2vl",
    "qwen3a": "qwen3vl qwen3vlmoe qwen3",
    "glma": "llama",
    "voxtral": "llama mistral3",
    "meralion": "gemma2",
    "musicflamingo": "qwen2",
    "lfm2": "lfm2 lfm2moe",
    "lfm2a": "lfm2",
    "kimivl": "deepseek2",
    "kimik25": "deepseek2 kimi-linear kimi-k3",
    "paddleocr": "paddleocr",
    "lightonocr": "qwen3",
    "cogvlm": "cogvlm",
    "janus_pro": "llama",
    "dots_ocr": "qwen2",
    "dots3note_v": "dots3note",
    "dots3note_a": "dots3note",
    "deepseekocr": "deepseek2-ocr deepseek2",
    "deepseekocr2": "deepseek2-ocr deepseek2",
    "deepseek4v": "deepseek4",
    "glm4v": "glm4 glm4moe",
    "glm5v": "glm5-next",
    "youtuvl": "deepseek2",
    "nemotron_v2_vl": "nemotron_h nemotron_h_moe",
    "parakeet": "nemotron_h nemotron_h_moe",
    "exaone4_5": "exaone4",
    "hunyuanvl": "hunyuan_vl",
    "minicpmv4_6": "qwen35",
    "granite_speech": "granite granitehybrid",
    "granite4_vision": "granite granitehybrid granite_swa",
    "mimovl": "mimo2 qwen2",
    "mimo_audio": "mimo2 qwen2",
    "minimax_m3": "minimax-m3",
    "muse-glimmer": "muse-glimmer",
    "qwen3tts_spkenc": "qwen3tts",
    "qwen3tts_gen": "qwen3tts",
    "pockettts_spkenc": "pockettts",
    "pockettts_gen": "pockettts",
}
_PREFERENCE = ["F16", "BF16", "Q8_0", "F32"]  # projectors are small, and most are published and tested as F16


class Pairing(NamedTuple):
    """The ids of the models that a projector fits, and of those that it is served with."""

    fits: tuple[str, ...]
    serves: tuple[str, ...]


def pair_projectors(drafts: Sequence[Draft], projectors: Sequence[KnownFile]) -> dict[str, Pairing]:
    """Give each draft the projector made for it; return the pairing of each projector that fits any, by path.

    A projector fits a model by its type, which goes with an architecture, and by the width that it delivers. It must
    lie in the model's folder or in one above; the deepest wins. One whose name says which model it belongs to goes to
    no other model, even if it fits.
    """
    claims = [(entry, _claimed(entry, drafts)) for entry in projectors]
    serves: dict[str, set[str]] = defaultdict(set)
    for draft in drafts:
        fitting = [entry for entry, ids in claims if draft.id in ids]
        if fitting:
            best = min(fitting, key=lambda entry: (-len(entry.file.folder), _rank(entry), entry.file.path))
            draft.mmproj = best.file
            serves[best.file.path].add(draft.id)
    fits: dict[str, set[str]] = defaultdict(set)
    for entry, ids in claims:
        fits[entry.file.path] |= ids
    return {path: Pairing(tuple(sorted(ids)), tuple(sorted(serves[path]))) for path, ids in fits.items() if ids}


def made_for(entry: KnownFile) -> str:
    """For people: the type of a projector, and the width that it delivers."""
    width = entry.facts.projector_width
    return f"{', '.join(_types(entry))}, {f'width {width}' if width else 'of unknown width'}"


def _claimed(entry: KnownFile, drafts: Iterable[Draft]) -> set[str]:
    """The ids of the drafts that may get this projector."""
    fitting = [draft for draft in drafts if _is_below(draft, entry) and _fits(entry, draft)]
    name = family(entry.file.name)
    named = [draft for draft in fitting if name and (draft.family.startswith(name) or name.startswith(draft.family))]
    return {draft.id for draft in named or fitting}


def _is_below(draft: Draft, entry: KnownFile) -> bool:
    return f"{draft.first.file.folder}/".startswith(f"{entry.file.folder.rstrip('/')}/")


def _fits(entry: KnownFile, draft: Draft) -> bool:
    projector, model = entry.facts, draft.first.facts
    width, takes = projector.projector_width, model.shape.get("embedding_length")
    if not width or not takes or not all(_goes_with(kind, model.architecture or "") for kind in _types(entry)):
        return False
    all_layers = takes * (1 + (model.deepstack or 0))
    if projector.deepstack is not None:
        return width * (1 + projector.deepstack) == all_layers
    return width in (takes, all_layers)  # whether the key counts all layers depends on the program that wrote it


def _types(entry: KnownFile) -> Sequence[str]:
    return entry.facts.projector_types or ("mlp",)  # tools/mtmd/clip.cpp: projectors older than the key


def _goes_with(kind: str, architecture: str) -> bool:
    """Whether a projector of this type is made for this architecture; for types newer than this list, whether their
    names match."""
    if kind in _MADE_FOR:
        return architecture in _MADE_FOR[kind].split()
    plain, name = (re.sub(r"[^a-z0-9]", "", text.lower()) for text in (kind, architecture))
    name = re.sub("moe$", "", name)
    return bool(name and re.fullmatch(f"{name}(v|a|uv|ua|vision|audio|merger|projector)*", plain))


def _rank(entry: KnownFile) -> int:
    """The place of its precision in the order of preference."""
    said = (
        FILE_TYPES.get(entry.facts.file_type) if entry.facts.file_type is not None else quantization_in(entry.file.name)
    )
    return _PREFERENCE.index(said) if said in _PREFERENCE else len(_PREFERENCE)
