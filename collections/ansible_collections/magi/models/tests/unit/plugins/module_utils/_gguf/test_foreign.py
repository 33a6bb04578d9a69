# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Other content under the name of a GGUF file is named for what it is, with its remedy."""

from __future__ import annotations

import struct

import pytest
from ansible_collections.magi.models.plugins.module_utils._gguf.reader import GGUFError, read_header

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4109863\n"
SAFETENSORS = struct.pack("<Q", 40) + b'{"__metadata__":{"format":"pt"}}' + b"\1" * 99
CASES = {
    "LFS": (POINTER, "lfs_pointer", "git lfs pull"),
    "git-annex": (b"/annex/objects/SHA256E-s1--ab.gguf\n", "lfs_pointer", "git annex get"),
    "a page": (b"<!DOCTYPE html>\n<html><head>", "web_page", "sign in"),
    "a page with a mark": (b"\xef\xbb\xbf\n  <HTML lang=en>", "web_page", "sign in"),
    "refused": (b"Invalid username or password.", "error_text", "Invalid username or password."),
    "not found": (b"Entry not found", "error_text", "Entry not found"),
    "JSON": (b'{"error":"Access to model meta-llama/X is restricted."}', "error_text", "restricted"),
    "XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "error_text", "AccessDenied"),
    "UTF-8, cut": (b"Zugriff verweigert: " + "ü".encode() * 300, "error_text", "Zugriff verweigert"),
    "zeros": (bytes(5000), "zeros", "download it again"),
    "nothing": (b"", "truncated", "is empty"),
    "safetensors": (SAFETENSORS, "other_format", "convert_hf_to_gguf.py"),
    "PyTorch": (b"PK\x03\x04" + bytes(99), "archive", "convert_hf_to_gguf.py"),
    "pickle": (b"\x80\x02}q\x00" + bytes(99), "other_format", "convert_hf_to_gguf.py"),
    "ggml": (b"lmgg" + bytes(99), "other_format", "older than GGUF"),
    "ggjt": (b"tjgg" + bytes(99), "other_format", "older than GGUF"),
    "PowerInfer": (b"PWRI\3\0\0\0" + bytes(99), "foreign_format", "PowerInfer"),
    "gzip": (b"\x1f\x8b\x08\x08" + bytes(99), "archive", "unpack"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(99), "archive", "unpack"),
    "llamafile": (b"MZqFpD='\n" + bytes(99), "other_format", "llamafile"),
    "of macOS": (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ", "apple_double", "dot_clean"),
    "noise": (b"\x01\xff\x02\xfe" * 99, "magic", "not a GGUF file"),
}


@pytest.mark.parametrize("kind", CASES)
def test_it_is_named_for_what_it_is(tmp_path, kind):
    content, code, said = CASES[kind]
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(GGUFError) as error:
        read_header(path)
    assert error.value.code == code
    assert said in error.value.message
    assert error.value.message.startswith(f"{path} is ")
    assert "\n" not in error.value.message
