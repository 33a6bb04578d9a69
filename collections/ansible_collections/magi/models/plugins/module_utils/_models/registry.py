# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The registry: what a scan found, kept on disk so that the next one need not read a header again.

On disk it is JSON with one model, file or rejection per line. ``checksum`` is the SHA-256 of the file's bytes
with 64 zeros in its own place. ``files`` holds the facts of each file with the size, mtime and inode they
were read at: while these are the same, the facts are believed. ``aside`` is what was rejected unread.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import re
import stat
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.cores import cores
from ansible_collections.magi.models.plugins.module_utils._base.files import write_atomic
from ansible_collections.magi.models.plugins.module_utils._base.text import counted
from ansible_collections.magi.models.plugins.module_utils._gguf.reader import GGUFError, read_header
from ansible_collections.magi.models.plugins.module_utils._models.library import Library, find
from ansible_collections.magi.models.plugins.module_utils._models.model import (
    Entry,
    Facts,
    File,
    Rejected,
    assemble,
    slug,
)

SCHEMA_VERSION = 2
MODE = 0o640  # paths and names of models are nobody else's business
_MAX_SIZE = 1 << 28  # bytes; 1,000 models take some 3 MB
_CONTENT = ("models", "companions", "rejected")
_CHECKSUM = re.compile(rb'"checksum": "([0-9a-f]{64})"')
_HEAD = 200  # bytes within which the checksum is
# Verdicts that may change while size, mtime and inode do not: never believed again.
_PASSING = frozenset({"changing", "unreadable", "not_regular"})
_MANY = 16  # files from which on it pays to start processes
_SAMPLE, _SAMPLES = 4096, 16  # bytes, and how often, that tell most different files apart

Progress = Callable[[str], None]


class RegistryError(Exception):
    """An unusable registry file: ``code`` is ``missing``, ``unreadable``, ``corrupt`` or ``schema``."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ScanError(Exception):
    """Nothing could be scanned."""


@dataclass(frozen=True)
class Registry:
    """What a scan of ``scan_paths`` found, as plain values. ``files`` is by path."""

    scan_paths: tuple[str, ...]
    models: Sequence[Mapping[str, Any]] = ()
    companions: Sequence[Mapping[str, Any]] = ()
    rejected: Sequence[Mapping[str, Any]] = ()
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    aside: Sequence[Sequence[str]] = ()  # path and code of what the walk rejected

    @property
    def content(self) -> dict[str, Any]:
        """What makes a registry another one: everything but the memory of the single files."""
        return {"scan_paths": list(self.scan_paths), **{key: list(getattr(self, key)) for key in _CONTENT}}


# ---- on disk --------------------------------------------------------------------------------------


def dump(registry: Registry) -> bytes:
    """A registry as the bytes of its file."""
    zeros = "0" * 64
    parts = [f'{{\n"schema_version": {SCHEMA_VERSION},\n"checksum": "{zeros}",\n']
    parts.append(f'"scan_paths": {json.dumps(list(registry.scan_paths))}')
    for key in _CONTENT:
        lines = ",\n".join(json.dumps(item, sort_keys=True) for item in getattr(registry, key))
        parts.append(f',\n"{key}": [\n{lines}\n]')
    lines = ",\n".join(
        f"{json.dumps(path)}: {json.dumps(known, sort_keys=True)}" for path, known in sorted(registry.files.items())
    )
    parts.append(f',\n"aside": {json.dumps(list(registry.aside))}')
    parts.append(f',\n"files": {{\n{lines}\n}}\n}}\n')
    data = "".join(parts).encode()
    return data.replace(zeros.encode(), hashlib.sha256(data).hexdigest().encode(), 1)


def parse(data: bytes, path: str) -> Registry:
    """The inverse of ``dump``; ``path`` is for messages. Raises RegistryError."""
    corrupt = RegistryError("corrupt", f"The registry {path} is corrupt; it is scanned again.")
    try:
        match = _CHECKSUM.search(data, 0, _HEAD)
        # A newer file is recognised before its checksum, which it may compute otherwise.
        version = re.search(rb'"schema_version": *(\d{1,9})\b', data[:_HEAD])
        if version and int(version[1]) != SCHEMA_VERSION:
            raise RegistryError(
                "schema",
                f"The registry {path} has schema version {int(version[1])} and this collection knows "
                f"{SCHEMA_VERSION}; it is scanned again.",
            )
        if not match:
            raise corrupt
        zeroed = data[: match.start(1)] + b"0" * 64 + data[match.end(1) :]
        if hashlib.sha256(zeroed).hexdigest().encode() != match[1]:
            raise corrupt
        plain = json.loads(data)
        return Registry(tuple(plain["scan_paths"]), *(plain[key] for key in (*_CONTENT, "files", "aside")))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise corrupt from None


def load(path: str) -> Registry:
    """Read the registry file. Raises RegistryError; nothing of a damaged file is ever returned."""
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_SIZE:
            raise RegistryError("corrupt", f"The registry {path} is not a registry file; it is scanned again.")
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise RegistryError("missing", f"There is no registry at {path} yet; scanning and creating it.") from None
    except OSError as error:
        cause = error.strerror or error
        raise RegistryError("unreadable", f"The registry {path} cannot be read ({cause}); scanning again.") from None
    return parse(data, path)


def save(path: str, registry: Registry) -> None:
    """Write the registry file crash-safely, with mode 0640. Raises FileWriteError."""
    write_atomic(path, dump(registry), MODE)


# ---- scanning -------------------------------------------------------------------------------------


def staleness(known: Registry, library: Library, scan_paths: Sequence[str], checksum: bool) -> str | None:
    """Why ``known`` no longer describes the files of ``library``, in words, or None if it does."""
    if list(known.scan_paths) != list(scan_paths):
        return "other folders are to be scanned"
    files = known.files
    new = [file for file in library.files if file.path not in files]
    gone = len(files) - (len(library.files) - len(new))
    changed = [file for file in library.files if file.path in files and not _believed(files[file.path], file)]
    counts = ((len(new), "new"), (gone, "gone"), (len(changed), "changed"))
    if any(count for count, _what in counts):
        return "files: " + ", ".join(f"{count} {what}" for count, what in counts if count)
    if checksum and any(known["facts"] and not known["sha256"] for known in files.values()):
        return "checksums were not computed yet"
    if [[item.path, item.code] for item in library.rejected] != known.aside:
        return "what is set aside has changed"
    return None


def scan(
    scan_paths: Sequence[str],
    library: Library,
    known: Registry | None = None,
    checksum: bool = False,
    progress: Progress = lambda line: None,
) -> Registry:
    """Read the headers of ``library``, those that ``known`` remembers excepted, and assemble the registry.

    ``checksum`` adds the SHA-256 of each file; those that are known stay without it too.
    Raises ScanError when none of ``scan_paths`` exists.
    """
    if scan_paths and len(library.missing) == len(scan_paths):
        raise ScanError(f"None of the folders to scan exists: {', '.join(library.missing)}; correct scan_paths.")
    remembered = known.files if known else {}
    files: dict[str, dict[str, Any]] = {}
    unread = []
    for file in library.files:
        memory = remembered.get(file.path)
        if memory is not None and _believed(memory, file):
            files[file.path] = dict(memory)
        else:
            unread.append(file)
    for file, memory in zip(unread, _read_all([file.path for file in unread], progress)):
        files[file.path] = {**_identity(file), "sha256": None, **memory}
    _add_digests(library.files, files, checksum, progress)
    entries, rejected = [], list(library.rejected)
    for file in library.files:
        memory = files[file.path]
        if memory["facts"]:
            entries.append(Entry(file, Facts(**memory["facts"]), memory["sha256"]))
        else:
            rejected.append(Rejected(slug(file.name), file.path, memory["code"], memory["reason"]))
    inventory = assemble(entries, rejected)
    plain = inventory.to_dict()
    aside = [[item.path, item.code] for item in library.rejected]
    return Registry(tuple(scan_paths), *(plain[key] for key in _CONTENT), files=files, aside=aside)


def _identity(file: File) -> dict[str, int]:
    return {"size": file.size, "mtime_ns": file.mtime_ns, "inode": file.inode}


def _believed(memory: Mapping[str, Any], file: File) -> bool:
    """Whether what is remembered of a file still holds."""
    same = all(memory[key] == value for key, value in _identity(file).items())
    return same and memory["code"] not in _PASSING


def _read(path: str) -> dict[str, Any]:
    """Facts of one file, or code and reason of its refusal, as plain values."""
    try:
        header = read_header(path)
    except GGUFError as error:
        return {"facts": None, "code": error.code, "reason": error.message}
    identity = {"size": header.size, "mtime_ns": header.mtime_ns, "inode": header.inode}
    return {"facts": asdict(Facts.of(header)), "code": None, "reason": None, **identity}


def _read_all(paths: Sequence[str], progress: Progress) -> list[dict[str, Any]]:
    """Read headers with all cores we may use, in order; serially where no processes can be had."""
    workers = min(cores(), len(paths) // _MANY)
    if workers > 1 and "fork" in multiprocessing.get_all_start_methods():
        try:
            # fork: the other start methods cannot import a module that Ansible sends as a zip file.
            with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
                return _followed(pool.map(_read, paths, chunksize=8), len(paths), progress)
        except (OSError, BrokenProcessPool, ImportError) as error:
            progress(f"reading with one process: {error}")
    return _followed(map(_read, paths), len(paths), progress)


def _followed(results: Iterable[dict[str, Any]], total: int, progress: Progress) -> list[dict[str, Any]]:
    """Collect ``results``, reporting each tenth of them."""
    collected, began = [], time.monotonic()
    step = max(1, total // 10)
    for result in results:
        collected.append(result)
        if len(collected) % step == 0 or len(collected) == total:
            progress(f"read {len(collected)} of {total} headers in {time.monotonic() - began:.1f} s")
    return collected


# ---- equal bytes ----------------------------------------------------------------------------------


def _add_digests(library: Sequence[File], files: dict[str, dict[str, Any]], every: bool, progress: Progress) -> None:
    """Fill in ``sha256`` for ``every`` good file, or only where files may be copies of each other.

    Copies have one size and one header; they are told from models that only share these by samples, and what
    is left is read in full, once: the digest stays in the registry.
    """
    alike: dict[tuple[int, str], dict[tuple[int, int], list[File]]] = defaultdict(lambda: defaultdict(list))
    for file in library:
        if files[file.path]["facts"]:
            key = (file.size, files[file.path]["facts"]["fingerprint"])
            alike[key][file.device, file.inode].append(file)
    for inodes in alike.values():
        wanted = list(inodes.values()) if every else _maybe_copies(list(inodes.values()))
        for links in wanted:
            known = next((files[file.path]["sha256"] for file in links if files[file.path]["sha256"]), None)
            if known is None:
                progress(f"reading all of {links[0].path}")
            digest = known or _digest(links[0].path)
            for file in links:
                files[file.path]["sha256"] = digest


def _maybe_copies(inodes: list[list[File]]) -> list[list[File]]:
    """Of files alike by size and header, those whose samples are equal too."""
    if len(inodes) < 2:
        return []
    by_sample: dict[bytes | None, list[list[File]]] = defaultdict(list)
    for links in inodes:
        by_sample[_sample(links[0])].append(links)
    return [links for sample, group in by_sample.items() if sample and len(group) > 1 for links in group]


def _sample(file: File) -> bytes | None:
    """A digest of blocks spread over a file; None if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(file.path, "rb", buffering=0) as stream:
            for number in range(1, _SAMPLES + 1):
                stream.seek(max(0, file.size * number // _SAMPLES - _SAMPLE))
                digest.update(stream.read(_SAMPLE))
    except OSError:
        return None
    return digest.digest()


def _digest(path: str) -> str | None:
    """SHA-256 of a file; None if it cannot be read to the end."""
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()


# ---- what a run changes ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a look at the disk came to; nothing is written yet."""

    registry: Registry
    source: str  # cache or scan
    reason: str | None  # why it was scanned
    before: Registry | None  # what the file held, if it could be used
    write: bool  # whether the file is to be written
    changed: bool  # whether its content is another one
    warnings: tuple[str, ...]


def discover(
    scan_paths: Sequence[str],
    registry_path: str,
    refresh: bool = False,
    checksum: bool = False,
    progress: Progress = lambda line: None,
) -> Outcome:
    """Load the registry if it still describes the disk, else scan. Writes nothing. Raises ScanError."""
    warnings, before, reason = [], None, None
    try:
        before = load(registry_path)
    except RegistryError as error:
        warnings.append(str(error))
        reason = f"registry {error.code}"
    library = find(scan_paths)
    warnings += [f"The folder to scan {path} does not exist or cannot be listed; skipped." for path in library.missing]
    folders = counted(len(scan_paths) - len(library.missing), "folder")
    progress(f"found {counted(len(library.files), 'file')} in {folders}")
    if before and not reason:
        reason = "refresh was asked for" if refresh else staleness(before, library, scan_paths, checksum)
    if before and not reason and len(library.missing) < len(scan_paths):
        registry, source = before, "cache"
    else:
        registry, source = scan(scan_paths, library, None if refresh else before, checksum, progress), "scan"
    right_mode = before is not None and stat.S_IMODE(Path(registry_path).stat().st_mode) == MODE
    changed = before is None or before.content != registry.content or not right_mode
    write = changed or (before.files, before.aside) != (registry.files, registry.aside)
    return Outcome(registry, source, reason, before, write, changed, tuple(warnings))


def difference(before: Registry | None, after: Registry) -> dict[str, str]:
    """The models before and after, one line each by id, as Ansible's diff mode shows them."""

    def lines(registry: Registry | None) -> str:
        models = registry.models if registry else ()
        aside = [*registry.companions, *registry.rejected] if registry else []
        shown = [
            f"{model['id']}: {model['path']} ({model['size_bytes']} bytes, {model['fingerprint'][:12]})"
            + (f" mmproj {model['mmproj']['path']}" if model["mmproj"] else "")
            for model in models
        ] + [f"set aside: {item['reason']}" for item in aside]
        return "".join(f"{line}\n" for line in shown)

    return {"before": lines(before), "after": lines(after)}
