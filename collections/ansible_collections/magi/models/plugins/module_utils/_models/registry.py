# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The registry: what a scan found, kept on disk so that the next one needs to read no header again.

On disk it is JSON with one model, file or rejection per line. ``checksum`` is the SHA-256 of the file's bytes
with 64 zeros in its own place. ``files`` has a row for each file, a ``RememberedFile``: its facts, and the size, mtime
and inode it had then; while these stay the same, the facts hold. ``aside`` is what was rejected unread.
"""

from __future__ import annotations

import gc
import hashlib
import json
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.magi.models.plugins.module_utils._base.files import write_atomic
from ansible_collections.magi.models.plugins.module_utils._models.found import FoundFile
from ansible_collections.magi.models.plugins.module_utils._models.model import Inventory

SCHEMA_VERSION = 5
MODE = 0o640  # paths and names of models are nobody else's business
_MAX_SIZE = 1 << 28  # bytes; 1,000 models take some 3 MB
_CHECKSUM = re.compile(rb'"checksum": "([0-9a-f]{64})"')
_HEAD = 200  # bytes within which the checksum is
# Verdicts that may change while size, mtime and inode do not: never believed again.
_PASSING = frozenset({"changing", "unreadable", "not_regular"})


class RegistryError(Exception):
    """An unusable registry file: ``code`` is ``missing``, ``unreadable``, ``corrupt`` or ``schema``."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class RememberedFile:
    """What a file held when it had this size, mtime and inode: facts, or code and reason of its refusal."""

    size: int  # bytes
    mtime_ns: int
    inode: int
    facts: str | None = None  # a row as JSON: only a scan turns it into Facts
    sha256: str | None = None
    code: str | None = None
    reason: str | None = None

    def describes(self, file: FoundFile) -> bool:
        """Whether this still holds of ``file``."""
        return (
            self.mtime_ns == file.mtime_ns
            and self.size == file.size
            and self.inode == file.inode
            and self.code not in _PASSING
        )


@dataclass(frozen=True)
class Registry:
    """What a scan of ``scan_paths`` found. ``files`` is by path."""

    scan_paths: tuple[str, ...]
    inventory: Inventory = field(default_factory=Inventory)
    files: Mapping[str, RememberedFile] = field(default_factory=dict)
    aside: tuple[tuple[str, str], ...] = ()  # path and code of what the walk rejected

    def finds_the_same(self, other: Registry) -> bool:
        """Whether the finds are the same, whatever is remembered about single files."""
        return (self.scan_paths, self.inventory) == (other.scan_paths, other.inventory)


def dump(registry: Registry) -> bytes:
    """A registry as the bytes of its file."""
    zeros = "0" * 64
    parts = [f'{{\n"schema_version": {SCHEMA_VERSION},\n"checksum": "{zeros}",\n']
    parts.append(f'"scan_paths": {json.dumps(registry.scan_paths)}')
    for key, items in registry.inventory.to_dict().items():
        lines = ",\n".join(json.dumps(item, sort_keys=True) for item in items)
        parts.append(f',\n"{key}": [\n{lines}\n]')
    lines = ",\n".join(
        f"{json.dumps(path)}: {json.dumps(list(vars(memory).values()))}"
        for path, memory in sorted(registry.files.items())
    )
    parts.append(f',\n"aside": {json.dumps(registry.aside)}')
    parts.append(f',\n"files": {{\n{lines}\n}}\n}}\n')
    data = "".join(parts).encode()
    return data.replace(zeros.encode(), hashlib.sha256(data).hexdigest().encode(), 1)


def parse(data: bytes, path: str) -> Registry:
    """The inverse of ``dump``; ``path`` is for messages. Raises RegistryError."""
    corrupt = RegistryError("corrupt", f"The registry {path} is corrupt; scanning again.")
    try:
        match = _CHECKSUM.search(data, 0, _HEAD)
        # A newer file is recognised before its checksum, which it may compute differently.
        version = re.search(rb'"schema_version": *(\d{1,9})\b', data[:_HEAD])
        if version and int(version[1]) != SCHEMA_VERSION:
            raise RegistryError(
                "schema",
                f"The registry {path} has schema version {int(version[1])} and this collection knows "
                f"{SCHEMA_VERSION}; scanning again.",
            )
        if not match:
            raise corrupt
        zeroed = hashlib.sha256(data[: match.start(1)] + b"0" * 64)
        zeroed.update(memoryview(data)[match.end(1) :])
        if zeroed.hexdigest().encode() != match[1]:
            raise corrupt
        with _no_collection():
            plain = json.loads(data)
            return Registry(
                scan_paths=tuple(plain["scan_paths"]),
                inventory=Inventory.from_dict(plain),
                files={path: RememberedFile(*row) for path, row in plain["files"].items()},
                aside=tuple((path, code) for path, code in plain["aside"]),
            )
    except (ValueError, KeyError, TypeError, RecursionError):
        raise corrupt from None


@contextmanager
def _no_collection() -> Iterator[None]:
    """Stop garbage collection meanwhile: there is no garbage, and the search takes a fifth as long as parsing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def load(path: str) -> Registry:
    """Read the registry file. Raises RegistryError; nothing of a damaged file is ever returned."""
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_SIZE:
            raise RegistryError("corrupt", f"The registry {path} is not a registry file; scanning again.")
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise RegistryError("missing", f"There is no registry at {path} yet; scanning and creating it.") from None
    except OSError as error:
        cause = error.strerror or error
        raise RegistryError("unreadable", f"The registry {path} can't be read ({cause}); scanning again.") from None
    return parse(data, path)


def save(path: str, registry: Registry) -> None:
    """Write the registry file crash-safely, with mode 0640. Raises FileWriteError."""
    write_atomic(path, dump(registry), MODE)
