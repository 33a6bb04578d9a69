# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The verdict on every kind of bad GGUF file, and the facts of good ones.

The bad kinds are those of llama.cpp tests/test-gguf.cpp, and others that we must survive. tests/gguf/ shows that
llama.cpp agrees, by asking it.
"""

from __future__ import annotations

import os
import struct

import pytest
from ansible_collections.magi.models.plugins.module_utils._gguf import reader
from ansible_collections.magi.models.plugins.module_utils._gguf.format import TENSOR_TYPES, Array
from ansible_collections.magi.models.plugins.module_utils._gguf.reader import GGUFError, read_header
from ansible_collections.magi.models.tests.unit.plugins.module_utils.gguf_files import (
    Q4_0,
    Q4_K,
    Tensor,
    build,
    model,
    string,
    write,
)

ALIGN = "general.alignment"
KEY = ("key", "u8", 1)
HUGE = (1 << 31) - 1

BAD = {
    # kind: (code, file)
    "header bad magic": ("magic", build(magic=b"FUGG")),
    "header version 0": ("version", build(version=0)),
    "header version 1": ("version", build(version=1)),
    "header future version": ("version", build(version=4)),
    "header of the other byte order": ("byte_order", build(version=3 << 24)),
    "header negative number of tensors": ("count", build(n_tensors=-1)),
    "header negative number of keys": ("count", build(n_pairs=-1)),
    "header more tensors than bytes": ("truncated", build(n_tensors=1000)),
    "header more keys than bytes": ("truncated", build(n_pairs=1000)),
    "header too many tensors": ("count", build(n_tensors=1 << 32)),
    "header too many keys": ("count", build(n_pairs=1 << 32)),
    "key of bad size": ("length", build([struct.pack("<Q", (1 << 64) - 1) + b"key and more"])),
    "key empty": ("key", build([("", "u32", 1)])),
    "key too long": ("key", build([("k" * 65536, "u8", 1)])),
    "key with newline": ("key", build([("a\nb", "u8", 1)])),
    "key with NUL": ("key", build([("a\0b", "u8", 1)])),
    "key not UTF-8": ("key", build([(b"a\xff", "u8", 1)])),
    "key twice": ("key_duplicate", build([KEY, KEY])),
    "key of bad type": ("value_type", build([string("key") + struct.pack("<Ib", 13, 1)])),
    "key of negative type": ("value_type", build([string("key") + struct.pack("<ib", -1, 1)])),
    "array of arrays": ("value_type", build([string("key") + struct.pack("<IIQ", 9, 9, 0)])),
    "array of bad type": ("value_type", build([string("key") + struct.pack("<IIQ", 9, 13, 0)])),
    "alignment 13": ("alignment", build([(ALIGN, "u32", 13)])),
    "alignment 0": ("alignment", build([(ALIGN, "u32", 0)])),
    "alignment of the wrong type": ("key_type", build([(ALIGN, "i32", 32)])),
    "architecture of the wrong type": ("key_type", build([("general.architecture", "u32", 1)])),
    "architectures": ("key_type", build([("general.architecture", "[str]", ["llama"])])),
    "file_type of the wrong type": ("key_type", build([("general.file_type", "i32", 1)])),
    "split.no of the wrong type": ("key_type", build([("split.no", "u32", 0)])),
    "split.count of the wrong type": ("key_type", build([("split.count", "i32", 2)])),
    "split.tensors.count of the wrong type": ("key_type", build([("split.tensors.count", "u32", 2)])),
    "shard without number": ("key_missing", build([("split.count", "u16", 2)])),
    "first shard without total": ("key_missing", build([("split.count", "u16", 2), ("split.no", "u16", 0)])),
    "tensor name of 64 bytes": ("tensor_name", build([], [Tensor("n" * 64, (1,))])),
    "tensor name with NUL": ("tensor_name", build([], [Tensor("a\0b", (1,))])),
    "tensor of 5 dimensions": ("tensor_dims", build([], [Tensor("a", (1,) * 4, dims=5)])),
    "tensor of negative shape": ("tensor_shape", build([], [Tensor("a", (-1,))])),
    "tensor of too many elements": ("tensor_shape", build([], [Tensor("a", (4 * HUGE, 4 * HUGE))])),
    "tensor of too many elements, then none": ("tensor_shape", build([], [Tensor("a", (1 << 62, 4, 0))])),
    "tensor of too many bytes": ("tensor_size", build([], [Tensor("a", (1 << 62, 1), 27)])),
    "tensor whose padding wraps": (
        "tensor_size",
        build([], [Tensor("a", (4, (1 << 30) - 1, (1 << 30) + 1))]),
    ),
    "tensors whose sum wraps": (
        "tensor_size",
        build([], [Tensor(name, (0x7FFFFFFFFFFFFFC0,), 24, size=0x7FFFFFFFFFFFFFC0) for name in "abc"]),
    ),
    "tensor of unknown type": ("tensor_type", build([], [Tensor("a", (1,), 43)])),
    "tensor of negative type": ("tensor_type", build([], [Tensor("a", (1,), -1)])),
    "tensor of removed type 4": ("foreign_format", build([], [Tensor("a", (32,), 4)])),
    "tensor of removed type 38": ("tensor_type", build([], [Tensor("a", (32,), 38)])),
    "tensor of a type of ik_llama.cpp": ("foreign_format", build([], [Tensor("a", (256,), 139)])),
    "tensor of a type of bitnet.cpp": ("foreign_format", build([], [Tensor("a", (256,), 36)])),
    "tensor of half a block": ("tensor_shape", build([], [Tensor("a", (16, 2), Q4_0, 18)])),
    "scalar of a blocked type": ("tensor_shape", build([], [Tensor("a", (), Q4_0, 18)])),
    "tensor at a bad offset": ("tensor_offset", build([], [Tensor("a", (1,), offset=-1)])),
    "tensor at an unpadded offset": (
        "tensor_offset",
        build([], [Tensor("a", (1,)), Tensor("b", (1,), offset=4)]),
    ),
    "tensor twice": ("tensor_duplicate", build([], [Tensor("a", (1,)), Tensor("a", (1,))])),
    "tensors in another alignment than said": (
        "tensor_offset",
        build([(ALIGN, "u32", 64)], [Tensor("a", (1,)), Tensor("b", (1,))]),
    ),
    "data too short": ("truncated", build([], [Tensor("a", (8,))])[:-1]),
    "data missing": ("truncated", build([], [Tensor("a", (8,))], data=False)),
    "data missing and no padding": ("truncated", build([], [Tensor("a", (0,))])[:-1]),
    "length bomb: string": ("length", build([string("key") + struct.pack("<IQ", 8, 1 << 63)])),
    "length bomb: string of 1 GiB": ("truncated", build([string("key") + struct.pack("<IQ", 8, 1 << 30)])),
    # far into a long array, where strings are walked in bulk: such a position is beyond any offset of a buffer
    **{
        f"length bomb: string {length:#x} far into an array": (
            "length",
            build(
                [
                    string("key")
                    + struct.pack("<IIQ", 9, 8, 3000)
                    + string("x" * 70) * 2000
                    + struct.pack("<Q", length)
                    + string("x" * 70) * 999
                ]
            ),
        )
        for length in (1 << 62, (1 << 63) - 8, 1 << 63, (1 << 64) - 8)
    },
    "length bomb: array": ("truncated", build([string("key") + struct.pack("<IIQ", 9, 0, 10**9)])),
    "length bomb: array of strings": ("truncated", build([string("key") + struct.pack("<IIQ", 9, 8, 10**9)])),
    "length bomb: array of 2^63": ("length", build([string("key") + struct.pack("<IIQ", 9, 0, 1 << 63)])),
    "empty file": ("truncated", b""),
    "half a magic": ("truncated", b"GG"),
    "a web page": ("web_page", b"<!DOCTYPE html>\n<html>"),
}

GOOD = {
    "no keys, no tensors": build(),
    "version 2": build(version=2),
    "version 2 of the same low half": build(version=3),
    "keys of every type": build(
        [
            (f"k.{kind}", kind, 1)
            for kind in ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "u64", "i64", "f64")
        ]
        + [
            ("k.str", "str", ""),
            ("k.none", "[u8]", []),
            ("k.nobody", "[str]", []),
            ("k.many", "[f64]", [0.5] * 9),
        ]
    ),
    "tensor of no elements": build([], [Tensor("a", (8, 0)), Tensor("b", (8,))]),
    "tensor without dimensions": build([], [Tensor("a", (), size=4)]),
    "tensor without name": build([], [Tensor("", (8,))]),
    "tensor name of 63 bytes": build([], [Tensor("n" * 63, (8,))]),
    "alignment 1": build([(ALIGN, "u32", 1)], [Tensor("a", (3,)), Tensor("b", (3,))], align=1),
    "padding after the last tensor missing": build([], [Tensor("a", (1,))])[:-28],
    "more bytes than needed": build([], [Tensor("a", (1,))]) + b"more",
    "later shard without total": build([("split.count", "u16", 2), ("split.no", "u16", 1)]),
    "unknown file_type": build([("general.file_type", "u32", 4711)]),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_refused_with_a_code_and_one_sentence_naming_the_file(tmp_path, kind):
    code, data = BAD[kind]
    path = write(tmp_path / "bad.gguf", data)
    with pytest.raises(GGUFError) as error:
        read_header(path)
    assert error.value.code == code
    message = str(error.value)
    assert message.startswith(path)
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize("kind", GOOD)
def test_good_files_are_read(tmp_path, kind):
    path = write(tmp_path / "good.gguf", GOOD[kind])
    assert read_header(path).size == len(GOOD[kind])


@pytest.mark.parametrize("number", sorted(TENSOR_TYPES))
def test_a_tensor_of_every_type_is_measured(tmp_path, number):
    name, block, nbytes = TENSOR_TYPES[number]
    header = read_header(write(tmp_path / "x.gguf", build([], [Tensor("a", (block, 3), number, 3 * nbytes)])))
    assert header.bytes_by_type == {name: 3 * nbytes}
    assert header.parameter_count == 3 * block


def test_facts_of_a_model(tmp_path):
    data = model(tensors=[Tensor("a", (256, 2), Q4_K, 288), Tensor("b", (8, 4)), Tensor("c", (9,))])
    header = read_header(write(tmp_path / "m.gguf", data))
    assert header.version == 3
    assert header.metadata["general.architecture"] == "llama"
    assert header.metadata["llama.attention.head_count_kv"] == Array("u32", 2, (2, 0))
    assert header.metadata["tokenizer.ggml.tokens"] == Array("str", 2000, None)
    assert (header.tensor_count, header.parameter_count) == (3, 512 + 32 + 9)
    assert header.bytes_by_type == {"Q4_K": 288, "F32": 164}
    assert (header.alignment, header.data_offset % 32) == (32, 0)
    assert header.expected_size == len(data) - 28  # without the padding after c
    status = (tmp_path / "m.gguf").stat()
    assert (header.size, header.mtime_ns, header.inode) == (status.st_size, status.st_mtime_ns, status.st_ino)


LENGTHS = [[0], [5], [63], [64], [255], [256], [0, 5, 64, 300, 7], [70_000], [2_000_000]]
COUNTS = [1, 63, 64, 65, 1025, 3000]


@pytest.mark.parametrize(
    ("lengths", "count"),
    [(each, count) for each in LENGTHS for count in COUNTS if max(each) * count < 3 << 20],
)
def test_string_arrays_of_any_lengths_end_where_they_end(tmp_path, lengths, count):
    strings = [
        b"\x05\0\0\0\0\0\0\0"[: lengths[n % len(lengths)]].ljust(lengths[n % len(lengths)], b"x") for n in range(count)
    ]
    data = build([("a", "[str]", strings), ("behind", "u32", 4711)])
    assert read_header(write(tmp_path / "s.gguf", data)).metadata["behind"] == 4711
    with pytest.raises(GGUFError, match="incomplete"):
        read_header(write(tmp_path / "cut.gguf", data[: -len("behind") - 30]))


def test_arrays_are_kept_only_if_small(tmp_path):
    data = build([("small", "[i8]", [-1, 0, 1]), ("words", "[str]", ["a", "bc"]), ("large", "[u8]", [0] * 1025)])
    metadata = read_header(write(tmp_path / "a.gguf", data)).metadata
    assert metadata["small"] == Array("i8", 3, (-1, 0, 1))
    assert metadata["words"] == Array("str", 2, ("a", "bc"))
    assert metadata["large"] == Array("u8", 1025, None)


def test_what_is_kept_is_bounded_whatever_the_file_holds(tmp_path):
    pairs = [(f"text{number}", "str", b"x" * (1 << 20)) for number in range(100)]
    metadata = read_header(write(tmp_path / "big.gguf", build([*pairs, ("end", "u8", 1)]))).metadata
    assert metadata["end"] == 1
    assert len(metadata["text0"]) == 1 << 16
    assert sum(len(str(value)) for value in metadata.values()) < 5 << 20


def test_invalid_utf_8_and_control_characters_in_values_are_no_fault(tmp_path):
    data = build([("general.name", "str", b"\xff\0{{ x }}\n\x1b[31m")])
    assert read_header(write(tmp_path / "n.gguf", data)).metadata["general.name"] == "\ufffd\0{{ x }}\n\x1b[31m"


def test_the_fingerprint_is_of_the_header(tmp_path):
    def fingerprint(data):
        return read_header(write(tmp_path / "f.gguf", data)).fingerprint

    assert fingerprint(model(fill=b"\0")) == fingerprint(model(fill=b"\1"))
    prints = {fingerprint(model(**options)) for options in ({}, {"name": "Other"}, {"file_type": 2}, {"arch": "qwen3"})}
    assert len(prints) == 4
    assert fingerprint(model(tensors=[Tensor("z", (8, 4)), Tensor("b.weight", (8,))])) not in prints


def test_a_header_cut_anywhere_is_incomplete(tmp_path):
    data = model(tensors=[Tensor("a", (256, 2), Q4_K, 288), Tensor("c", (8,))], tokens=70)
    header = read_header(write(tmp_path / "whole.gguf", data))
    path = tmp_path / "cut.gguf"
    path.write_bytes(data)
    for size in range(header.expected_size - 1, -1, -1):
        os.truncate(path, size)
        with pytest.raises(GGUFError) as error:
            read_header(path)
        assert error.value.code == "truncated", size


ODD = {
    "folder": (lambda path: path.mkdir(), "not_regular"),
    "FIFO": (os.mkfifo, "not_regular"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "not_regular"),
    "link to itself": (lambda path: path.symlink_to(path), "unreadable"),
    "broken link": (lambda path: path.symlink_to("nowhere"), "unreadable"),
    "nothing": (lambda path: None, "unreadable"),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path, kind):
    make, code = ODD[kind]
    path = tmp_path / "x.gguf"
    make(path)
    with pytest.raises(GGUFError) as error:
        read_header(path)
    assert error.value.code == code


def test_an_unreadable_file_names_the_cause(tmp_path, monkeypatch):
    path = write(tmp_path / "m.gguf", model())

    def denied(*_args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(reader.os, "open", denied)  # root may read everything
    with pytest.raises(GGUFError, match="Permission denied") as error:
        read_header(path)
    assert error.value.code == "unreadable"


@pytest.mark.parametrize("data", [model(), model()[:-1]], ids=["whole", "cut"])
@pytest.mark.parametrize("change", ["grows", "shrinks"])
def test_a_file_that_changes_while_it_is_read_is_incomplete(tmp_path, monkeypatch, data, change):
    path = write(tmp_path / "m.gguf", data)
    pread = os.pread

    def changing(fd, length, offset):
        os.truncate(path, len(data) + 1 if change == "grows" else 10)
        return pread(fd, length, offset)

    monkeypatch.setattr(reader.os, "pread", changing)
    with pytest.raises(GGUFError, match="still being written") as error:
        read_header(path)
    assert error.value.code == "changing"


def test_a_hostile_path_stays_one_line(tmp_path):
    path = write(tmp_path / "a\n[Service]\x1b[31m.gguf", b"junk")
    with pytest.raises(GGUFError) as error:
        read_header(path)
    assert "\\n[Service]\\x1b" in str(error.value)
