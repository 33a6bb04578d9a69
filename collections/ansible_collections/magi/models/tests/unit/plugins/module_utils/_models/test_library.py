# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Scanning every layout, whatever lies in it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
from ansible_collections.magi.models.plugins.module_utils._models.library import find
from ansible_collections.magi.models.plugins.module_utils._models.model import FileVersion
from ansible_collections.magi.models.plugins.module_utils._models.registry import dump, parse
from ansible_collections.magi.models.plugins.module_utils._models.scan import ScanError, discover
from ansible_collections.magi.models.tests.unit.plugins.module_utils._models.folders import (
    codes,
    fill_with_odd_things,
    ids,
    look,
    scanned,
)
from ansible_collections.magi.models.tests.unit.plugins.module_utils.gguf_files import model, projector, shard, write


def test_a_plain_tree(tmp_path):
    write(tmp_path / "m/a-Q4_0.gguf", model("A"))
    write(tmp_path / "m/deep/er/b-Q8_0.GGUF", model("B"))
    write(tmp_path / "m/README.md", b"# models")
    registry = scanned(tmp_path / "m")
    assert ids(registry) == ["a-q4_0", "b-q8_0"]
    assert registry.inventory.rejected == ()
    first = registry.inventory.models[0]
    assert first.shape["block_count"] == 2
    assert (first.shape["head_count_kv"], first.shape["head_count_kv_total"]) == (2, 2)
    assert first.shape["vocab_size"] == 2000
    status = Path(first.path).stat()
    assert first.files == (FileVersion(first.path, status.st_size, status.st_mtime_ns),)
    assert first.size_bytes == status.st_size


def test_a_hugging_face_cache(tmp_path):
    hub = tmp_path / "m"

    def add(repository, revision, name, content, blob):
        folder = hub / f"models--{repository}"
        write(folder / "blobs" / blob, content)
        link = folder / "snapshots" / revision / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"../../blobs/{blob}")

    add("org--gemma-GGUF", "aaaa", "gemma-Q4_0.gguf", model("Gemma", "gemma3"), "1" * 64)
    add("org--gemma-GGUF", "aaaa", "mmproj-F16.gguf", projector(), "2" * 64)
    add("org--gemma-GGUF", "bbbb", "gemma-Q4_0.gguf", model("Gemma", "gemma3"), "1" * 64)
    add("other--gemma-GGUF", "cccc", "x-Q4_0.gguf", model("X"), "3" * 64)
    add("some--llama-GGUF", "dddd", "x-Q4_0.gguf", model("Y"), "4" * 64)
    write(hub / "models--org--gemma-GGUF/refs/main", b"aaaa")
    write(hub / "models--org--gemma-GGUF/blobs" / ("5" * 64 + ".incomplete"), model()[:100])
    registry = scanned(hub)
    assert ids(registry) == ["gemma-gguf-x-q4_0", "gemma-q4_0", "llama-gguf-x-q4_0"]
    gemma = registry.inventory.models[1]
    assert gemma.path.endswith("/aaaa/gemma-Q4_0.gguf")
    assert [path[-20:] for path in gemma.duplicates] == ["bbbb/gemma-Q4_0.gguf"]
    assert gemma.mmproj.path.endswith("/aaaa/mmproj-F16.gguf")
    assert [item.kind for item in registry.inventory.companions] == ["mmproj"]
    assert set(codes(registry).values()) == {"partial_download"}


def test_lm_studio(tmp_path):
    write(tmp_path / "m/publisher/repo-a/model-Q4_0.gguf", model("A", "gemma3"))
    write(tmp_path / "m/publisher/repo-a/mmproj-model-f16.gguf", projector())
    write(tmp_path / "m/publisher/repo-b/model-Q4_0.gguf", model("B"))
    registry = scanned(tmp_path / "m")
    assert ids(registry) == ["repo-a-model-q4_0", "repo-b-model-q4_0"]
    assert [bool(item.mmproj) for item in registry.inventory.models] == [True, False]


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
            ("model", "1" * 64, model("Gemma", "gemma3")),
            ("projector", "2" * 64, projector()),
            ("license", "9" * 64, b""),
        ],
    )
    ollama(store, "someone/llama/latest", [("model", "3" * 64, model("L"))])
    ollama(store, "library/own/latest", [("tensor", "6" * 64, b"x"), ("tensor", "7" * 64, b"y")])
    ollama(store, "library/gone/latest", [("model", "4" * 64, None)])
    ollama(store, "library/evil/latest", [("model", "../../../../etc/passwd", None)])
    write(store / "manifests/registry.ollama.ai/library/junk/latest", b"{")
    write(store / "manifests/registry.ollama.ai/library/list/latest", b"[" * 100_000)
    registry = scanned(tmp_path / "m")
    assert ids(registry) == ["gemma3-4b-q4_k_m", "someone-llama-latest-q4_k_m"]
    assert registry.inventory.models[0].path == str(store / "blobs" / f"sha256-{'1' * 64}")
    assert registry.inventory.models[0].mmproj.path == str(store / "blobs" / f"sha256-{'2' * 64}")
    assert sorted(item.code for item in registry.inventory.rejected) == [
        "blob_missing",
        "foreign_format",
        "manifest",
        "manifest",
        "manifest",
    ]


def test_loose_files_beside_an_ollama_store(tmp_path):
    store = tmp_path / "m"
    ollama(store, "library/llama3.2/3b", [("model", "1" * 64, model("L"))])
    write(store / "loose-Q4_0.gguf", model("Loose"))
    write(store / "deep/er-Q4_0.gguf", model("Deeper"))
    assert ids(scanned(store)) == ["er-q4_0", "llama3.2-3b-q4_k_m", "loose-q4_0"]


def test_models_of_an_ollama_store_share_blobs(tmp_path):
    store = tmp_path / "m"
    shared = ("projector", "9" * 64, projector())
    ollama(store, "library/gemma3/4b", [("model", "1" * 64, model("A", "gemma3")), shared])
    ollama(store, "library/gemma3/latest", [("model", "1" * 64, None), shared])
    ollama(store, "library/gemma3/4b-q8", [("model", "2" * 64, model("B", "gemma3")), shared])
    ollama(store, "library/gemma3/text", [("model", "3" * 64, model("C", "gemma3"))])
    write(store / "blobs" / f"sha256-{'4' * 64}-partial", b"GGUF")
    found = scanned(store).inventory
    assert {item.id: bool(item.mmproj) for item in found.models} == {
        "gemma3-4b-q4_k_m": True,
        "gemma3-4b-q8-q4_k_m": True,
        "gemma3-text-q4_k_m": False,
    }
    assert [item.models for item in found.companions] == [("gemma3-4b-q4_k_m", "gemma3-4b-q8-q4_k_m")]
    assert [item.code for item in found.rejected] == ["partial_download"]


def hub(tmp_path, repository, revisions, main=None, **refs):
    """A Hugging Face cache: file names and contents by revision, each newer than the one before, and what refs name."""
    folder = tmp_path / "m" / f"models--{repository}"
    for age, (revision, files) in enumerate(revisions.items()):
        for name, content in files.items():
            blob = hashlib.sha256(content).hexdigest()
            write(folder / "blobs" / blob, content)
            link = folder / "snapshots" / revision / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(folder / "blobs" / blob, link.parent))
        os.utime(folder / "snapshots" / revision, (age, age))
    for name, revision in {**refs, **({"main": main} if main else {})}.items():
        write(folder / "refs" / name, revision.encode())


def test_the_revision_of_a_repository_is_the_one_that_refs_main_names(tmp_path):
    old = {
        "x-Q4_0.gguf": model("Old", "gemma3"),
        "mmproj-F16.gguf": projector(),
        "gone-Q4_0.gguf": model("Gone", "gemma3"),
    }
    new = {"x-Q4_0.gguf": model("New", "gemma3"), "mmproj-F16.gguf": projector(extra=[("x", "u8", 1)])}
    hub(tmp_path, "org--x", {"bbbb": old, "aaaa": new}, main="aaaa\n")
    found = scanned(tmp_path / "m").inventory
    assert {item.id: (item.path[-16:], item.mmproj.path[-20:]) for item in found.models} == {
        "gone-q4_0": ("bbbb/gone-Q4_0.gguf"[-16:], "bbbb/mmproj-F16.gguf"[-20:]),
        "x-q4_0": ("aaaa/x-Q4_0.gguf"[-16:], "aaaa/mmproj-F16.gguf"[-20:]),
    }
    assert [(item.path[-16:], item.code) for item in found.rejected] == [("bbbb/x-Q4_0.gguf", "superseded")]


@pytest.mark.parametrize(
    ("refs", "current"),
    [
        ({}, "cccc"),
        ({"v1.0": "bbbb"}, "bbbb"),
        ({"pr/1": "bbbb\n"}, "bbbb"),
        ({"v1.0": "aaaa", "v2.0": "bbbb"}, "bbbb"),
        ({"main": "aaaa", "v1.0": "bbbb", "pr/1": "cccc"}, "aaaa"),
        ({"main": "dddd", "v1.0": "aaaa"}, "aaaa"),  # its files are gone
        ({"main": "../../x"}, "cccc"),
    ],
)
def test_one_revision_is_the_model_whatever_names_it(tmp_path, refs, current):
    revisions = {name: {"x-Q4_0.gguf": model(name)} for name in ("aaaa", "bbbb", "cccc")}
    hub(tmp_path, "org--x", revisions, **refs)
    found = scanned(tmp_path / "m").inventory
    assert [(item.id, item.path[-16:]) for item in found.models] == [("x-q4_0", f"{current}/x-Q4_0.gguf")]
    assert [item.code for item in found.rejected] == ["superseded", "superseded"]


def test_a_model_that_both_revisions_have_is_one(tmp_path):
    same = {"x-Q4_0.gguf": model("Same")}
    hub(tmp_path, "org--x", {"aaaa": same, "bbbb": same}, main="bbbb")
    found = scanned(tmp_path / "m").inventory
    assert [(item.id, item.path[-16:], len(item.duplicates)) for item in found.models] == [
        ("x-q4_0", "bbbb/x-Q4_0.gguf", 1)
    ]
    assert found.rejected == ()


def test_a_model_stays_whose_new_revision_has_only_a_projector(tmp_path):
    shards = {f"Q4/x-Q4_0-0000{number}-of-00002.gguf": shard(number, 2) for number in (1, 2)}
    hub(tmp_path, "org--x", {"aaaa": shards, "bbbb": {"mmproj-F16.gguf": projector()}}, main="bbbb")
    found = scanned(tmp_path / "m").inventory
    assert [(item.id, item.mmproj) for item in found.models] == [("x-q4_0", None)]
    assert [item.models for item in found.companions] == [()]


def test_a_change_of_refs_main_is_noticed(tmp_path, registry_path):
    hub(tmp_path, "org--x", {"aaaa": {"x-Q4_0.gguf": model("A")}, "bbbb": {"x-Q4_0.gguf": model("B")}}, main="aaaa")
    assert look(tmp_path, registry_path).registry.inventory.models[0].path.endswith("aaaa/x-Q4_0.gguf")
    (tmp_path / "m/models--org--x/refs/main").write_text("bbbb")
    found = look(tmp_path, registry_path)
    assert (found.source, found.reason) == ("scan", "what is set aside, or named by Ollama, has changed")
    assert found.registry.inventory.models[0].path.endswith("bbbb/x-Q4_0.gguf")


def test_a_new_tag_of_a_blob_is_noticed(tmp_path, registry_path):
    """ollama cp and ollama rm write and remove manifests alone."""
    store = tmp_path / "m" / "models"
    (store / "blobs").mkdir(parents=True)
    ollama(store, "library/gemma3/4b", [("model", "1" * 64, model("Gemma", "gemma3"))])
    assert ids(look(tmp_path, registry_path).registry) == ["gemma3-4b-q4_k_m"]
    ollama(store, "library/mine/latest", [("model", "1" * 64, None)])
    (store / "manifests/registry.ollama.ai/library/gemma3/4b").unlink()
    assert ids(look(tmp_path, registry_path).registry) == ["mine-latest-q4_k_m"]
    assert look(tmp_path, registry_path).source == "cache"


@pytest.mark.parametrize(
    "folder",
    ["lost+found", ".Trash-1000/files", "Trash/files", ".Trash", "$RECYCLE.BIN", "#recycle", ".snapshots/1/snapshot"],
)
def test_trash_is_not_looked_into(tmp_path, folder):
    write(tmp_path / "m" / folder / "x-Q4_0.gguf", model())
    found = scanned(tmp_path / "m").inventory
    assert (found.models, found.rejected) == ((), ())
    assert ids(scanned(tmp_path / "m" / folder)) == ["x-q4_0"]  # asked for by name


@pytest.mark.parametrize(
    ("name", "code", "model_id"),
    [
        ("x-Q4_0.gguf.part1of2", "piece", "x-q4_0"),
        ("x-Q4_0.gguf.!qB", "partial_download", "x-q4_0"),
        ("incomplete-x-Q4_0.gguf", "partial_download", "x-q4_0"),
        ("._____temp/org/x-Q4_0.gguf", "partial_download", "x-q4_0"),
        ("x-Q4_0.gguf.zip", "archive", "x-q4_0"),
        (".cache/huggingface/download/Q4/abc=.0123.incomplete", "partial_download", "abc-.0123.incomplete"),
        ("x-Q4_0-00001-of-00002.gguf.part", "partial_download", "x-q4_0"),
        ("x-Q4_0.part1of2.gguf", "piece", "x-q4_0"),
        ("x-Q4_0.gguf?download=true", "misnamed", "x-q4_0"),
        ("x.safetensors", "unconverted", "x"),
        ("Llama-3-8B/model-00001-of-00002.safetensors", "unconverted", "llama-3-8b"),
        ("models--org--X-1B/snapshots/abc/pytorch_model.bin", "unconverted", "x-1b"),
    ],
)
def test_what_is_no_file_yet_is_set_aside_under_the_name_of_its_model(tmp_path, name, code, model_id):
    write(tmp_path / "m" / name, model()[:100])
    (item,) = scanned(tmp_path / "m").inventory.rejected
    assert (item.code, item.id) == (code, model_id)


def test_the_name_of_a_piece_counts_only_where_its_content_is_no_model(tmp_path):
    write(tmp_path / "m/whole.part1of2.gguf", model())
    write(tmp_path / "m/cut.part1of2.gguf", model()[:-1])
    write(tmp_path / "m/cut.part2of2.gguf", bytes(100))
    write(tmp_path / "m/folder.bin/x-Q4_0.gguf", model("X"))
    registry = scanned(tmp_path / "m")
    assert ids(registry) == ["whole.part1of2-q4_k_m", "x-q4_0"]
    assert codes(registry) == {"cut.part1of2.gguf": "piece", "cut.part2of2.gguf": "piece"}


def test_odd_things_are_reported_and_the_rest_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = fill_with_odd_things(tmp_path / "m")
    registry = scanned(tmp_path / "m")
    assert codes(registry) == expected
    assert ids(registry) == ["good-q4_0", "inside-q4_0"]
    assert all(item.reason.endswith(".") and "\n" not in item.reason for item in registry.inventory.rejected)


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
    assert codes(scanned(tmp_path / "m")) == {"secret.gguf": "unreadable", "closed": "unreadable"}


@pytest.mark.parametrize(
    "name",
    ["a b", "q'u\"o`te", "semi;colon", "new\nline", "émoji🦙", "-dash", "{{ x }}", "%n$HOME", "\x1b[31m"],
)
def test_hostile_file_names_keep_their_exact_path(tmp_path, name):
    path = write(tmp_path / "m" / f"{name}.gguf", model())
    registry = parse(dump(scanned(tmp_path / "m")), "x")
    assert [item.path for item in registry.inventory.models] == [path]


def test_a_file_name_that_is_not_utf_8_is_rejected_by_name(tmp_path):
    with open(os.fsencode(tmp_path / "m") + b"/bad-\xff.gguf", "wb") as file:
        file.write(model())
    registry = parse(dump(scanned(tmp_path / "m")), "x")
    (item,) = registry.inventory.rejected
    assert item.code == "name_not_utf8"
    assert "bad-\\udcff.gguf" in item.path


def test_scan_paths_may_overlap_and_be_files_and_be_missing(tmp_path):
    path = write(tmp_path / "m/sub/x-Q4_0.gguf", model())
    (tmp_path / "m/link").symlink_to("sub")
    folder = str(tmp_path / "m")
    outcome = discover([folder, f"{folder}/sub", f"{folder}/../m", path, f"{folder}/none"], f"{folder}/no.json")
    assert [item.path for item in outcome.registry.inventory.models] == [path]
    assert any(f"{folder}/none" in warning for warning in outcome.warnings)
    with pytest.raises(ScanError, match="/none1, /none2"):
        discover(["/none1", "/none2"], f"{folder}/no.json")


def test_the_walk_opens_no_model(tmp_path, monkeypatch):
    write(tmp_path / "m/x.gguf", model())
    monkeypatch.setattr(os, "open", None)
    assert len(find([str(tmp_path / "m")]).files) == 1
