# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From the facts of GGUF files to models: pure functions over plain values, no file is touched here.

A model is one servable GGUF file or one complete set of shards. Everything else is a companion (it serves a
model: a projector, an adapter) or rejected, each with a code for programs and a sentence for people.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.text import counted, printable
from ansible_collections.magi.models.plugins.module_utils._gguf.reader import Array, Header

# llama.cpp include/llama.h enum llama_ftype; the missing ids were removed.
FILE_TYPES: Mapping[int, str] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
    41: "Q2_0",
}
_FILE_TYPE_GUESSED = 1024  # LLAMA_FTYPE_GUESSED, a flag
# llama.cpp src/llama-model-loader.cpp guesses these when general.file_type is missing.
_FILE_TYPE_OF_TENSORS = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "MXFP4": "MXFP4_MOE"}

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

_SHARD = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})", re.DOTALL)
_QUANTIZATION = re.compile(
    r"(?:^|(?<=[-._ ]))"
    r"(?:I?Q[1-8]_(?:[01]|K|NL|XXS|XS|S|M)(?:_(?:XXS|XS|S|M|L|XL))?|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32)"
    r"(?=$|[-._ ])",
    re.IGNORECASE,
)
_MAX_ID = 120  # characters: an id becomes part of file names, of 255 bytes at most
_MAX_TEXT = 200  # characters of a name that a file gives itself


@dataclass(frozen=True)
class Facts:
    """What is kept of a header: plain values that travel through JSON."""

    architecture: str | None
    kind: str | None  # general.type: model, adapter, mmproj, imatrix, …
    name: str | None
    file_type: int | None
    tensor_type: str | None  # the one that most bytes have
    tensor_count: int
    parameter_count: int
    context_length: int | None  # tokens
    shape: Mapping[str, int | None]
    projection_dim: int | None  # of a projector
    split_number: int | None  # from 0
    split_count: int | None
    split_tensors: int | None  # of all shards together
    tensor_names: str  # of a shard: eight hexadecimal digits for each tensor
    fingerprint: str

    @classmethod
    def of(cls, header: Header) -> Facts:
        data = header.metadata
        architecture = _text(data.get("general.architecture"))
        largest = max(header.bytes_by_type.items(), key=lambda item: item[1], default=(None, 0))
        return cls(
            architecture=architecture,
            kind=_text(data.get("general.type")),
            name=_text(data.get("general.name")),
            file_type=_integer(data.get("general.file_type")),
            tensor_type=largest[0],
            tensor_count=header.tensor_count,
            parameter_count=header.parameter_count,
            context_length=_integer(data.get(f"{architecture}.context_length")),
            shape=_shape(data, architecture),
            projection_dim=_integer(data.get("clip.vision.projection_dim")),
            split_number=_integer(data.get("split.no")),
            split_count=_integer(data.get("split.count")),
            split_tensors=_integer(data.get("split.tensors.count")),
            tensor_names="".join(f"{zlib.crc32(name.encode()):08x}" for name in header.tensor_names),
            fingerprint=header.fingerprint,
        )


@dataclass(frozen=True)
class File:
    """A GGUF file that was found, and where; identified by size, mtime and inode."""

    path: str
    size: int  # bytes
    mtime_ns: int
    inode: int
    device: int
    name: str  # what its model is called: the file's stem, or the name in a manifest
    folder: str  # files of one folder belong together (projectors, shards)
    qualifiers: tuple[str, ...]  # names of the folders above it, nearest first, to tell equal names apart

    @property
    def version(self) -> dict[str, Any]:
        """Path, size and mtime: when one of them changes, what has read the file is to start again."""
        return {"path": self.path, "size": self.size, "mtime_ns": self.mtime_ns}


@dataclass(frozen=True)
class Entry:
    """A found file and its facts; ``sha256`` where its content had to be compared or was asked for."""

    file: File
    facts: Facts
    sha256: str | None = None

    @property
    def content(self) -> str:
        """Equal for two entries only if their bytes are."""
        return self.sha256 or f"{self.file.device}:{self.file.inode}"


@dataclass(frozen=True)
class Rejected:
    """A file that is not a model: a stable ``code`` and a sentence."""

    id: str
    path: str
    code: str
    reason: str


@dataclass(frozen=True)
class Companion:
    """A file that serves models: ``kind`` is ``mmproj``, ``adapter`` or ``control_vector``."""

    path: str
    kind: str
    name: str
    architecture: str | None
    size_bytes: int
    models: tuple[str, ...]  # ids it is paired with
    reason: str


@dataclass(frozen=True)
class Model:
    """One servable GGUF file, or one complete set of shards."""

    id: str
    display_name: str
    quantization: str
    tier: str
    path: str  # what llama-server is given: the file, or the first shard
    files: tuple[Mapping[str, Any], ...]  # {path, size, mtime_ns} of each shard, in order
    size_bytes: int  # of all files
    architecture: str
    parameter_count: int
    context_length: int | None  # tokens the model was trained for
    shape: Mapping[str, int | None]
    mmproj: Mapping[str, Any] | None  # the projector to serve it with, as one of files
    duplicates: tuple[str, ...]  # paths of byte-identical copies
    fingerprint: str  # of the headers, see Header.fingerprint
    sha256: str | None = None  # of the file, or of the shards' digests; only where asked for

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            **plain,
            "files": [dict(file) for file in self.files],
            "mmproj": self.mmproj and dict(self.mmproj),
            "duplicates": list(self.duplicates),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Model:
        """The inverse of ``to_dict``."""
        return cls(**{**plain, "files": tuple(plain["files"]), "duplicates": tuple(plain["duplicates"])})


@dataclass(frozen=True)
class Inventory:
    """Everything that was found, sorted: models by id, the rest by path."""

    models: tuple[Model, ...] = ()
    companions: tuple[Companion, ...] = ()
    rejected: tuple[Rejected, ...] = ()

    def to_dict(self) -> dict[str, list[dict[str, Any]]]:
        """As plain values for JSON."""
        return {
            "models": [model.to_dict() for model in self.models],
            "companions": [{**asdict(item), "models": list(item.models)} for item in self.companions],
            "rejected": [asdict(item) for item in self.rejected],
        }


@dataclass
class _Shards:
    """The files that are named as shards of one set: those with facts, and those that were refused."""

    members: list[Entry] = field(default_factory=list)
    refused: list[Rejected] = field(default_factory=list)


@dataclass
class _Draft:
    """A model on its way: a set of files whose id and projector are not known yet."""

    entries: Sequence[Entry]
    name: str
    quantization: str
    duplicates: list[str] = field(default_factory=list)
    id: str = ""
    mmproj: File | None = None

    @property
    def first(self) -> Entry:
        return self.entries[0]

    @property
    def family(self) -> str:
        return family(self.name)


# ---- names ---------------------------------------------------------------------------------------


def slug(text: str) -> str:
    """``text`` as ``[a-z0-9][a-z0-9._-]*``; what has no such character at all becomes ``model``."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    if not re.search("[a-z0-9]", plain):
        plain = f"model-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}" if text else "model"
    plain = re.sub(r"[^a-z0-9._]+", "-", plain).lstrip("._-").rstrip("-")
    if len(plain) > _MAX_ID:
        plain = f"{plain[: _MAX_ID - 9]}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}"
    return plain


def stem(path: str) -> str:
    """The file name of a path without ``.gguf``."""
    name = path.rpartition("/")[2]
    return name[:-5] if name.lower().endswith(".gguf") else name


def shard_of(name: str) -> tuple[str, int, int] | None:
    """Prefix, number from 1 and total of a shard's name (llama.cpp include/llama.h llama_split_path)."""
    match = _SHARD.fullmatch(name)
    return (match["prefix"], int(match["number"]), int(match["total"])) if match else None


def quantization_in(name: str) -> str | None:
    """The quantization that a file name mentions last, in capitals, if it mentions one."""
    found = _QUANTIZATION.findall(name)
    return re.sub(r"^FP", "F", found[-1].upper()) if found else None


def family(name: str) -> str:
    """What names of one model in several quantizations, or of its projector, have in common."""
    without = _QUANTIZATION.sub("", re.sub("mmproj", "", name, flags=re.IGNORECASE))
    return re.sub(r"[^a-z0-9]+", "-", without.lower()).strip("-")


def quantization_of(facts: Facts, name: str) -> str:
    """From general.file_type, else from the tensors' types, else from the file's name."""
    if facts.file_type is not None:
        file_type = facts.file_type & ~_FILE_TYPE_GUESSED
        return FILE_TYPES.get(file_type, f"unknown({file_type})")
    if facts.tensor_type:
        return _FILE_TYPE_OF_TENSORS.get(facts.tensor_type, facts.tensor_type)
    return quantization_in(name) or "unknown"


def tier_of(quantization: str) -> str:
    """The bits of a quantization: Q4_K_M, IQ4_NL and MXFP4_MOE are ``Q4``, BF16 is ``BF16``."""
    bits = re.match(r"[IT]?Q(\d)|(?:MX|NV)FP(\d)", quantization)
    if bits:
        return f"Q{bits[1] or bits[2]}"
    return quantization if re.fullmatch(r"B?F\d\d", quantization) else "unknown"


def display_name_of(facts: Facts, name: str, quantization: str) -> str:
    """``DeepSeek R1 Qwen3 8B (Q2_K)``: general.name, else the file's stem without its quantization."""
    return f"{facts.name or _text(_QUANTIZATION.sub('', name).rstrip('-._ ')) or 'unnamed'} ({quantization})"


# ---- sorting files into models, companions and rejected ------------------------------------------


def assemble(entries: Iterable[Entry], rejected: Iterable[Rejected] = ()) -> Inventory:
    """Sort readable files into models, companions and rejected; ``rejected`` is what was refused before."""
    refused: list[Rejected] = []
    shards: dict[tuple[str, str, int], _Shards] = defaultdict(_Shards)
    for item in rejected:
        shard = shard_of(stem(item.path))
        if shard:
            shards[item.path.rpartition("/")[0], shard[0], shard[2]].refused.append(item)
        else:
            refused.append(item)
    drafts, companions = [], []
    for entry in sorted(entries, key=lambda entry: entry.file.path):
        file, facts = entry.file, entry.facts
        shard = shard_of(file.name)
        kind, reason = _companion_kind(facts), _set_aside(facts)
        if kind:
            companions.append((kind, entry))
        elif reason:
            refused.append(rejection(file.path, file.name, *reason))
        elif shard:
            shards[file.folder, shard[0], shard[2]].members.append(entry)
        elif (facts.split_count or 0) > 1:
            refused.append(rejection(file.path, file.name, *_misnamed(facts)))
        else:
            drafts.append(_Draft([entry], file.name, quantization_of(facts, file.name)))
    for (_folder, prefix, total), found in sorted(shards.items()):
        members = found.members
        reason = shard_fault(members, total, found.refused)
        if reason:
            first = min([entry.file.path for entry in members] + [item.path for item in found.refused])
            refused.append(rejection(first, prefix, *reason))
        else:
            drafts.append(_Draft(members, prefix, quantization_of(members[0].facts, prefix)))
    drafts = merge_duplicates(drafts)
    assign_ids(drafts)
    paired = pair_projectors(drafts, [entry for kind, entry in companions if kind == "mmproj"])
    return Inventory(
        models=tuple(sorted((_model(draft) for draft in drafts), key=lambda model: model.id)),
        companions=tuple(_companion(kind, entry, paired.get(entry.file.path, ())) for kind, entry in companions),
        rejected=tuple(sorted(refused, key=lambda item: (item.path, item.code))),
    )


def _companion_kind(facts: Facts) -> str | None:
    """llama.cpp gguf-py/gguf/constants.py GGUFType; projectors older than general.type are of clip."""
    if facts.kind == "adapter":
        return "adapter"
    if facts.kind == "mmproj" or facts.architecture == "clip":
        return "mmproj"
    if facts.architecture == "controlvector":
        return "control_vector"
    return None


def _set_aside(facts: Facts) -> tuple[str, str] | None:
    """Code and reason why a well-formed file is not a model."""
    if facts.kind == "imatrix":
        return "imatrix", "is an importance matrix for quantizing, not a model"
    if facts.architecture is None and not facts.split_number:  # a later shard names none
        return (
            "no_architecture",
            "names no architecture (general.architecture), so llama-server cannot load it",
        )
    if facts.tensor_count == 0 and (facts.split_count or 0) < 2:
        return "vocab_only", "holds a vocabulary and no weights"
    return None


def _misnamed(facts: Facts) -> tuple[str, str]:
    return "shard_misnamed", (
        f"is one of {facts.split_count} shards but not named so (…-00001-of-{facts.split_count:05}.gguf); "
        "give it back its name, so that llama-server finds the others"
    )


def shard_fault(members: Sequence[Entry], total: int, refused: Sequence[Rejected] = ()) -> tuple[str, str] | None:
    """Code and reason why shards of one name don't make a model, or None if they do, in order.

    llama.cpp src/llama-model-loader.cpp finds the others by the first one's name, and checks split.count,
    split.no, the names of the tensors and their number.
    """
    if refused:
        return "shard_unusable", f"is an incomplete set of {total} shards: {refused[0].reason.rstrip('.')}"
    numbers = {shard_of(entry.file.name)[1]: entry for entry in members}
    missing = [number for number in range(1, total + 1) if number not in numbers]
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (", …" if len(missing) > 10 else "")
        return "shard_missing", f"is incomplete: shard {shown} of {total} is missing; download the whole set"
    if len(numbers) > total:
        return (
            "shard_misnumbered",
            f"has shards numbered beyond {total}, or from 0; download the whole set again",
        )
    for number, entry in sorted(numbers.items()):
        facts = entry.facts
        if facts.split_count != total:
            return "shard_mixed", (
                f"is mixed up: shard {number} says that it belongs to {counted(facts.split_count or 1, 'shard')}, "
                f"its name says {total}; download the whole set again"
            )
        if facts.split_number != number - 1:
            said = "no number" if facts.split_number is None else f"number {facts.split_number + 1}"
            return "shard_misnumbered", (
                f"is mixed up: the file named shard {number} says that it has {said}; give the shards back their names"
            )
    if len({entry.facts.split_tensors for entry in members} - {None}) != 1:
        return "shard_mixed", "is mixed up: its shards are of different models; download the whole set again"
    names = "".join(entry.facts.tensor_names for entry in members)
    each = Counter(names[start : start + 8] for start in range(0, len(names), 8))
    found, wanted = sum(each.values()), members[0].facts.split_tensors
    if found != wanted or max(each.values(), default=1) > 1:
        what = f"{found} tensors, not {wanted}" if found != wanted else "tensors twice"
        return "shard_mixed", f"is mixed up: its shards together have {what}; download the whole set again"
    return None


def merge_duplicates(drafts: Sequence[_Draft]) -> list[_Draft]:
    """Byte-identical models become one, the first by path, that lists the others as duplicates."""
    kept: dict[tuple[str, ...], _Draft] = {}
    for draft in sorted(drafts, key=lambda draft: draft.first.file.path):
        first = kept.setdefault(tuple(entry.content for entry in draft.entries), draft)
        if first is not draft and draft.first.file.path != first.first.file.path:
            first.duplicates.append(draft.first.file.path)
    return list(kept.values())


def assign_ids(drafts: Sequence[_Draft]) -> None:
    """Give each draft a unique id that depends on the set of files alone, not on their order.

    All that would have one id get the name of the folder above in front, and of the one above that, and so
    on; two that still agree get a piece of a hash of their path.
    """
    for draft in drafts:
        mentioned = quantization_in(draft.name)
        draft.id = slug(draft.name if mentioned else f"{draft.name}-{draft.quantization}")
    base = {id(draft): draft.id for draft in drafts}
    for depth in range(1, 1 + max((len(draft.first.file.qualifiers) for draft in drafts), default=0)):
        taken = Counter(draft.id for draft in drafts)
        for draft in drafts:
            if taken[draft.id] > 1:
                draft.id = slug("-".join([*reversed(draft.first.file.qualifiers[:depth]), base[id(draft)]]))
    taken = Counter(draft.id for draft in drafts)
    for draft in drafts:
        if taken[draft.id] > 1:
            digest = hashlib.sha256(draft.first.file.path.encode()).hexdigest()[:8]
            draft.id = f"{draft.id[: _MAX_ID - 9]}-{digest}"


def pair_projectors(drafts: Sequence[_Draft], projectors: Sequence[Entry]) -> dict[str, tuple[str, ...]]:
    """Give each draft the projector beside it, and return the ids that each projector is paired with.

    In one folder, a projector goes to the models whose name its own begins or continues; one whose name fits
    none goes to all if they are one model in several quantizations, else to those of the width it projects
    to. llama-server fails with a projector of another model, so no pair is better than a guess.
    """
    pairs: dict[str, list[str]] = defaultdict(list)
    for folder, group in _by_folder(drafts, lambda draft: draft.first.file.folder).items():
        beside = sorted(
            (entry for entry in projectors if entry.file.folder == folder),
            key=lambda entry: (_preference(entry), entry.file.path),
        )
        families = {draft.family for draft in group}
        for draft in group:
            for entry in beside:
                name = family(entry.file.name)
                fits = {other for other in families if name and (other.startswith(name) or name.startswith(other))}
                if draft.family in fits or (not fits and (len(families) == 1 or _projects_to(entry, draft))):
                    draft.mmproj = entry.file
                    pairs[entry.file.path].append(draft.id)
                    break
    return {path: tuple(sorted(ids)) for path, ids in pairs.items()}


def _by_folder(items, key) -> dict[str, list]:
    folders = defaultdict(list)
    for item in items:
        folders[key(item)].append(item)
    return folders


def _preference(entry: Entry) -> int:
    """Projectors are small: F16 is what most are published and tested as."""
    order = ["F16", "BF16", "Q8_0", "F32"]
    quantization = quantization_of(entry.facts, entry.file.name)
    return order.index(quantization) if quantization in order else len(order)


def _projects_to(entry: Entry, draft: _Draft) -> bool:
    width = draft.first.facts.shape.get("embedding_length")
    return width is not None and width == entry.facts.projection_dim


def _model(draft: _Draft) -> Model:
    facts = draft.first.facts
    digests = [entry.sha256 for entry in draft.entries]
    return Model(
        id=draft.id,
        display_name=display_name_of(facts, draft.name, draft.quantization),
        quantization=draft.quantization,
        tier=tier_of(draft.quantization),
        path=draft.first.file.path,
        files=tuple(entry.file.version for entry in draft.entries),
        size_bytes=sum(entry.file.size for entry in draft.entries),
        architecture=facts.architecture or "",
        parameter_count=sum(entry.facts.parameter_count for entry in draft.entries),
        context_length=facts.context_length,
        shape=facts.shape,
        mmproj=draft.mmproj and draft.mmproj.version,
        duplicates=tuple(sorted(draft.duplicates)),
        fingerprint=_combined([entry.facts.fingerprint for entry in draft.entries]),
        sha256=_combined(digests) if all(digests) else None,
    )


def _combined(digests: Sequence[str]) -> str:
    """One file's digest as it is; the digest of several, in order."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _companion(kind: str, entry: Entry, models: tuple[str, ...]) -> Companion:
    what = {"mmproj": "a projector", "adapter": "an adapter", "control_vector": "a control vector"}[kind]
    if kind != "mmproj":
        use = f"serve it with one by the option {'lora' if kind == 'adapter' else 'control_vector'}"
    elif models:
        use = f"it is served with {', '.join(models)}"
    else:
        use = "none beside it fits; give it to one by the option mmproj"
    return Companion(
        path=entry.file.path,
        kind=kind,
        name=entry.facts.name or _text(entry.file.name) or "",
        architecture=entry.facts.architecture,
        size_bytes=entry.file.size,
        models=models,
        reason=f"{printable(entry.file.path)} is {what} and not a model by itself: {use}.",
    )


def rejection(path: str, name: str, code: str, what: str) -> Rejected:
    """``what`` continues the sentence that begins with the path; the id is what a model of this name has."""
    prefix = shard_of(name)
    return Rejected(slug(prefix[0] if prefix else name), path, code, f"{printable(path)} {what}.")


# ---- values of the metadata ----------------------------------------------------------------------


def _text(value: Any) -> str | None:
    """A string that a file gives, as one line of at most 200 characters without control characters."""
    if not isinstance(value, str):
        return None
    text = "".join(c if c.isprintable() else " " for c in value[: 8 * _MAX_TEXT])
    return " ".join(text.split())[:_MAX_TEXT] or None


def _integer(value: Any) -> int | None:
    """A number of the metadata; of one per layer the largest."""
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


# ---- across hosts, and for people ----------------------------------------------------------------


def drift(registries: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The ids that are different models on different hosts.

    ``registries`` has the models of each host, as plain values. Compared are size and header fingerprint,
    and the SHA-256 where all hosts that have the model know it. Each result has ``id`` and ``variants``, a
    list of ``{size_bytes, fingerprint, sha256, hosts}``, the one that most hosts have first.
    """
    by_id: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for host, models in registries.items():
        for model in models:
            by_id[model["id"]][host] = model
    drifted = []
    for model_id, models in sorted(by_id.items()):
        comparable = all(model.get("sha256") for model in models.values())
        variants: dict[tuple, list[str]] = defaultdict(list)
        for host, model in sorted(models.items()):
            sha256 = model["sha256"] if comparable else None
            variants[model["size_bytes"], model["fingerprint"], sha256].append(host)
        if len(variants) > 1:
            ordered = sorted(variants.items(), key=lambda item: (-len(item[1]), item[1]))
            keys = ("size_bytes", "fingerprint", "sha256")
            drifted.append(
                {
                    "id": model_id,
                    "variants": [{**dict(zip(keys, key)), "hosts": hosts} for key, hosts in ordered],
                }
            )
    return drifted


def drift_lines(drifted: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines for people: each id of ``drift``, and which hosts have which content."""
    lines = []
    for item in drifted:
        lines.append(f"Drift: {item['id']} is not the same on all hosts:")
        lines += [
            f"  {', '.join(variant['hosts'])}: {variant['size_bytes']} bytes, header {variant['fingerprint'][:12]}"
            for variant in item["variants"]
        ]
        lines.append("")
    return lines


def table(inventory: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Lines for people: the models in columns, then what was set aside and why."""
    head = ("ID", "TIER", "SIZE", "PARAMETERS", "CONTEXT", "PATH")
    rows = [
        (
            model["id"],
            model["tier"],
            _scaled(model["size_bytes"], 1024, ("B", "KiB", "MiB", "GiB", "TiB")),
            _scaled(model["parameter_count"], 1000, ("", "K", "M", "B", "T")),
            str(model["context_length"] or "-"),
            printable(model["path"]),
        )
        for model in inventory["models"]
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    numbers = {2, 3, 4}
    lines = [
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in (head, *rows)
    ]
    aside = [*inventory["companions"], *inventory["rejected"]]
    return lines + (["", "Set aside:"] + [f"  {item['reason']}" for item in aside] if aside else [])


def _scaled(number: float, base: int, units: Sequence[str]) -> str:
    """``number`` with the largest unit that leaves at least 1 of it."""
    power = 0
    while number >= base and power < len(units) - 1:
        number, power = number / base, power + 1
    return (f"{number:.1f} " if power else f"{number} ") + units[power]
