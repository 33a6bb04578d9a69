# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The names of files and models: slugs, stems, shards, families. Pure."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import TYPE_CHECKING

from ansible_collections.magi.models.plugins.module_utils._base.text import one_line
from ansible_collections.magi.models.plugins.module_utils._models.quantization import without_quantization

if TYPE_CHECKING:  # a run that reads no header needs no facts
    from ansible_collections.magi.models.plugins.module_utils._models.facts import Facts

_SHARD = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})", re.DOTALL)
# A general.name that nobody chose: what converters put there when they have none, a path, or a hash.
_NO_NAME = re.compile(
    r"(ggml[-_ ])?models?|snapshots?|main|master|unknown|untitled|output|merged?|checkpoint[-_ ]?\d*|hf|gguf|tmp\w*|\W*"
    r"|[0-9a-f]{20,}|.*/.*/.*|[./].*|[A-Za-z]:\\.*",
    re.IGNORECASE,
)
MAX_ID = 120  # characters: an id becomes part of file names, of 255 bytes at most


def slug(text: str) -> str:
    """``text`` as ``[a-z0-9][a-z0-9._-]*``; text without any such character becomes ``model``."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    if not re.search("[a-z0-9]", plain):
        plain = f"model-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}" if text else "model"
    plain = re.sub(r"[^a-z0-9._]+", "-", plain).lstrip("._-").rstrip("-")
    if len(plain) > MAX_ID:
        plain = f"{plain[: MAX_ID - 9]}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}"
    return plain


def stem(path: str) -> str:
    """The file name of a path without ``.gguf``."""
    name = path.rpartition("/")[2]
    return name[:-5] if name.lower().endswith(".gguf") else name


def shard_of(name: str) -> tuple[str, int, int] | None:
    """Prefix, number from 1 and total of a shard's name (llama.cpp include/llama.h llama_split_path)."""
    match = _SHARD.fullmatch(name)
    return (match["prefix"], int(match["number"]), int(match["total"])) if match else None


def family(name: str) -> str:
    """What the names of a model in several quantizations, and of its projector, have in common."""
    without = without_quantization(re.sub("mmproj", "", name, flags=re.IGNORECASE))
    words = re.sub(r"[^a-z0-9]+", "-", without.lower()).strip("-")
    return re.sub(r"(^|-)model$", "", words)


def display_name_of(facts: Facts, name: str, quantization: str) -> str:
    """``DeepSeek R1 Qwen3 8B (Q2_K)``: what the file says it is, else its name, and the quantization.

    The publisher's own parts (general.basename, size_label, finetune) beat general.name. Where the file's ``name`` is
    of the same model but the parts add something else, such as a training run, the name is better.
    """
    stem_ = one_line(without_quantization(name).strip("-._ "))
    parts = " ".join(filter(None, (facts.basename, facts.size_label, facts.finetune))) if facts.basename else None
    if parts and stem_ and _words(facts.basename) <= _words(stem_) and not _words(parts) <= _words(stem_):
        parts = stem_
    said = facts.name if facts.name and not _NO_NAME.fullmatch(facts.name) else None
    return f"{parts or said or stem_ or 'unnamed'} ({quantization})"


def _words(text: str | None) -> set[str]:
    return set(re.findall(r"[a-z]+|[0-9]+", (text or "").lower()))
