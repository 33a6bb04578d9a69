"""Properties of the pure parts that hold for any input, and for a disk that is really full."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.files import FileWriteError, write_atomic
from ansible_collections.magi.models.plugins.module_utils._gguf.reader import GGUFError, read_header
from ansible_collections.magi.models.plugins.module_utils._models.assemble import assemble
from ansible_collections.magi.models.plugins.module_utils._models.facts import Facts
from ansible_collections.magi.models.plugins.module_utils._models.found import FoundFile, KnownFile
from ansible_collections.magi.models.plugins.module_utils._models.model import Rejected
from ansible_collections.magi.models.plugins.module_utils._models.naming import slug, stem
from ansible_collections.magi.models.plugins.module_utils._models.registry import Registry, RememberedFile, dump, parse
from ansible_collections.magi.models.plugins.module_utils._models.show import inventory_lines
from ansible_collections.magi.models.tests.unit.plugins.module_utils.gguf_files import build
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=30)
SHARD_NAMES = st.builds("{}-{:05}-of-{:05}".format, st.sampled_from("ab"), st.integers(0, 3), st.integers(0, 3))
SMALL = st.none() | st.integers(0, 4)
FACTS = st.builds(
    Facts,
    architecture=st.none() | st.sampled_from(["llama", "clip", "controlvector"]),
    kind=st.none() | st.sampled_from(["model", "adapter", "mmproj", "imatrix"]),
    name=st.none() | NAMES,
    basename=st.none() | st.sampled_from(["a", "B"]),
    size_label=st.none(),
    finetune=st.none() | NAMES,
    file_type=st.none() | st.integers(0, 1100),
    weights=st.dictionaries(st.sampled_from(["F32", "Q4_K", "I8"]), st.integers(1, 9)),
    parts=st.just(["a"]),
    tensor_count=st.integers(0, 3),
    parameter_count=st.integers(0, 10**12),
    context_length=st.none() | st.integers(0, 10**6),
    shape=st.fixed_dictionaries({"embedding_length": SMALL}),
    pooling=SMALL,
    has_vision=st.booleans(),
    layers=st.integers(0, 3),
    nextn_layers=SMALL,
    deepstack=SMALL,
    projector_types=st.lists(st.sampled_from(["mlp", "new"]), max_size=1),
    projector_width=SMALL,
    has_text_encoder=st.booleans(),
    split_number=SMALL,
    split_count=SMALL,
    split_tensors=SMALL,
    tensor_names=st.sampled_from(["", "00000001", "0000000100000002"]),
    fingerprint=st.sampled_from(["a" * 64, "b" * 64]),
)


def entry(folder: str, name: str, inode: int, sha256: str | None, facts: Facts) -> KnownFile:
    path = f"/{folder}/{name}.gguf"
    return KnownFile(FoundFile(path, 1, 1, inode, 1, stem(path), f"/{folder}", (folder,)), facts, sha256)


ENTRIES = st.lists(
    st.builds(
        entry,
        st.sampled_from(["m", "n"]),
        NAMES | SHARD_NAMES,
        st.integers(0, 50),
        st.none() | st.sampled_from(["c" * 64]),
        FACTS,
    ),
    unique_by=lambda entry: entry.file.path,
    max_size=12,
)
REJECTED = st.lists(
    st.builds(lambda name: Rejected(slug(name), f"/m/{name}.gguf", "truncated", "It is."), SHARD_NAMES),
    max_size=2,
)


@given(ENTRIES, REJECTED)
def test_every_file_ends_up_in_exactly_one_place_under_a_unique_id(entries, rejected):
    inventory = assemble(entries, rejected)
    ids = [model.id for model in inventory.models]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,119}", each) for each in ids)
    served = [path for model in inventory.models for path in [*(file.path for file in model.files)]]
    paths = [
        *served,
        *(item.path for item in inventory.companions),
        *(item.path for item in inventory.rejected),
    ]
    assert len(set(served)) == len(served)
    assert set(paths) <= {entry.file.path for entry in entries} | {item.path for item in rejected}
    assert assemble(reversed(entries), rejected) == inventory
    lines = inventory_lines(inventory)
    assert [line.split(" ", 1)[0] for line in lines[2 : 2 + len(ids)]] == ids
    aside = len(inventory.companions) + len(inventory.rejected)
    assert len(lines) == 2 + len(ids) + (2 + aside if aside else 0)
    assert all(line.isprintable() for line in lines)
    files = {
        entry.file.path: RememberedFile(1, 1, entry.file.inode, json.dumps(entry.facts.to_row())) for entry in entries
    }
    registry = Registry(("/m",), inventory, files)
    assert parse(dump(registry), "r") == registry


@given(st.text())
def test_a_slug_is_a_slug_and_stays_itself(text):
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,119}", slug(text))
    assert slug(slug(text)) == slug(text)


def read_bytes(data: bytes):
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(data)
        file.flush()
        return read_header(file.name)


@given(st.lists(st.binary(max_size=80) | st.binary(min_size=250, max_size=300), max_size=200))
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_any_array_of_strings_ends_where_it_ends(strings):
    data = build([("a", "[str]", strings * 12), ("end", "u64", 1 << 63)])
    header = read_bytes(data)
    assert header.metadata["end"] == 1 << 63
    assert header.expected_size == len(data)


@given(st.binary(max_size=400))
def test_no_bytes_make_it_fail_otherwise_than_by_its_own_error(data):
    for start in (
        data,
        b"GGUF\3\0\0\0" + data,
        b"GGUF\3\0\0\0" + b"\1" + 7 * b"\0" + b"\1" + 7 * b"\0" + data,
    ):
        try:
            read_bytes(start)
        except GGUFError as error:
            assert error.code


@pytest.mark.e2e
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system to fill")
def test_a_really_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)]
    subprocess.run(mount, check=True)
    try:
        target = tmp_path / "registry.json"
        write_atomic(target, b"old" * 1000, 0o640)
        with pytest.raises(FileWriteError, match="No space left on device") as error:
            write_atomic(target, b"new" * 200_000, 0o640)
        assert error.value.errno == errno.ENOSPC
        assert target.read_bytes() == b"old" * 1000
        assert [path.name for path in tmp_path.iterdir()] == ["registry.json"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
