# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reading a GGUF header, as strictly as llama.cpp and without reading a weight.

The verdict follows llama.cpp ``ggml/src/gguf.cpp`` (``gguf_init_from_reader``) check for check, and those
checks of ``src/llama-model-loader.cpp`` that need only the header: tensors within the file, types of the keys
it asks for. ``tests/gguf/test_differential.py`` lists what this reader refuses beyond that.
Everything in a file is hostile: a length is believed only once the file can hold it, and whatever the file says,
memory is bounded.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

from ansible_collections.magi.models.plugins.module_utils._base.text import printable
from ansible_collections.magi.models.plugins.module_utils._gguf.foreign import BEGINNING, identify
from ansible_collections.magi.models.plugins.module_utils._gguf.format import (
    ARRAY,
    SCALARS,
    STRING,
    TENSOR_TYPE_COUNT,
    TENSOR_TYPES,
    TYPE_NAMES,
    Array,
    Header,
    Value,
)

# Keys that llama-server reads with a fixed type; any other type makes it throw or abort
# (src/llama-model-loader.cpp, GGUFMeta::GKV::get_kv and gguf_get_val_u16).
_FIXED_TYPES: Mapping[bytes, str] = {
    b"general.architecture": "str",
    b"general.alignment": "u32",
    b"general.file_type": "u32",
    b"split.no": "u16",
    b"split.count": "u16",
    b"split.tensors.count": "i32",
}

_MAX_LENGTH = 1 << 30  # GGUF_MAX_STRING_LENGTH (bytes) and GGUF_MAX_ARRAY_ELEMENTS
_MAX_KEY = 65535  # bytes; docs/gguf.md of ggml: a key is at most 2^16-1 bytes long
_MAX_KEYS = 1 << 16  # ours, against hostile files: real ones have about 50
_MAX_TENSORS = 1 << 18  # ours, likewise: real ones have up to about 20,000
_MAX_TENSOR_NAME = 63  # bytes; GGML_MAX_NAME - 1
_MAX_DIMS = 4  # GGML_MAX_DIMS
_INT64_MAX = (1 << 63) - 1
_SIZE_MAX = (1 << 64) - 1
_DEFAULT_ALIGNMENT = 32  # bytes; GGUF_DEFAULT_ALIGNMENT

_WINDOW = 1 << 20  # bytes read at a time: fits a CPU's cache, and bounds memory
_KEEP_STRING = 1 << 16  # bytes of one value
_KEEP_ELEMENTS = 1024  # of one array: keeps per-layer values, not tokenizers
_KEEP_TOTAL = 1 << 22  # bytes of all values in a file together

# First and last type that another program added; some of them were llama.cpp's own until it dropped them in 2024.
_FOREIGN_TYPES = ((4, 4, "Ollama"), (36, 36, "bitnet.cpp"), (97, 999, "ik_llama.cpp"))
_MAX_PARTS = 64  # real files have up to about 20
# Often of another type than the layers, and most of a small model (llama.cpp src/llama-arch.cpp LLM_TENSOR_NAMES).
_EMBEDDINGS = (b"token_embd.weight", b"output.weight", b"per_layer_token_embd.weight")
_TYPES = {kind[0]: kind for kind in TENSOR_TYPES.values()}

_U32 = struct.Struct("<I").unpack_from
_U64 = struct.Struct("<Q").unpack_from
_TENSOR = [struct.Struct(f"<{dims}qiQ") for dims in range(_MAX_DIMS + 1)]  # shape, type, offset


class GGUFError(Exception):
    """A file that llama-server could not serve.

    ``code`` is stable and for programs; the message is one sentence: the file, what is wrong with it, and the
    remedy.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read the header of the GGUF file at ``path``, in a few megabytes of memory at most.

    Raises GGUFError when llama-server could not load the file, or when it can't be read, is not a regular file
    (nothing else is ever opened for reading: a FIFO would block), or changes meanwhile.
    """
    name = printable(os.fspath(path))
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):  # before opening: opening some devices has effects
            raise GGUFError("not_regular", f"{name} is not a regular file; move it out of the scanned folders.")
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                raise _Refusal("not_regular", "is not a regular file; move it out of the scanned folders")
            try:
                header = _parse(_Cursor(fd, before.st_size), before)
            except _Refusal as refusal:
                error: _Refusal | None = refusal
            else:
                error = None
            after = os.fstat(fd)
        finally:
            os.close(fd)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            error = _Refusal("changing", "is incomplete: it is still being written; scan again when it is done")
        if error:
            raise error
        return header
    except _Refusal as refusal:
        raise GGUFError(refusal.code, f"{name} {refusal}.") from None
    except OSError as error:
        cause = error.strerror or str(error)
        raise GGUFError("unreadable", f"{name} can't be read: {cause}; check the path and its permissions.") from error


class _Refusal(Exception):
    """Why a file is refused: a code, and the sentence's part after the file's name."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _truncated(size: int, needed: int | None = None) -> _Refusal:
    needs = (
        f"it needs at least {needed} bytes and has {size}" if needed else f"its header goes on beyond its {size} bytes"
    )
    return _Refusal("truncated", f"is incomplete: {needs}; wait for the download to end, or download it again")


def _corrupt(code: str, what: str) -> _Refusal:
    return _Refusal(code, f"is corrupt: {what}; download it again")


class _Cursor:
    """A position in a file, and a window of the file's bytes around it.

    ``pos`` counts from the start of ``data``, which starts at byte ``base`` of the file. It reads with ``pread``
    and not through a mapping, so that a file cut short meanwhile is an error and not a SIGBUS.
    """

    def __init__(self, fd: int, size: int) -> None:
        self.fd, self.size = fd, size
        self.base = self.pos = 0
        self.data = b""

    @property
    def remaining(self) -> int:
        return self.size - self.base - self.pos

    def window(self, length: int) -> None:
        """Make ``data`` hold the next ``length`` bytes, or all that are left, from ``pos`` on."""
        if self.pos + length > len(self.data) and self.base + len(self.data) < self.size:
            self.base, self.pos = self.base + self.pos, 0
            self.data = os.pread(self.fd, max(length, _WINDOW), self.base)

    def take(self, length: int) -> bytes:
        self.window(length)
        taken = self.data[self.pos : self.pos + length]
        if len(taken) < length:
            raise _truncated(self.size)
        self.pos += length
        return taken

    def skip(self, length: int) -> None:
        if length > self.remaining:
            raise _truncated(self.size)
        self.pos += length

    def u32(self) -> int:
        return int(_U32(self.take(4))[0])

    def u64(self) -> int:
        return int(_U64(self.take(8))[0])

    def length(self, what: str) -> int:
        """Read the length of a string, in bytes; the file can hold it."""
        length = self.u64()
        if length > _MAX_LENGTH:
            raise _corrupt("length", f"{what} would be {length} bytes long, more than the {_MAX_LENGTH} allowed")
        if length > self.remaining:
            raise _truncated(self.size)
        return length


def _checked(metadata: Mapping[str, Value], key: str, otherwise: int) -> int:
    """The value of a key for which _parse_metadata accepts only whole numbers."""
    return cast(int, metadata.get(key, otherwise))


def _parse(cursor: _Cursor, status: os.stat_result) -> Header:
    """Parse a header; raises _Refusal."""
    version, tensor_count, key_count = _parse_counts(cursor)
    digest = hashlib.sha256()
    metadata = _parse_metadata(cursor, key_count, digest)
    is_shard = _checked(metadata, "split.count", 0) > 1
    if is_shard:
        # The loader asks every shard for the first of these, and the first shard for the second, too.
        for key in ("split.no", "split.tensors.count")[: 2 if metadata.get("split.no") == 0 else 1]:
            if key not in metadata:
                raise _corrupt("key_missing", f"it is a shard but has no key {key!r}")
    alignment = _checked(metadata, "general.alignment", _DEFAULT_ALIGNMENT)
    if alignment & (alignment - 1) or not alignment:
        raise _corrupt("alignment", f"general.alignment is {alignment}, not a power of two")
    table = _parse_tensors(cursor, tensor_count, alignment, digest)
    data_offset = cursor.base + cursor.pos
    if tensor_count:
        data_offset = _pad(data_offset, alignment)
    expected_size = data_offset + table.end
    if expected_size > cursor.size:
        raise _truncated(cursor.size, expected_size)
    return Header(
        version=version,
        metadata=metadata,
        tensor_count=tensor_count,
        parameter_count=table.parameters,
        bytes_by_type=table.bytes_by_type,
        weights_by_type=_weights_by_type(table),
        parts=tuple(_text(part) for part in sorted({name.partition(b".")[0] for name in table.tensors})[:_MAX_PARTS]),
        layers=len({name.split(b".", 2)[1] for name in table.tensors if name.startswith(b"blk.")}),
        shapes={_text(name): tuple(shape) for name, (_type, shape) in table.tensors.items()}
        if metadata.get("general.architecture") == "clip"
        else {},
        tensor_names=tuple(map(_text, table.tensors)) if is_shard else (),
        alignment=alignment,
        data_offset=data_offset,
        expected_size=expected_size,
        fingerprint=digest.hexdigest(),
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        inode=status.st_ino,
    )


def _parse_counts(cursor: _Cursor) -> tuple[int, int, int]:
    """Version, number of tensors, number of metadata keys."""
    cursor.window(4)
    magic = cursor.data[:4]
    if magic != b"GGUF"[: len(magic)]:
        raise _Refusal(*identify(cursor.data[:BEGINNING]))
    if not cursor.size:
        raise _Refusal("truncated", "is empty: its download did not begin, or was cut short; download it again")
    cursor.take(4)
    version = cursor.u32()
    if version & 0xFFFF == 0 and version:
        raise _Refusal("byte_order", "is a GGUF file in the other byte order; convert it for this machine")
    if version not in (2, 3):
        raise _Refusal(
            "version",
            f"is a GGUF file of version {version}, and llama.cpp reads only 2 and 3; convert the model again",
        )
    tensor_count, key_count = cursor.u64(), cursor.u64()
    # The least that a tensor takes: length of the name, dimensions, type, offset; and the least that a key takes:
    # length, one byte, type, one byte of value.
    for what, count, most, least in (
        ("tensors", tensor_count, _MAX_TENSORS, 24),
        ("keys", key_count, _MAX_KEYS, 14),
    ):
        if count > most:
            raise _corrupt("count", f"it claims to have {count} {what}, more than the {most} allowed")
        if count * least > cursor.remaining:
            raise _truncated(cursor.size)
    return version, tensor_count, key_count


def _parse_metadata(cursor: _Cursor, count: int, digest: hashlib._Hash) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    budget = _KEEP_TOTAL
    for number in range(count):
        length = cursor.length(f"the name of key {number}")
        if not 0 < length <= _MAX_KEY:
            raise _corrupt("key", f"the name of key {number} has {length} bytes, not 1 to {_MAX_KEY}")
        raw = cursor.take(length)
        try:
            key = raw.decode()
        except UnicodeDecodeError:
            raise _corrupt("key", f"the name of key {number} is not UTF-8") from None
        if not key.isprintable():
            raise _corrupt("key", f"the name of key {number} contains a control character: {key[:80]!r}")
        if key in metadata:
            raise _corrupt("key_duplicate", f"the key {key[:80]!r} occurs twice")
        type_id = cursor.u32()
        wanted = _FIXED_TYPES.get(raw)
        if wanted and wanted != TYPE_NAMES.get(type_id):
            found = TYPE_NAMES.get(type_id, f"type {type_id}")
            raise _corrupt("key_type", f"the key {key!r} must be of type {wanted} and is {found}")
        digest.update(b"%d %b %d " % (length, raw, type_id))
        if type_id in SCALARS:
            layout = SCALARS[type_id][1]
            raw = cursor.take(layout.size)
            metadata[key] = layout.unpack(raw)[0]
        elif type_id == STRING:
            length = cursor.length(f"the value of {key[:80]!r}")
            raw = cursor.take(min(length, _KEEP_STRING, budget))
            cursor.skip(length - len(raw))
            budget -= len(raw)
            metadata[key] = raw.decode("utf-8", "replace")
        elif type_id == ARRAY:
            start = cursor.base + cursor.pos
            metadata[key] = array = _parse_array(cursor, key, budget)
            raw = b"%b %d " % (array.type.encode(), array.length)
            if array.values is not None:
                budget -= cursor.base + cursor.pos - start + 32 * array.length  # and what an object takes
                raw += repr(array.values).encode("utf-8", "replace")
        else:
            raise _corrupt("value_type", f"the key {key[:80]!r} has the unknown type {type_id}")
        digest.update(raw)
    return metadata


def _parse_array(cursor: _Cursor, key: str, budget: int) -> Array:
    type_id, length = cursor.u32(), cursor.u64()
    if length > _MAX_LENGTH:
        raise _corrupt("length", f"the array {key[:80]!r} has {length} elements, more than the {_MAX_LENGTH} allowed")
    keep = length <= _KEEP_ELEMENTS and 40 * length <= budget
    if type_id in SCALARS:
        name, layout = SCALARS[type_id]
        nbytes = length * layout.size
        if nbytes > cursor.remaining:
            raise _truncated(cursor.size)
        if not keep:
            cursor.skip(nbytes)
            return Array(name, length, None)
        return Array(name, length, struct.unpack(f"<{length}{layout.format[1]}", cursor.take(nbytes)))
    if type_id != STRING:
        raise _corrupt("value_type", f"the array {key[:80]!r} has elements of type {type_id}, which is not allowed")
    if length * 8 > cursor.remaining:
        raise _truncated(cursor.size)
    if not keep:
        _skip_strings(cursor, length)
        return Array("str", length, None)
    values = []
    for _number in range(length):
        size = cursor.length(f"an element of {key[:80]!r}")
        raw = cursor.take(min(size, 40))
        cursor.skip(size - len(raw))
        values.append(raw.decode("utf-8", "replace"))
    return Array("str", length, tuple(values))


_BATCH = 64  # strings per match


@lru_cache(maxsize=1)
def _short_strings() -> re.Pattern[bytes]:
    """Match exactly 64 strings of less than 64 bytes each, as GGUF stores them: u64 length, bytes.

    The regular expression engine walks a tokenizer two to three times as fast as a Python loop.
    It tries alternatives in turn, so the most common lengths of tokens come first.
    """
    lengths = sorted(range(64), key=lambda length: abs(length - 6.2))
    strings = (re.escape(bytes([length])) + rb"\0\0\0\0\0\0\0.{%d}" % length for length in lengths)
    return re.compile(rb"(?:%b){%d}" % (b"|".join(strings), _BATCH), re.DOTALL)


def _skip_strings(cursor: _Cursor, count: int) -> None:
    """Skip ``count`` strings: short ones in batches, others in a loop, a few one by one with every check."""
    match, longest = _short_strings().match, _BATCH * 72
    while count:
        cursor.window(longest)
        data, pos = cursor.data, cursor.pos
        while count >= _BATCH and (found := match(data, pos)):
            pos = found.end()
            count -= _BATCH
        cursor.pos = pos
        if count >= _BATCH and len(data) - pos < longest <= cursor.remaining:
            continue  # the window has ended, not the short strings
        batch = min(count, _BATCH)
        count -= batch
        try:
            for _number in range(batch):
                pos += 8 + _U64(data, pos)[0]
        except (struct.error, OverflowError):  # beyond the window, or beyond any offset
            pos = len(data) + 1
        if pos <= len(data):
            cursor.pos = pos
            continue
        for _number in range(batch):  # a long string, the end of the file, or a lie
            cursor.skip(cursor.length("an element of an array"))


@dataclass(frozen=True)
class _Table:
    """The sums over a tensor table."""

    tensors: Mapping[bytes, tuple[str, list[int]]]  # name → type and shape
    parameters: int
    bytes_by_type: Mapping[str, int]
    end: int  # bytes from the start of the data to the end of the last tensor


def _parse_tensors(cursor: _Cursor, count: int, alignment: int, digest: hashlib._Hash) -> _Table:
    tensors: dict[bytes, tuple[str, list[int]]] = {}
    parameters = expected = end = 0
    bytes_by_type: dict[str, int] = {}
    for _number in range(count):
        cursor.window(128)  # more than any entry takes
        data, pos = cursor.data, cursor.pos
        try:
            (length,) = _U64(data, pos)
            if length > _MAX_TENSOR_NAME:
                raise _corrupt(
                    "tensor_name",
                    f"the name of a tensor has {length} bytes, more than the {_MAX_TENSOR_NAME} allowed",
                )
            name = data[pos + 8 : pos + 8 + length]
            pos += 8 + length
            (dims,) = _U32(data, pos)
            if dims > _MAX_DIMS:
                raise _corrupt(
                    "tensor_dims",
                    f"tensor {_shown(name)} has {dims} dimensions, more than the {_MAX_DIMS} allowed",
                )
            *shape, type_id, offset = _TENSOR[dims].unpack_from(data, pos + 4)
        except struct.error:
            raise _truncated(cursor.size) from None
        pos += 4 + _TENSOR[dims].size
        if b"\0" in name:  # llama.cpp cuts the name there, and may then find it twice
            raise _corrupt("tensor_name", f"the name of tensor {_shown(name)} contains a NUL byte")
        if name in tensors:
            raise _corrupt("tensor_duplicate", f"tensor {_shown(name)} occurs twice")
        elements, nbytes, type_name = _tensor_size(name, shape, type_id)
        if offset != expected:
            raise _corrupt(
                "tensor_offset",
                f"tensor {_shown(name)} lies at offset {offset} instead of {expected}",
            )
        end = offset + nbytes
        expected = _pad(end, alignment)
        if expected > _SIZE_MAX:
            raise _corrupt("tensor_size", f"tensor {_shown(name)} ends beyond the largest possible size")
        tensors[name] = type_name, shape
        parameters += elements
        bytes_by_type[type_name] = bytes_by_type.get(type_name, 0) + nbytes
        digest.update(data[cursor.pos : pos])
        cursor.pos = pos
    return _Table(tensors, parameters, bytes_by_type, end)


def _weights_by_type(table: _Table) -> dict[str, int]:
    """Elements by type, without the embeddings unless there is nothing else."""
    weights = {}
    for kind, nbytes in table.bytes_by_type.items():
        _name, block, block_bytes = _TYPES[kind]
        weights[kind] = nbytes // block_bytes * block
    whole = dict(weights)
    for name in _EMBEDDINGS:
        if name in table.tensors:
            kind, shape = table.tensors[name]
            weights[kind] -= math.prod(shape)
    return {kind: count for kind, count in weights.items() if count} or whole


def _tensor_size(name: bytes, shape: list[int], type_id: int) -> tuple[int, int, str]:
    """Elements and bytes of a tensor, and the name of its type, after gguf.cpp's checks in gguf.cpp's order."""
    elements = 1
    for extent in shape:
        if extent < 0:
            raise _corrupt("tensor_shape", f"tensor {_shown(name)} has the negative extent {extent}")
        if extent > 1 and elements > _INT64_MAX // extent:
            raise _corrupt("tensor_shape", f"tensor {_shown(name)} has more than 2^63 elements: {shape}")
        elements *= extent
    if type_id not in TENSOR_TYPES:
        known = f"and only 0 to {TENSOR_TYPE_COUNT - 1} are known"
        if 0 <= type_id < TENSOR_TYPE_COUNT:
            known = "which was removed from GGUF"
        for first, last, writer in _FOREIGN_TYPES:
            if first <= type_id <= last:
                raise _Refusal(
                    "foreign_format",
                    f"is in {writer}'s own format: tensor {_shown(name)} has the type {type_id}, {known}; "
                    f"serve it with {writer}, or get the model in another quantization",
                )
        raise _Refusal(
            "tensor_type",
            f"can't be read: tensor {_shown(name)} has the type {type_id}, {known}; "
            "use a newer llama.cpp, or quantize the model again",
        )
    type_name, block, block_bytes = TENSOR_TYPES[type_id]
    row = shape[0] if shape else 1
    if row % block:
        raise _corrupt(
            "tensor_shape",
            f"tensor {_shown(name)} of type {type_name} has rows of {row} elements, not a multiple of {block}",
        )
    nbytes = elements // block * block_bytes
    if nbytes > _SIZE_MAX:
        raise _corrupt("tensor_size", f"tensor {_shown(name)} has more than 2^64 bytes")
    return elements, nbytes, type_name


def _pad(value: int, alignment: int) -> int:
    """The next multiple of ``alignment``, a power of two (GGML_PAD)."""
    return (value + alignment - 1) & -alignment


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")


def _shown(name: bytes) -> str:
    return repr(_text(name))
