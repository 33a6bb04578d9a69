# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a file is that has the name of a GGUF file but not its beginning. Pure."""

from __future__ import annotations

from typing import NamedTuple

BEGINNING = 512  # bytes of a file that are looked at


class Foreign(NamedTuple):
    """What a file is."""

    code: str
    what: str  # continues the sentence that begins with its name


_AGAIN = "download it again"
_CONVERT = "convert it with llama.cpp's convert_hf_to_gguf.py, or download the model as GGUF"
_OLD = Foreign(
    "other_format", "is in a format older than GGUF, which llama.cpp no longer reads; download the model as GGUF"
)
_ARCHIVE = Foreign("archive", "is an archive, not a GGUF file; unpack it")
# What files begin with.
_MAGIC = {
    b"lmgg": _OLD,  # ggml, ggmf, ggjt and ggla, as little-endian numbers
    b"fmgg": _OLD,
    b"tjgg": _OLD,
    b"algg": _OLD,
    b"PWRI": Foreign("foreign_format", "is in PowerInfer's own format; download the model as GGUF"),
    b"\x80\x02": Foreign("other_format", f"is a PyTorch checkpoint, not a GGUF file; {_CONVERT}"),
    b"\x89HDF": Foreign("other_format", f"is an HDF5 file, not a GGUF file; {_CONVERT}"),
    b"PK\x03\x04": Foreign("archive", f"is a ZIP archive or a PyTorch checkpoint; unpack it, or {_CONVERT}"),
    b"\x1f\x8b": _ARCHIVE,
    b"\x28\xb5\x2f\xfd": _ARCHIVE,
    b"\xfd7zXZ": _ARCHIVE,
    b"BZh": _ARCHIVE,
    b"7z\xbc\xaf": _ARCHIVE,
    b"Rar!": _ARCHIVE,
    b"version https://git-lfs": Foreign(
        "lfs_pointer", "is a Git LFS pointer, not the model; fetch the model with git lfs pull"
    ),
    b"# xet version": Foreign("lfs_pointer", "is a Xet pointer, not the model; fetch the model with git xet or hf"),
    b"/annex/objects/": Foreign(
        "lfs_pointer", "is a git-annex pointer, not the model; fetch the model with git annex get"
    ),
    b"\x00\x05\x16\x07": Foreign(
        "apple_double",
        "is metadata that macOS keeps beside a file on other systems' disks, not a model; remove it with dot_clean",
    ),
    b"%PDF": Foreign("other_format", f"is a PDF file, not a GGUF file; {_AGAIN}"),
    b"\x7fELF": Foreign("other_format", f"is a program, not a GGUF file; {_AGAIN}"),
    b"MZ": Foreign("other_format", f"is a program (a llamafile?), not a GGUF file; {_AGAIN} as GGUF"),
}


def identify(start: bytes) -> Foreign:
    """What a file is that begins with ``start``, its first ``BEGINNING`` bytes or all of it."""
    for magic, foreign in _MAGIC.items():
        if start.startswith(magic):
            return foreign
    if not start.strip(b"\0"):
        return Foreign("zeros", f"is not a GGUF file yet: it begins with zeros, like an unfinished download; {_AGAIN}")
    if start[8:10] in (b'{"', b"{ ") and len(start) > 8 and start[6:8] == b"\0\0":
        return Foreign("other_format", f"is a safetensors file, not a GGUF file; {_CONVERT}")
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return Foreign(
            "web_page",
            f"is a web page, not the model; {_AGAIN} from its direct link, and sign in if the model needs it",
        )
    if _is_text(start):
        shown = " ".join(start.decode("utf-8", "replace").split())[:60]
        return Foreign(
            "error_text",
            f"is text, not the model: it begins with {shown!r}; {_AGAIN}, and sign in if the model needs it",
        )
    shown = "".join(chr(c) if 32 <= c < 127 else "?" for c in start[:4])
    return Foreign("magic", f"is not a GGUF file: it begins with {shown!r}; convert it to GGUF or remove it")


def _is_text(start: bytes) -> bool:
    """Whether it is worth showing as text: UTF-8 except for a last character cut short, without control characters."""
    if len(start) < 8:
        return False
    text = start.decode("utf-8", "ignore")
    return len(text.encode()) > len(start) - 4 and all(c.isprintable() or c in "\t\r\n" for c in text)
