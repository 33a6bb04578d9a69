# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is read again and what is not."""

from __future__ import annotations

import concurrent.futures
import errno
import os

import pytest
from ansible_collections.magi.models.plugins.module_utils._gguf import reader
from ansible_collections.magi.models.plugins.module_utils._gguf.reader import GGUFError
from ansible_collections.magi.models.plugins.module_utils._models import scan
from ansible_collections.magi.models.plugins.module_utils._models.registry import save
from ansible_collections.magi.models.plugins.module_utils._models.scan import discover
from ansible_collections.magi.models.tests.unit.plugins.module_utils._models.folders import (
    codes,
    fill_with_odd_things,
    ids,
    look,
    scanned,
)
from ansible_collections.magi.models.tests.unit.plugins.module_utils.gguf_files import (
    Tensor,
    model,
    shard,
    write,
)


def test_shards_with_a_split_number_of_the_wrong_type_are_one_incomplete_model(tmp_path):
    write(tmp_path / "m/x-00001-of-00002.gguf", shard(1, 2))
    write(tmp_path / "m/x-00002-of-00002.gguf", shard(2, 2, kind="u32"))
    write(tmp_path / "m/y-00001-of-00002.gguf", shard(1, 2))
    write(tmp_path / "m/y-00002-of-00002.gguf", shard(2, 2))
    write(tmp_path / "m/z-00001-of-00002.gguf", shard(1, 2))
    registry = scanned(tmp_path / "m")
    assert ids(registry) == ["y-q4_k_m"]
    assert codes(registry) == {
        "x-00001-of-00002.gguf": "shard_unusable",
        "z-00001-of-00002.gguf": "shard_missing",
    }


def test_mixed_sets_of_shards_are_found_by_their_tensors(tmp_path):
    write(tmp_path / "m/x-00001-of-00002.gguf", shard(1, 2))
    write(tmp_path / "m/x-00002-of-00002.gguf", shard(2, 2, table=[Tensor("blk.1.weight", (8,))]))
    assert list(codes(scanned(tmp_path / "m")).values()) == ["shard_mixed"]


def test_nothing_changed_nothing_is_read(tmp_path, registry_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill_with_odd_things(tmp_path / "m")
    first = look(tmp_path, registry_path)
    assert (first.source, first.reason, first.changed) == ("scan", "registry missing", True)
    assert any("scanning and creating" in warning for warning in first.warnings)
    monkeypatch.setattr(reader, "read_header", None)
    second = look(tmp_path, registry_path)
    assert (second.source, second.reason, second.changed, second.write) == ("cache", None, False, False)
    assert second.registry == first.registry


CHANGES = {
    "new": (lambda folder: write(folder / "new.gguf", model("New")), "files: 1 new"),
    "gone": (lambda folder: (folder / "x.gguf").unlink(), "files: 1 gone"),
    "rewritten": (lambda folder: write(folder / "x.gguf", model("Longer name")), "files: 1 changed"),
    "touched": (lambda folder: os.utime(folder / "x.gguf", ns=(1, 1)), "files: 1 changed"),
    "replaced by another inode": (
        lambda folder: (
            write(folder / "t", model()),
            os.utime(folder / "t", ns=(5, 5)),
            (folder / "t").replace(folder / "x.gguf"),
        ),
        "files: 1 changed",
    ),
    "partial": (
        lambda folder: write(folder / "p.gguf.part", b""),
        "what is set aside, or named by Ollama, has changed",
    ),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_changed_is_read_again_and_nothing_else(tmp_path, registry_path, monkeypatch, kind):
    change, reason = CHANGES[kind]
    os.utime(write(tmp_path / "m/x.gguf", model()), ns=(5, 5))
    write(tmp_path / "m/y.gguf", model("Y"))
    look(tmp_path, registry_path)
    change(tmp_path / "m")
    read = []
    original = reader.read_header
    monkeypatch.setattr(reader, "read_header", lambda path: read.append(path) or original(path))
    outcome = look(tmp_path, registry_path)
    assert (outcome.source, outcome.reason) == ("scan", reason)
    assert str(tmp_path / "m/y.gguf") not in read
    assert look(tmp_path, registry_path).source == "cache"


def test_a_folder_that_was_emptied_since_the_last_scan_is_lost_and_so_is_a_missing_one(tmp_path):
    folders = {name: str(tmp_path / name) for name in ("full", "unmounted", "always-empty", "missing")}
    for name in ("full", "unmounted", "missing"):
        write(tmp_path / name / f"{name}.gguf", model(name))
    (tmp_path / "always-empty").mkdir()
    registry_path = str(tmp_path / "r.json")
    first = discover(list(folders.values()), registry_path)
    assert first.lost == ()
    save(registry_path, first.registry)

    (tmp_path / "unmounted/unmounted.gguf").unlink()
    (tmp_path / "missing").rename(tmp_path / "elsewhere")
    second = discover(list(folders.values()), registry_path)
    assert second.lost == (
        f"The folder to scan {folders['missing']} does not exist or can't be listed; skipped.",
        f"The folder to scan {folders['unmounted']} had models at the last scan and is empty now; "
        "check that its disk is mounted.",
    )
    assert set(second.lost) <= set(second.warnings)
    assert ids(second.registry) == ["full-q4_k_m"]


def test_refresh_reads_everything_and_changes_nothing(tmp_path, registry_path, monkeypatch):
    write(tmp_path / "m/x.gguf", model())
    look(tmp_path, registry_path)
    outcome = look(tmp_path, registry_path, refresh=True)
    assert (outcome.source, outcome.changed, outcome.write) == ("scan", False, False)


def test_a_file_that_still_grows_is_picked_up_when_it_is_done(tmp_path, registry_path):
    data = model()
    path = tmp_path / "m/x.gguf"
    path.write_bytes(data[:1000])
    assert codes(look(tmp_path, registry_path).registry) == {"x.gguf": "truncated"}
    path.write_bytes(data)
    assert ids(look(tmp_path, registry_path).registry) == ["x-q4_k_m"]


def test_a_passing_verdict_is_not_remembered(tmp_path, registry_path, monkeypatch):
    write(tmp_path / "m/x.gguf", model())

    def changing(path):
        raise GGUFError("changing", f"{path} is incomplete: it is still being written.")

    with monkeypatch.context() as patch:
        patch.setattr(reader, "read_header", changing)
        assert codes(look(tmp_path, registry_path).registry) == {"x.gguf": "changing"}
    assert ids(look(tmp_path, registry_path).registry) == ["x-q4_k_m"]


def test_many_files_are_read_in_parallel_with_progress(tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "cores", lambda: 2)
    for number in range(40):
        write(tmp_path / f"m/x{number:02}-Q4_0.gguf", model(f"X{number}", tokens=2))
    lines = []
    outcome = discover([str(tmp_path / "m")], str(tmp_path / "no.json"), progress=lines.append)
    assert len(outcome.registry.inventory.models) == 40
    assert any(line.startswith("read 40 of 40 headers") for line in lines)
    monkeypatch.setattr(scan, "cores", lambda: 1)
    assert discover([str(tmp_path / "m")], str(tmp_path / "no.json")).registry == outcome.registry


def test_without_processes_it_reads_serially(tmp_path, monkeypatch):
    def none(*_args):
        raise OSError(errno.ENOSYS, "no semaphores")

    monkeypatch.setattr(scan, "cores", lambda: 4)
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", none)
    for number in range(40):
        write(tmp_path / f"m/x{number:02}-Q4_0.gguf", model(f"X{number}", tokens=2))
    assert len(scanned(tmp_path / "m").inventory.models) == 40
