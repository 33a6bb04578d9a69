# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a scan finds: models, their companions, and rejected files. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ansible_collections.magi.models.plugins.module_utils._base.text import printable
from ansible_collections.magi.models.plugins.module_utils._models.naming import shard_of, slug

_Value = TypeVar("_Value")


def _make(kind: type[_Value], values: Mapping[str, Any]) -> _Value:
    """Make a value of a frozen dataclass faster than its own __init__, which sets each field by a call: each run reads
    a thousand models."""
    if values.keys() != kind.__dataclass_fields__.keys():  # type: ignore[attr-defined]  # of every dataclass
        raise TypeError(f"{kind.__name__} has other fields than {', '.join(values)}")
    made = object.__new__(kind)
    vars(made).update(values)
    return made


@dataclass(frozen=True)
class FileVersion:
    """A file as it is now: when one of these changes, whatever has read it must start again."""

    path: str
    size: int  # bytes
    mtime_ns: int


@dataclass(frozen=True)
class Model:
    """One servable GGUF file, or one complete set of shards."""

    id: str
    display_name: str
    quantization: str
    tier: str
    task: str  # chat, embedding or rerank
    path: str  # what llama-server is given: the file, or the first shard
    files: tuple[FileVersion, ...]  # the shards in order, or the one file
    size_bytes: int  # of all files
    architecture: str
    parameter_count: int
    context_length: int | None  # tokens the model was trained for
    shape: Mapping[str, int | None]
    mmproj: FileVersion | None  # the projector to serve it with
    duplicates: tuple[str, ...]  # paths of byte-identical copies
    fingerprint: str  # of the headers, see Header.fingerprint
    sha256: str | None = None  # of the file, or of the shards' digests; only if asked for

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            **vars(self),
            "files": [dict(vars(file)) for file in self.files],
            "mmproj": self.mmproj and dict(vars(self.mmproj)),
            "duplicates": list(self.duplicates),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Model:
        """The inverse of ``to_dict``. Raises TypeError for other keys, KeyError for missing ones."""
        projector = plain["mmproj"]
        return _make(
            cls,
            {
                **plain,
                "files": tuple([_make(FileVersion, file) for file in plain["files"]]),
                "mmproj": _make(FileVersion, projector) if projector else None,
                "duplicates": tuple(plain["duplicates"]),
            },
        )


@dataclass(frozen=True)
class Companion:
    """A file that serves models: ``kind`` is ``mmproj``, ``adapter``, ``control_vector`` or ``drafter``."""

    id: str  # the id of a model with this name; not unique
    path: str
    kind: str
    name: str
    architecture: str | None
    size_bytes: int
    models: tuple[str, ...]  # ids it is paired with
    reason: str


@dataclass(frozen=True)
class Rejected:
    """A file that is not a model: a stable ``code`` and a sentence."""

    id: str  # the id of a model with this name; not unique
    path: str
    code: str
    reason: str

    @classmethod
    def of(cls, path: str, name: str, code: str, what: str) -> Rejected:
        """``what`` continues the sentence that begins with the path; ``name`` is like a model's."""
        shard = shard_of(name)
        return cls(slug(shard[0] if shard else name), path, code, f"{printable(path)} {what}.")


@dataclass(frozen=True)
class Inventory:
    """Everything that a scan found, sorted: models by id, the rest by path."""

    models: tuple[Model, ...] = ()
    companions: tuple[Companion, ...] = ()
    rejected: tuple[Rejected, ...] = ()

    def without(self, architectures: Collection[str], build: str) -> Inventory:
        """What is left for a llama-server ``build`` that does not know these ``architectures``."""
        unknown = [model for model in self.models if model.architecture in architectures]
        if not unknown:
            return self
        rejected = [
            Rejected(
                model.id,
                model.path,
                "unknown_architecture",
                f"{printable(model.path)} has the architecture {printable(model.architecture)}, which this host's "
                f"llama-server ({printable(build)}) does not know; install a newer build.",
            )
            for model in unknown
        ]
        return Inventory(
            models=tuple(model for model in self.models if model not in unknown),
            companions=self.companions,
            rejected=tuple(sorted([*self.rejected, *rejected], key=lambda item: (item.path, item.code))),
        )

    def to_dict(self) -> dict[str, list[dict[str, Any]]]:
        """As plain values for JSON."""
        return {
            "models": [model.to_dict() for model in self.models],
            "companions": [{**vars(item), "models": list(item.models)} for item in self.companions],
            "rejected": [dict(vars(item)) for item in self.rejected],
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Inventory:
        """The inverse of ``to_dict``; other keys of ``plain`` are ignored."""
        return cls(
            models=tuple(map(Model.from_dict, plain["models"])),
            companions=tuple(Companion(**{**item, "models": tuple(item["models"])}) for item in plain["companions"]),
            rejected=tuple(Rejected(**item) for item in plain["rejected"]),
        )
