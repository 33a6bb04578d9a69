# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Find files with equal bytes."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

from ansible_collections.magi.models.plugins.module_utils._models.found import FoundFile

_SAMPLE, _SAMPLES = 4096, 16  # bytes, and how many times: enough to tell most different files apart


def find_digests(
    alike: Mapping[object, list[FoundFile]],
    known: Mapping[str, str | None],
    every: bool,
    progress: Callable[[str], None],
) -> dict[str, str | None]:
    """SHA-256 by path, of ``every`` file, or only of those that may be copies of each other; None for one that can't be
    read.

    ``alike`` has groups of files with one size and header, which may be copies. Samples rule out models that only share
    these, and the rest is read in full unless its digest is ``known``.
    """
    digests: dict[str, str | None] = {}
    for files in alike.values():
        inodes: dict[tuple[int, int], list[FoundFile]] = defaultdict(list)
        for file in files:
            inodes[file.device, file.inode].append(file)
        for links in list(inodes.values()) if every else _maybe_copies(list(inodes.values())):
            digest = next((known[file.path] for file in links if known[file.path]), None)
            if digest is None:
                progress(f"reading all of {links[0].path}")
                digest = sha256_of(links[0].path)
            digests.update({file.path: digest for file in links})
    return digests


def _maybe_copies(inodes: list[list[FoundFile]]) -> list[list[FoundFile]]:
    """Among files of one size and header, those with equal samples."""
    if len(inodes) < 2:
        return []
    by_sample: dict[bytes | None, list[list[FoundFile]]] = defaultdict(list)
    for links in inodes:
        by_sample[_sample(links[0])].append(links)
    return [links for sample, group in by_sample.items() if sample and len(group) > 1 for links in group]


def _sample(file: FoundFile) -> bytes | None:
    """A digest of blocks spread over a file; None if it can't be read."""
    digest = hashlib.sha256()
    try:
        with open(file.path, "rb", buffering=0) as stream:
            for number in range(1, _SAMPLES + 1):
                stream.seek(max(0, file.size * number // _SAMPLES - _SAMPLE))
                digest.update(stream.read(_SAMPLE))
    except OSError:
        return None
    return digest.digest()


def sha256_of(path: str) -> str | None:
    """SHA-256 of a file; None if it can't be read to the end."""
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()
