# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Scanning every layout with whatever lies in it."""

from __future__ import annotations

import errno
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
    scanned,
)
from ansible_collections.magi.models.tests.unit.plugins.module_utils.gguf_files import model, projector, write


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
        "manifest",
        "manifest",
        "manifest",
    ]


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
