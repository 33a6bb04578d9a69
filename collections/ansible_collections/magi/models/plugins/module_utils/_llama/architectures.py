# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The architectures that a llama-server build knows, as far as its file tells.

The names are strings of the program, or of the library libllama beside it. One that is not there is certainly unknown;
one that is there may be part of something else.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

_BUILD = 11434
# Those of that build (llama.cpp src/llama-arch.cpp LLM_ARCH_NAMES): newer ones know them too, and are not searched.
_KNOWN = frozenset(
    """
    llama llama4 deci falcon grok gpt2 gptj gptneox mpt baichuan starcoder refact bert modern-bert nomic-bert
    nomic-bert-moe neo-bert jina-bert-v2 jina-bert-v3 eurobert bloom stablelm qwen qwen2 qwen2moe qwen2vl qwen3
    qwen3moe qwen3next qwen3vl qwen3vlmoe qwen35 qwen35moe clef qwen4exp phi2 phi3 phimoe plamo plamo2 plamo3
    codeshell orion internlm2 minicpm minicpm3 gemma gemma2 gemma3 gemma3n gemma4 gemma4-assistant gemma-embedding
    starcoder2 mamba mamba2 maple jamba falcon-h1 xverse command-r cohere2 cohere2moe dbrx olmo olmo2 olmoe
    muse-glimmer openelm arctic deepseek deepseek2 deepseek2-ocr deepseek32 deepseek4 chatglm glm4 glm4moe glm-dsa
    bitnet t5 t5encoder jais jais2 nemotron nemotron_h nemotron_h_moe exaone exaone4 exaone-moe rwkv6 rwkv6qwen2
    rwkv7 arwkv7 granite granitemoe granitehybrid graniteswitch granite_swa chameleon wavtokenizer-dec plm
    bailingmoe bailingmoe2 bailingmoe3 dots1 dots3note arcee afmoe laguna ernie4_5 ernie4_5-moe hunyuan-moe
    hunyuan-dense hunyuan_vl hy_v3 hy_v4 smollm3 gpt-oss lfm2 lfm2moe dream smallthinker llada llada-moe seed_oss
    grovemoe apertus minimax-01 hrm_text minimax-m2 minimax-m3 cogvlm rnd1 pangu-embedded mistral3 eagle3 dflash
    mistral4 paddleocr mimo2 step35 spark2_5 llama-embed maincoder kimi-linear kimi-k3 glm5-next talkie mellum
    nanbeige qwen3tts pockettts
    """.split()  # noqa: SIM905  a list of one column would be a hundred lines long
)
_ANCHOR = b"gptneox\0"  # a name that all builds know, and that no other string ends with
_MAX_SIZE = 1 << 29  # bytes; a build for GPUs has its kernels in the same file, and is searched at some 3 GB/s


def unknown_architectures(binary: str, version: str, architectures: Iterable[str]) -> set[str]:
    """Return which of ``architectures`` the llama-server at ``binary`` does not know; none where that can't be told."""
    build = re.search(r"\bb?(\d{4,})\b", version)
    recent = build is not None and int(build[1]) >= _BUILD
    asked = {name for name in architectures if not (recent and name in _KNOWN)}
    if not asked:
        return set()
    for path in _places(Path(binary)):
        try:
            with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                if len(content) <= _MAX_SIZE and content.find(_ANCHOR) >= 0:
                    return {name for name in asked if content.find(name.encode() + b"\0") < 0}
        except (OSError, ValueError):
            continue
    return set()


def _places(binary: Path) -> Iterator[Path]:
    """The files that may hold the names: the library first, which is smaller."""
    folder = binary.resolve().parent
    for place in (folder, folder.parent / "lib", folder.parent / "lib64"):
        yield from sorted([*place.glob("libllama.so*"), *place.glob("libllama*.dylib")])
    yield binary
