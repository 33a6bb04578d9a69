# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Folders as tests scan them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from ansible_collections.magi.models.plugins.module_utils._models.registry import save
from ansible_collections.magi.models.plugins.module_utils._models.scan import discover
from ansible_collections.magi.models.tests.unit.plugins.module_utils.gguf_files import build, model, write


def look(tmp_path, registry_path, **options):
    """What one run of the module does, without the module."""
    outcome = discover([str(tmp_path / "m")], registry_path, **options)
    if outcome.write:
        save(registry_path, outcome.registry)
    return outcome


def scanned(folder):
    return discover([str(folder)], str(folder / "no.json")).registry


def ids(registry):
    return [item.id for item in registry.inventory.models]


def codes(registry):
    return {Path(item.path).name: item.code for item in registry.inventory.rejected}


def fill_with_odd_things(folder):
    """Put whatever should not be in a folder of models there, named like models. Returns the codes expected."""
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
        "page.gguf": "web_page",
        "a.gguf.part": "partial_download",
        "b.gguf": "partial_download",
        "vocab.gguf": "vocab_only",
    }
