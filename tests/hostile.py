"""Model files with hostile names and metadata. Only the standard library: test hosts run it, too."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

# By quantization of the demo model: the file's name, general.name (31 bytes in these files), and how it is shown.
MODELS = {
    "Q2_K": ("two words.Q2_K.gguf", "{{ lookup('pipe','touch own')}}", "{{ lookup('pipe','touch own')}}"),
    "Q3_K_M": (
        'it\'s "quoted";rm -rf $HOME `id` %n %(x)s #.Q3_K_M.gguf',
        "\n[Service]\nExecStart=-bin-false",
        "[Service] ExecStart=-bin-false",
    ),
    "Q4_K_M": (
        "-leading \\ and 🐫\nnewline.Q4_K_M.gguf",
        "\x1b[31m%n $HOME `id` \"'\\ 🐫\n;#.",
        "[31m%n $HOME `id` \"'\\ 🐫 ;#.",
    ),
    "Q4_1": (
        "{{ lookup('pipe','touch owned') }}.Q4_1.gguf",
        "{% for x in [1] %}${PATH}\udcff\0(x)s",  # a byte that is not UTF-8, and NUL
        "{% for x in [1] %}${PATH}\ufffd (x)s",
    ),
}
# What no service file can hold: the scan sets the first aside, and a warning names the second.
REFUSED = {"Q2_K": os.fsdecode(b"not utf-8 \xff.Q2_K.gguf"), "Q3_K_M": "bell \a.Q3_K_M.gguf"}


def make(models: Path, folder: Path) -> None:
    """Copy the demo models from ``models`` to ``folder`` and make them hostile."""
    folder.mkdir(parents=True, exist_ok=True)
    for quantization, (name, title, _text) in MODELS.items():
        source = models / f"SmolLM2-135M-Instruct.{quantization}.gguf"
        _entitle(Path(shutil.copyfile(source, folder / name)), title)
        if quantization in REFUSED:
            shutil.copyfile(source, folder / REFUSED[quantization])


def served_from(folder: str) -> set[tuple[str, str]]:
    """Return path and display name of each model as it is served from ``folder``."""
    return {(f"{folder}/{name}", f"{text} ({quantization})") for quantization, (name, _title, text) in MODELS.items()}


def _entitle(path: Path, title: str) -> None:
    """Set general.name (GGUF: key, u32 8 for a string, u64 length, bytes) to a value of the same length."""
    with path.open("r+b") as file:
        at = file.read(4096).index(b"general.name") + len(b"general.name") + 4
        file.seek(at)
        (length,) = struct.unpack("<Q", file.read(8))
        written = os.fsencode(title)
        assert length == len(written), f"{title!r} has {len(written)} bytes, not {length}"
        file.write(written)
        # Without a basename, the display name is made of this one.
        file.seek(0)
        file.seek(file.read(4096).index(b"general.basename") + len(b"general.basenam"))
        file.write(b"_")
