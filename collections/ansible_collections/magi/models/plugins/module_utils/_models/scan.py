# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Look at the disk: the registry if it still describes the disk, else a scan. Writes nothing."""

from __future__ import annotations

import json
import stat
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ansible_collections.magi.models.plugins.module_utils._base.cores import cores
from ansible_collections.magi.models.plugins.module_utils._base.text import counted
from ansible_collections.magi.models.plugins.module_utils._models.found import FoundFile, KnownFile, within
from ansible_collections.magi.models.plugins.module_utils._models.library import MANIFEST, Library, find
from ansible_collections.magi.models.plugins.module_utils._models.model import Rejected
from ansible_collections.magi.models.plugins.module_utils._models.naming import slug
from ansible_collections.magi.models.plugins.module_utils._models.registry import (
    MODE,
    Registry,
    RegistryError,
    RememberedFile,
    load,
)

_MANY = 16  # with fewer files, starting processes does not pay

Progress = Callable[[str], None]


class ScanError(Exception):
    """Nothing could be scanned."""


@dataclass(frozen=True)
class Discovery:
    """The result of a look at the disk; nothing is written yet."""

    registry: Registry
    source: str  # cache or scan
    reason: str | None  # why it was scanned
    before: Registry | None  # the file's content, if it could be used
    write: bool  # whether to write the file
    changed: bool  # whether its content changes
    warnings: tuple[str, ...]
    lost: tuple[str, ...] = ()
    """Sentences about folders that are missing, or were emptied since the last scan."""


def discover(
    scan_paths: Sequence[str],
    registry_path: str,
    refresh: bool = False,
    checksum: bool = False,
    progress: Progress = lambda line: None,
) -> Discovery:
    """Load the registry if it still describes the disk, else scan. Writes nothing. Raises ScanError."""
    warnings, before, reason = [], None, None
    try:
        before = load(registry_path)
    except RegistryError as error:
        warnings.append(str(error))
        reason = f"registry {error.code}"
    library = find(scan_paths)
    lost = [f"The folder to scan {path} does not exist or can't be listed; skipped." for path in library.missing]
    lost += [
        f"The folder to scan {path} had models at the last scan and is empty now; check that its disk is mounted."
        for path in _emptied(before, library, scan_paths)
    ]
    warnings += lost
    folders = counted(len(scan_paths) - len(library.missing), "folder")
    progress(f"found {counted(len(library.files), 'file')} in {folders}")
    if before and not reason:
        reason = "refresh was asked for" if refresh else staleness(before, library, scan_paths, checksum)
    if before and not reason and len(library.missing) < len(scan_paths):
        registry, source = before, "cache"
    else:
        registry, source = scan(scan_paths, library, None if refresh else before, checksum, progress), "scan"
    right_mode = before is not None and stat.S_IMODE(Path(registry_path).stat().st_mode) == MODE
    changed = before is None or not before.finds_the_same(registry) or not right_mode
    write = changed or before != registry
    return Discovery(registry, source, reason, before, write, changed, tuple(warnings), tuple(lost))


def _emptied(before: Registry | None, library: Library, scan_paths: Sequence[str]) -> list[str]:
    """Return the folders that have no files, and had some when ``before`` was written."""
    there = [file.path for file in library.files] + [item.path for item in library.rejected]
    if before is None:
        return []

    def has(folder: str, paths: Iterable[str]) -> bool:
        return any(within(path, folder) for path in paths)

    return [
        path
        for path in before.scan_paths
        if path in scan_paths and path not in library.missing and has(path, before.files) and not has(path, there)
    ]


def staleness(known: Registry, library: Library, scan_paths: Sequence[str], checksum: bool) -> str | None:
    """Why ``known`` no longer describes the files of ``library``, in words; None if it does."""
    if list(known.scan_paths) != list(scan_paths):
        return "the folders to scan changed"
    files = known.files
    new = [file for file in library.files if file.path not in files]
    gone = len(files) - len({file.path for file in library.files if file.path in files})
    changed = [file for file in library.files if file.path in files and not files[file.path].describes(file)]
    counts = ((len(new), "new"), (gone, "gone"), (len(changed), "changed"))
    if any(count for count, _what in counts):
        return "files: " + ", ".join(f"{count} {what}" for count, what in counts if count)
    if checksum and any(memory.facts and not memory.sha256 for memory in files.values()):
        return "checksums were not computed yet"
    if _aside(library) != known.aside:
        return "what is set aside, or named by Ollama, has changed"
    return None


def scan(
    scan_paths: Sequence[str],
    library: Library,
    known: Registry | None = None,
    checksum: bool = False,
    progress: Progress = lambda line: None,
) -> Registry:
    """Read the headers of ``library`` that ``known`` does not remember, and assemble the registry.

    ``checksum`` adds the SHA-256 of each file; known digests stay even without it.
    Raises ScanError when none of ``scan_paths`` exists.
    """
    # Most runs read no header; what they need for it takes a module as long to import as a look at the disk takes.
    from ansible_collections.magi.models.plugins.module_utils._models.assemble import assemble
    from ansible_collections.magi.models.plugins.module_utils._models.digests import find_digests
    from ansible_collections.magi.models.plugins.module_utils._models.facts import Facts
    from ansible_collections.magi.models.plugins.module_utils._models.remains import remains_of

    if scan_paths and len(library.missing) == len(scan_paths):
        raise ScanError(f"None of the folders to scan exists: {', '.join(library.missing)}; correct scan_paths.")
    remembered = known.files if known else {}
    files: dict[str, RememberedFile] = {}
    unread: dict[str, FoundFile] = {}  # an Ollama blob may be found under several names
    for file in library.files:
        memory = remembered.get(file.path)
        if memory is not None and memory.describes(file):
            files[file.path] = memory
        else:
            unread[file.path] = file
    files.update(zip(unread, _read_all(list(unread.values()), progress)))
    alike: dict[object, list[FoundFile]] = defaultdict(list)
    facts = {path: Facts.from_row(json.loads(memory.facts)) for path, memory in files.items() if memory.facts}
    for file in library.files:
        if file.path in facts:
            alike[file.size, facts[file.path].fingerprint].append(file)
    digests = find_digests(alike, {path: memory.sha256 for path, memory in files.items()}, checksum, progress)
    files.update({path: replace(files[path], sha256=digest) for path, digest in digests.items()})
    read, rejected = [], list(library.rejected)
    for file in library.files:
        memory = files[file.path]
        if file.path in facts:
            read.append(KnownFile(file, facts[file.path], memory.sha256))
        else:
            piece = remains_of(file.name + ".gguf") if memory.code != "unreadable" else None
            rejected.append(
                Rejected.of(file.path, *piece)
                if piece
                else Rejected(slug(file.name), file.path, memory.code or "", memory.reason or "")
            )
    return Registry(tuple(scan_paths), assemble(read, rejected), files, _aside(library))


def _aside(library: Library) -> tuple[tuple[str, str], ...]:
    """Path and code of what is set aside by name alone, and which manifest names which blob: a new tag changes no
    file."""
    older = [(file.path, "superseded") for file in library.files if file.superseded]
    named = [(file.path, file.folder) for file in library.files if file.folder.startswith(MANIFEST)]
    return tuple([(item.path, item.code) for item in library.rejected] + older + named)


def _read(file: FoundFile) -> RememberedFile:
    """What to remember about one file."""
    from ansible_collections.magi.models.plugins.module_utils._gguf.reader import GGUFError, read_header
    from ansible_collections.magi.models.plugins.module_utils._models.facts import Facts

    try:
        header = read_header(file.path)
    except GGUFError as error:
        return RememberedFile(file.size, file.mtime_ns, file.inode, code=error.code, reason=error.message)
    return RememberedFile(header.size, header.mtime_ns, header.inode, json.dumps(Facts.of(header).to_row()))


def _read_all(files: Sequence[FoundFile], progress: Progress) -> list[RememberedFile]:
    """Read headers in order on all cores we may use; on one if no processes can be started."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    workers = min(cores(), len(files) // _MANY)
    if workers > 1 and "fork" in multiprocessing.get_all_start_methods():
        try:
            # fork: the other start methods can't import a module that Ansible sends as a zip file.
            with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
                return _followed(pool.map(_read, files, chunksize=8), len(files), progress)
        except (OSError, BrokenProcessPool, ImportError) as error:
            progress(f"reading with one process: {error}")
    return _followed(map(_read, files), len(files), progress)


def _followed(results: Iterable[RememberedFile], total: int, progress: Progress) -> list[RememberedFile]:
    """Collect ``results``, reporting each tenth of them."""
    collected, began = [], time.monotonic()
    step = max(1, total // 10)
    for result in results:
        collected.append(result)
        if len(collected) % step == 0 or len(collected) == total:
            progress(f"read {len(collected)} of {total} headers in {time.monotonic() - began:.1f} s")
    return collected
