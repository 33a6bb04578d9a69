# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What files and models are called: slugs, stems, shards, families. Pure."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from ansible_collections.magi.models.plugins.module_utils._base.text import one_line
from ansible_collections.magi.models.plugins.module_utils._models.facts import Facts
from ansible_collections.magi.models.plugins.module_utils._models.quantization import without_quantization

_SHARD = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})", re.DOTALL)
MAX_ID = 120  # characters: an id becomes part of file names, of 255 bytes at most


def slug(text: str) -> str:
    """``text`` as ``[a-z0-9][a-z0-9._-]*``; what has no such character at all becomes ``model``."""
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
    """What names of one model in several quantizations, or of its projector, have in common."""
    without = without_quantization(re.sub("mmproj", "", name, flags=re.IGNORECASE))
    return re.sub(r"[^a-z0-9]+", "-", without.lower()).strip("-")


def display_name_of(facts: Facts, name: str, quantization: str) -> str:
    """``DeepSeek R1 Qwen3 8B (Q2_K)``: general.name, else the file's stem without its quantization."""
    return f"{facts.name or one_line(without_quantization(name).rstrip('-._ ')) or 'unnamed'} ({quantization})"
