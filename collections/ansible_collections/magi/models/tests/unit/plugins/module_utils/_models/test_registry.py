# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Scanning every layout with whatever lies in it, and the registry's file through crashes and corruption."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.magi.models.plugins.module_utils._base import files
from ansible_collections.magi.models.plugins.module_utils._base.files import FileWriteError
from ansible_collections.magi.models.plugins.module_utils._models import registry
from ansible_collections.magi.models.plugins.module_utils._models.library import find
from ansible_collections.magi.models.plugins.module_utils._models.registry import (
    MODE,
    RegistryError,
    ScanError,
    discover,
    dump,
    load,
    parse,
    save,
)
from ansible_collections.magi.models.tests.unit.plugins.module_utils.gguf_files import (
    Tensor,
    build,
    model,
    shard,
    write,
)


@pytest.fixture
def registry_path(tmp_path):
    return str(tmp_path / "state" / "registry.json")


@pytest.fixture(autouse=True)
def _folders(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "state").mkdir()


def look(tmp_path, registry_path, **options):
    """One run of the module without the module."""
    outcome = discover([str(tmp_path / "m")], registry_path, **options)
    if outcome.write:
        save(registry_path, outcome.registry)
    return outcome


def scan(folder):
    return discover([str(folder)], str(folder / "no.json")).registry


def ids(registry):
    return [item["id"] for item in registry.models]


def codes(registry):
    return {Path(item["path"]).name: item["code"] for item in registry.rejected}


# ---- layouts --------------------------------------------------------------------------------------


def test_a_plain_tree(tmp_path):
    write(tmp_path / "m/a-Q4_0.gguf", model("A"))
    write(tmp_path / "m/deep/er/b-Q8_0.GGUF", model("B"))
    write(tmp_path / "m/README.md", b"# models")
    registry = scan(tmp_path / "m")
    assert ids(registry) == ["a-q4_0", "b-q8_0"]
    assert registry.rejected == []
    first = registry.models[0]
    assert first["shape"]["block_count"] == 2
    assert (first["shape"]["head_count_kv"], first["shape"]["head_count_kv_total"]) == (2, 2)
    assert first["shape"]["vocab_size"] == 2000
    assert first["files"] == [
        {
            "path": first["path"],
            "size": first["size_bytes"],
            "mtime_ns": Path(first["path"]).stat().st_mtime_ns,
        }
    ]


def test_a_hugging_face_cache(tmp_path):
    hub = tmp_path / "m"

    def add(repository, revision, name, content, blob):
        folder = hub / f"models--{repository}"
        write(folder / "blobs" / blob, content)
        link = folder / "snapshots" / revision / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"../../blobs/{blob}")

    add("org--gemma-GGUF", "aaaa", "gemma-Q4_0.gguf", model("Gemma"), "1" * 64)
    add("org--gemma-GGUF", "aaaa", "mmproj-F16.gguf", model("P", "clip", 1), "2" * 64)
    add("org--gemma-GGUF", "bbbb", "gemma-Q4_0.gguf", model("Gemma"), "1" * 64)
    add("other--gemma-GGUF", "cccc", "x-Q4_0.gguf", model("X"), "3" * 64)
    add("some--llama-GGUF", "dddd", "x-Q4_0.gguf", model("Y"), "4" * 64)
    write(hub / "models--org--gemma-GGUF/blobs" / ("5" * 64 + ".incomplete"), model()[:100])
    registry = scan(hub)
    assert ids(registry) == ["gemma-gguf-x-q4_0", "gemma-q4_0", "llama-gguf-x-q4_0"]
    gemma = registry.models[1]
    assert gemma["path"].endswith("/aaaa/gemma-Q4_0.gguf")
    assert [path[-20:] for path in gemma["duplicates"]] == ["bbbb/gemma-Q4_0.gguf"]
    assert gemma["mmproj"]["path"].endswith("/aaaa/mmproj-F16.gguf")
    assert [item["kind"] for item in registry.companions] == ["mmproj"]
    assert set(codes(registry).values()) == {"partial_download"}


def test_lm_studio(tmp_path):
    write(tmp_path / "m/publisher/repo-a/model-Q4_0.gguf", model("A"))
    write(tmp_path / "m/publisher/repo-a/mmproj-model-f16.gguf", model("P", "clip", 1))
    write(tmp_path / "m/publisher/repo-b/model-Q4_0.gguf", model("B"))
    registry = scan(tmp_path / "m")
    assert ids(registry) == ["repo-a-model-q4_0", "repo-b-model-q4_0"]
    assert [bool(item["mmproj"]) for item in registry.models] == [True, False]


def ollama(store, name, layers, registry="registry.ollama.ai"):
    """A manifest, and a blob for each layer that has content."""
    listed = []
    for kind, digest, content in layers:
        listed.append({"mediaType": f"application/vnd.ollama.image.{kind}", "digest": f"sha256:{digest}"})
        if content is not None:
            write(store / "blobs" / f"sha256-{digest}", content)
    write(store / "manifests" / registry / name, json.dumps({"schemaVersion": 2, "layers": listed}).encode())


def test_an_ollama_store(tmp_path):
    store = tmp_path / "m" / "models"
    (store / "blobs").mkdir(parents=True)
    ollama(
        store,
        "library/gemma3/4b",
        [
            ("model", "1" * 64, model("Gemma")),
            ("projector", "2" * 64, model("P", "clip", 1)),
            ("license", "9" * 64, b""),
        ],
    )
    ollama(store, "someone/llama/latest", [("model", "3" * 64, model("L"))])
    ollama(store, "library/gone/latest", [("model", "4" * 64, None)])
    ollama(store, "library/evil/latest", [("model", "../../../../etc/passwd", None)])
    write(store / "manifests/registry.ollama.ai/library/junk/latest", b"{")
    write(store / "manifests/registry.ollama.ai/library/list/latest", b"[" * 100_000)
    registry = scan(tmp_path / "m")
    assert ids(registry) == ["gemma3-4b-q4_k_m", "someone-llama-latest-q4_k_m"]
    assert registry.models[0]["path"] == str(store / "blobs" / f"sha256-{'1' * 64}")
    assert registry.models[0]["mmproj"]["path"] == str(store / "blobs" / f"sha256-{'2' * 64}")
    assert sorted(item["code"] for item in registry.rejected) == [
        "blob_missing",
        "manifest",
        "manifest",
        "manifest",
    ]


# ---- odd things -----------------------------------------------------------------------------------


def fill_with_odd_things(folder):
    """Whatever should not be in a folder of models, named as if it should. Returns the codes expected."""
    write(folder / "good-Q4_0.gguf", model("Good"))
    os.mkfifo(folder / "fifo.gguf")
    (folder / "zero.gguf").symlink_to("/dev/zero")
    (folder / "self.gguf").symlink_to("self.gguf")
    (folder / "broken.gguf").symlink_to("nowhere")
    (folder / "up").symlink_to(".")
    write(folder / "folder.gguf" / "inside-Q4_0.gguf", model("Inside"))
    write(folder / "cut.gguf", model()[:-1])
    write(folder / "page.gguf", b"<!DOCTYPE html>")
    write(folder / "a.gguf.part", model()[:100])
    write(folder / "b.gguf", model("B"))
    write(folder / "b.gguf.aria2", b"")
    write(folder / "vocab.gguf", build([("general.architecture", "str", "llama")]))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket.gguf"))  # a short path
    return {
        "fifo.gguf": "not_regular",
        "zero.gguf": "not_regular",
        "socket.gguf": "not_regular",
        "folder.gguf": "not_regular",
        "self.gguf": "link_loop",
        "broken.gguf": "link_broken",
        "up": "link_loop",
        "cut.gguf": "truncated",
        "page.gguf": "magic",
        "a.gguf.part": "partial_download",
        "b.gguf": "partial_download",
        "vocab.gguf": "vocab_only",
    }


def test_odd_things_are_reported_and_the_rest_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = fill_with_odd_things(tmp_path / "m")
    registry = scan(tmp_path / "m")
    assert codes(registry) == expected
    assert ids(registry) == ["good-q4_0", "inside-q4_0"]
    assert all(item["reason"].endswith(".") and "\n" not in item["reason"] for item in registry.rejected)


def test_unreadable_things_are_reported(tmp_path, monkeypatch):
    write(tmp_path / "m/secret.gguf", model())
    write(tmp_path / "m/closed/x.gguf", model())
    scandir, opened = os.scandir, os.open

    def guarded(original):
        def call(path, *args):
            if str(path).endswith(("closed", "secret.gguf")):
                raise PermissionError(errno.EACCES, "Permission denied")
            return original(path, *args)

        return call

    monkeypatch.setattr(os, "scandir", guarded(scandir))  # root may read everything
    monkeypatch.setattr(os, "open", guarded(opened))
    assert codes(scan(tmp_path / "m")) == {"secret.gguf": "unreadable", "closed": "unreadable"}


@pytest.mark.parametrize(
    "name",
    ["a b", "q'u\"o`te", "semi;colon", "new\nline", "émoji🦙", "-dash", "{{ x }}", "%n$HOME", "\x1b[31m"],
)
def test_hostile_file_names_keep_their_exact_path(tmp_path, name):
    path = write(tmp_path / "m" / f"{name}.gguf", model())
    registry = parse(dump(scan(tmp_path / "m")), "x")
    assert [item["path"] for item in registry.models] == [path]


def test_a_file_name_that_is_not_utf_8_is_rejected_by_name(tmp_path):
    with open(os.fsencode(tmp_path / "m") + b"/bad-\xff.gguf", "wb") as file:
        file.write(model())
    registry = parse(dump(scan(tmp_path / "m")), "x")
    (item,) = registry.rejected
    assert item["code"] == "name_not_utf8"
    assert "bad-\\udcff.gguf" in item["path"]


def test_shards_with_a_split_number_of_the_wrong_type_are_one_incomplete_model(tmp_path):
    write(tmp_path / "m/x-00001-of-00002.gguf", shard(1, 2))
    write(tmp_path / "m/x-00002-of-00002.gguf", shard(2, 2, kind="u32"))
    write(tmp_path / "m/y-00001-of-00002.gguf", shard(1, 2))
    write(tmp_path / "m/y-00002-of-00002.gguf", shard(2, 2))
    write(tmp_path / "m/z-00001-of-00002.gguf", shard(1, 2))
    registry = scan(tmp_path / "m")
    assert ids(registry) == ["y-q4_k_m"]
    assert codes(registry) == {
        "x-00001-of-00002.gguf": "shard_unusable",
        "z-00001-of-00002.gguf": "shard_missing",
    }


def test_mixed_sets_of_shards_are_found_by_their_tensors(tmp_path):
    write(tmp_path / "m/x-00001-of-00002.gguf", shard(1, 2))
    write(tmp_path / "m/x-00002-of-00002.gguf", shard(2, 2, table=[Tensor("blk.1.weight", (8,))]))
    assert list(codes(scan(tmp_path / "m")).values()) == ["shard_mixed"]


def test_scan_paths_may_overlap_and_be_files_and_be_missing(tmp_path):
    path = write(tmp_path / "m/sub/x-Q4_0.gguf", model())
    (tmp_path / "m/link").symlink_to("sub")
    folder = str(tmp_path / "m")
    outcome = discover([folder, f"{folder}/sub", f"{folder}/../m", path, f"{folder}/none"], f"{folder}/no.json")
    assert [item["path"] for item in outcome.registry.models] == [path]
    assert any(f"{folder}/none" in warning for warning in outcome.warnings)
    with pytest.raises(ScanError, match="/none1, /none2"):
        discover(["/none1", "/none2"], f"{folder}/no.json")


def test_copies_are_one_model_and_look_alikes_are_not(tmp_path):
    tensors = [Tensor("w", (64, 1024))]
    write(tmp_path / "m/a.gguf", model(tensors=tensors, fill=b"\1"))
    write(tmp_path / "m/b.gguf", model(tensors=tensors, fill=b"\1"))
    write(tmp_path / "m/c.gguf", model(tensors=tensors, fill=b"\2"))
    data = bytearray(model(tensors=tensors, fill=b"\1"))
    data[-200_000] ^= 1  # outside the samples
    write(tmp_path / "m/d.gguf", bytes(data))
    found = {item["id"]: [Path(path).name for path in item["duplicates"]] for item in scan(tmp_path / "m").models}
    assert found == {"a-q4_k_m": ["b.gguf"], "c-q4_k_m": [], "d-q4_k_m": []}


# ---- cache ----------------------------------------------------------------------------------------


def test_nothing_changed_nothing_is_read(tmp_path, registry_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill_with_odd_things(tmp_path / "m")
    first = look(tmp_path, registry_path)
    assert (first.source, first.reason, first.changed) == ("scan", "registry missing", True)
    assert any("scanning and creating" in warning for warning in first.warnings)
    monkeypatch.setattr(registry, "read_header", None)
    second = look(tmp_path, registry_path)
    assert (second.source, second.reason, second.changed, second.write) == ("cache", None, False, False)
    assert second.registry.content == first.registry.content


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
    "partial": (lambda folder: write(folder / "p.gguf.part", b""), "what is set aside has changed"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_changed_is_read_again_and_nothing_else(tmp_path, registry_path, monkeypatch, kind):
    change, reason = CHANGES[kind]
    os.utime(write(tmp_path / "m/x.gguf", model()), ns=(5, 5))
    write(tmp_path / "m/y.gguf", model("Y"))
    look(tmp_path, registry_path)
    change(tmp_path / "m")
    read = []
    original = registry.read_header
    monkeypatch.setattr(registry, "read_header", lambda path: read.append(path) or original(path))
    outcome = look(tmp_path, registry_path)
    assert (outcome.source, outcome.reason) == ("scan", reason)
    assert str(tmp_path / "m/y.gguf") not in read
    assert look(tmp_path, registry_path).source == "cache"


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
        raise registry.GGUFError("changing", f"{path} is incomplete: it is still being written.")

    with monkeypatch.context() as patch:
        patch.setattr(registry, "read_header", changing)
        assert codes(look(tmp_path, registry_path).registry) == {"x.gguf": "changing"}
    assert ids(look(tmp_path, registry_path).registry) == ["x-q4_k_m"]


def test_checksums_are_computed_once(tmp_path, registry_path, monkeypatch):
    write(tmp_path / "m/x.gguf", model())
    assert look(tmp_path, registry_path).registry.models[0]["sha256"] is None
    outcome = look(tmp_path, registry_path, checksum=True)
    assert outcome.changed
    digest = outcome.registry.models[0]["sha256"]
    assert len(digest) == 64
    monkeypatch.setattr(registry, "_digest", None)
    assert look(tmp_path, registry_path, checksum=True).source == "cache"
    assert look(tmp_path, registry_path).registry.models[0]["sha256"] == digest


def test_many_files_are_read_in_parallel_with_progress(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "cores", lambda: 2)
    for number in range(40):
        write(tmp_path / f"m/x{number:02}-Q4_0.gguf", model(f"X{number}", tokens=2))
    lines = []
    outcome = discover([str(tmp_path / "m")], str(tmp_path / "no.json"), progress=lines.append)
    assert len(outcome.registry.models) == 40
    assert any(line.startswith("read 40 of 40 headers") for line in lines)
    monkeypatch.setattr(registry, "cores", lambda: 1)
    assert discover([str(tmp_path / "m")], str(tmp_path / "no.json")).registry == outcome.registry


def test_without_processes_it_reads_serially(tmp_path, monkeypatch):
    def none(*_args):
        raise OSError(errno.ENOSYS, "no semaphores")

    monkeypatch.setattr(registry, "cores", lambda: 4)
    monkeypatch.setattr(registry, "ProcessPoolExecutor", none)
    for number in range(40):
        write(tmp_path / f"m/x{number:02}-Q4_0.gguf", model(f"X{number}", tokens=2))
    assert len(scan(tmp_path / "m").models) == 40


# ---- the file -------------------------------------------------------------------------------------


def corruptions(data):
    """Damaged registry files, and the code each must be recognised by."""
    rng = random.Random(11)
    for size in {0, 1, len(data) // 2, len(data) - 1, *(rng.randrange(len(data)) for _number in range(20))}:
        yield data[:size], {"corrupt"}
    for _round in range(300):
        at = rng.randrange(len(data))
        yield data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :], {"corrupt", "schema"}
    yield data + b" ", {"corrupt"}
    yield data.replace(b'"schema_version": 2', b'"schema_version": 3'), {"schema"}
    yield b'{"schema_version": 99, "anything": []}', {"schema"}
    yield b'{"models": []}', {"corrupt"}
    yield b"[]", {"corrupt"}
    yield b"\0" * 1000, {"corrupt"}
    yield b"[" * 100_000, {"corrupt"}


def test_any_damage_to_the_file_is_recognised(tmp_path):
    write(tmp_path / "m/x.gguf", model("{{ x }}"))
    write(tmp_path / "m/cut.gguf", model()[:50])
    registry = scan(tmp_path / "m")
    data = dump(registry)
    assert parse(data, "r") == registry
    for damaged, expected in corruptions(data):
        with pytest.raises(RegistryError) as error:
            parse(damaged, "/r.json")
        assert error.value.code in expected
        assert "/r.json" in str(error.value)


DAMAGED = {
    "corrupt": b"{",
    "schema": b'{"schema_version": 3}',
}


@pytest.mark.parametrize("code", DAMAGED)
def test_a_damaged_registry_is_reported_and_rebuilt_and_nothing_of_it_is_used(tmp_path, registry_path, code):
    write(tmp_path / "m/x.gguf", model())
    write(tmp_path / "state/registry.json", DAMAGED[code])
    outcome = look(tmp_path, registry_path)
    assert (outcome.source, outcome.reason, outcome.before) == ("scan", f"registry {code}", None)
    assert any(registry_path in warning for warning in outcome.warnings)
    assert ids(load(registry_path)) == ["x-q4_k_m"]


def test_what_is_no_file_is_no_registry(tmp_path):
    with pytest.raises(RegistryError, match="not a registry"):
        load(str(tmp_path / "m"))


def test_the_files_mode_is_kept_at_0640(tmp_path, registry_path):
    look(tmp_path, registry_path)
    file = tmp_path / "state/registry.json"
    assert stat.S_IMODE(file.stat().st_mode) == MODE
    file.chmod(0o666)
    assert look(tmp_path, registry_path).changed
    assert stat.S_IMODE(file.stat().st_mode) == MODE
    assert not look(tmp_path, registry_path).changed


def test_kill_9_at_any_moment_leaves_a_valid_registry(tmp_path, registry_path):
    """A writer that swaps two registries for ever is killed again and again, at random moments."""
    write(tmp_path / "m/x.gguf", model())
    one = scan(tmp_path / "m")
    two = replace(one, models=[{**one.models[0], "display_name": "x" * 300_000}])
    save(registry_path, one)
    rng = random.Random(3)
    seen = set()
    for _round in range(60):
        ready, started = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(started, b"x")
            while True:
                save(registry_path, two)
                save(registry_path, one)
        os.read(ready, 1)
        signal.sigtimedwait([], rng.random() / 50)  # a random moment, not a condition to wait for
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(started)
        found = load(registry_path)
        assert found in (one, two)
        seen.add(len(found.models[0]["display_name"]))
    save(registry_path, one)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["registry.json"]


def test_a_full_disk_leaves_the_old_registry(tmp_path, registry_path, monkeypatch):
    look(tmp_path, registry_path)
    before = (tmp_path / "state/registry.json").read_bytes()

    def full(_fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    write(tmp_path / "m/x.gguf", model())
    with pytest.raises(FileWriteError, match="No space left on device") as error:
        look(tmp_path, registry_path)
    assert registry_path in str(error.value)
    assert (tmp_path / "state/registry.json").read_bytes() == before


def test_the_difference_is_by_id(tmp_path, registry_path):
    write(tmp_path / "m/a-Q4_0.gguf", model("A"))
    write(tmp_path / "m/b-Q4_0.gguf", model("B"))
    before = look(tmp_path, registry_path).registry
    (tmp_path / "m/a-Q4_0.gguf").unlink()
    write(tmp_path / "m/b-Q4_0.gguf", model("Other"))
    write(tmp_path / "m/c-Q4_0.gguf", model("C"))
    after = look(tmp_path, registry_path).registry
    difference = registry.difference(before, after)
    lines = {side: set(text.splitlines()) for side, text in difference.items()}
    assert {line.split(":")[0] for line in lines["before"] - lines["after"]} == {"a-q4_0", "b-q4_0"}
    assert {line.split(":")[0] for line in lines["after"] - lines["before"]} == {"b-q4_0", "c-q4_0"}


def test_the_walk_opens_no_model(tmp_path, monkeypatch):
    write(tmp_path / "m/x.gguf", model())
    monkeypatch.setattr(os, "open", None)
    assert len(find([str(tmp_path / "m")]).files) == 1
