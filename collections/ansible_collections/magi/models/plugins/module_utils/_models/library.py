# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Find GGUF files below folders, in every layout that people keep them in.

A plain tree; the Hugging Face cache (``models--org--repo/snapshots/<revision>/``, links into ``blobs/``);
LM Studio (``publisher/repo/``); Ollama's store (``manifests/`` that name ``blobs/``). The only files opened here
are Ollama's manifests and the caches' refs: names, links and ``stat`` tell the rest, which makes a warm scan fast.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ansible_collections.magi.models.plugins.module_utils._base.text import printable
from ansible_collections.magi.models.plugins.module_utils._models.found import FoundFile
from ansible_collections.magi.models.plugins.module_utils._models.model import Rejected
from ansible_collections.magi.models.plugins.module_utils._models.naming import stem
from ansible_collections.magi.models.plugins.module_utils._models.quantization import quantization_in

# Folders of things thrown away, and of file systems and caches (lower-case).
_NOT_LOOKED_INTO = frozenset(
    {
        *(
            "lost+found",
            "$recycle.bin",
            "system volume information",
            "trash",
            ".trash",
            ".trashes",
            "@recycle",
            "#recycle",
        ),
        *("@eadir", ".snapshot", ".snapshots", "#snapshot", ".zfs", ".no_exist", ".locks"),
    }
)
_CONVERTIBLE = (".safetensors", ".bin", ".pt", ".pth")  # what remains_of tells from other files
_MAX_MANIFEST = 1 << 20  # bytes; real ones have less than one thousand
MANIFEST = "manifest "
"""How the folder of a file begins that a manifest of Ollama's names."""
_OLLAMA_TENSORS = "is a model in single tensors, Ollama's own format; get it as GGUF, or serve it with Ollama"
_MAX_REF = 64  # bytes
_MAX_DEPTH = 64  # folders
_BLOB = re.compile(r"sha256[:-]([0-9a-f]{64})")


@dataclass(frozen=True)
class Library:
    """The content of the scanned folders, sorted by path."""

    files: tuple[FoundFile, ...]
    rejected: tuple[Rejected, ...]
    missing: tuple[str, ...]  # scan paths that do not exist or can't be listed


@dataclass
class _Walk:
    """What a walk has found so far, and the folders it has seen, by device and inode."""

    files: dict[tuple[str, str], FoundFile] = field(
        default_factory=dict
    )  # by path and folder: a blob may serve several
    rejected: dict[str, Rejected] = field(default_factory=dict)
    seen: set[tuple[int, int]] = field(default_factory=set)

    def reject(self, path: str, code: str, what: str, name: str | None = None) -> None:
        self.rejected[path] = Rejected.of(printable(path), name or stem(path), code, what)


def find(scan_paths: Sequence[str]) -> Library:
    """Find the GGUF files below ``scan_paths``. Reports whatever it meets, and never raises."""
    walk, missing = _Walk(), []
    for path in scan_paths:
        top = Path(os.path.normpath(path)).absolute()  # links stay: users know this path
        try:
            if top.is_file():
                _take(walk, top, str(top.parent), ())
            else:
                os.scandir(top).close()
                _walk_folder(walk, str(top), top.stat(), (), (top.name,))
        except OSError:
            missing.append(path)
    return Library(
        files=tuple(file for _key, file in sorted(walk.files.items())),
        rejected=tuple(item for _path, item in sorted(walk.rejected.items())),
        missing=tuple(missing),
    )


def _walk_folder(
    walk: _Walk, path: str, status: os.stat_result, above: tuple[tuple[int, int], ...], names: tuple[str, ...]
) -> None:
    """Walk one folder and those below it; ``above`` are the folders it lies in; ``names`` includes its own name."""
    here = (status.st_dev, status.st_ino)
    if here in above:
        walk.reject(path, "link_loop", "is a link to a folder that it lies in; remove the link")
        return
    if len(above) >= _MAX_DEPTH:
        walk.reject(path, "too_deep", f"lies more than {_MAX_DEPTH} folders deep; scan it by its own path")
        return
    if here in walk.seen:  # reached by another link or scan path: its files are known
        return
    walk.seen.add(here)
    try:
        with os.scandir(path) as listing:
            entries = sorted(listing, key=lambda entry: (entry.is_symlink(), entry.name))
    except OSError as error:
        walk.reject(path, "unreadable", f"can't be listed: {error.strerror}; check its permissions")
        return
    present = {entry.name for entry in entries}
    if {"manifests", "blobs"} <= present:
        _walk_ollama(walk, path)
        entries = [entry for entry in entries if entry.name not in ("manifests", "blobs")]
    qualifiers = _qualifiers(names)
    for entry in entries:
        lower = entry.name.lower()
        if lower.endswith(".gguf") and not lower.startswith(("incomplete-", "downloading_", ".syncthing.")):
            if f"{entry.name}.aria2" in present or "._____temp" in names:  # ModelScope's folder of downloads
                walk.reject(entry.path, "partial_download", "is incomplete: its download still runs or was cut short")
            elif not _take(walk, entry, path, qualifiers):
                continue
        elif lower in _NOT_LOOKED_INTO or lower.startswith(".trash-"):
            continue
        elif _is_unfinished_blob(lower, path):
            what = "is a download that still runs or was cut short; wait for it, or download it again"
            walk.reject(entry.path, "partial_download", what)
            continue
        elif ".gguf" in lower or lower.endswith(_CONVERTIBLE):
            # Few folders have any; most runs do without its patterns.
            from ansible_collections.magi.models.plugins.module_utils._models.remains import remains_of

            remains = remains_of(entry.name, next(iter(qualifiers), ""))
            if remains and (remains.code != "unconverted" or os.path.isfile(entry.path)):
                if not lower.endswith(".gguf.aria2"):
                    walk.reject(entry.path, remains.code, remains.what, remains.name)
                continue
        try:
            if entry.is_dir():
                below = Path(entry.path).stat()
                _walk_folder(walk, entry.path, below, (*above, here), (*names, entry.name))
        except OSError as error:
            _reject_stat(walk, entry.path, error)
    if path.endswith("/snapshots"):
        _supersede(walk, path)


def _is_unfinished_blob(name: str, folder: str) -> bool:
    """Whether this lower-case name is that of an unfinished Hugging Face download, named after its content."""
    in_cache = folder.endswith("/blobs") and "/models--" in folder
    return name.endswith(".incomplete") and (in_cache or "/.cache/huggingface/download" in folder)


def _supersede(walk: _Walk, snapshots: str) -> None:
    """Mark the files of a Hugging Face repository's other revisions that the current one replaces."""
    repository = snapshots.rpartition("/")[0]
    if "/models--" not in f"/{repository.rpartition('/')[2]}":
        return
    found = {key: file for key, file in walk.files.items() if file.path.startswith(f"{snapshots}/")}
    revisions = {file.path[len(snapshots) + 1 :].partition("/")[0] for file in found.values()}
    if len(revisions) < 2:
        return
    inside = f"{snapshots}/{_current(repository, revisions)}/"
    anew = {file.path[len(inside) :] for file in found.values() if file.path.startswith(inside)}
    anew |= {name.rpartition("/")[2] for name in anew if quantization_in(stem(name))}  # moved to another folder
    for key, file in found.items():
        _revision, _slash, name = file.path[len(snapshots) + 1 :].partition("/")
        if not file.path.startswith(inside) and {name, name.rpartition("/")[2]} & anew:
            walk.files[key] = replace(file, superseded=True)


def _current(repository: str, revisions: set[str]) -> str:
    """The one of ``revisions`` that counts: that of ``refs/main``; else the newest of those that other refs name, as a
    tag or ``refs/pr/1`` does; else the newest. A download by a commit's hash leaves no ref."""
    refs = {}
    for path in _files_below(f"{repository}/refs"):
        try:
            with open(path, "rb") as stream:
                refs[path[len(repository) + 1 :]] = stream.read(_MAX_REF).decode("ascii", "replace").strip()
        except OSError:
            continue
    if refs.get("refs/main") in revisions:
        return refs["refs/main"]

    def age(revision: str) -> tuple[int, str]:
        try:
            return os.stat(f"{repository}/snapshots/{revision}").st_mtime_ns, revision
        except OSError:
            return 0, revision

    return max(revisions & {*refs.values()} or revisions, key=age)


def _take(
    walk: _Walk,
    entry: os.DirEntry[str] | Path,
    folder: str,
    qualifiers: tuple[str, ...],
    name: str | None = None,
) -> bool:
    """Take a file into the library, or report why not. True for a folder, which is walked, too."""
    path = os.fspath(entry)
    if not path.isascii():
        try:
            path.encode()
        except UnicodeEncodeError:
            walk.reject(path, "name_not_utf8", "has a name that is not UTF-8 and can't be passed on; rename it")
            return False
    try:
        status = entry.stat()
    except OSError as error:
        _reject_stat(walk, path, error)
        return False
    if stat.S_ISREG(status.st_mode):
        walk.files[path, folder] = FoundFile(
            path=path,
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            inode=status.st_ino,
            device=status.st_dev,
            name=name or stem(path),
            folder=folder,
            qualifiers=qualifiers,
        )
        return False
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
    walk.reject(path, "not_regular", f"is {kind} and not a file; rename or move it")
    return stat.S_ISDIR(status.st_mode)


def _reject_stat(walk: _Walk, path: str, error: OSError) -> None:
    if error.errno == errno.ELOOP:
        walk.reject(path, "link_loop", "is a link that leads back to itself; remove it")
    elif error.errno == errno.ENOENT:
        walk.reject(path, "link_broken", "is a link to a file that does not exist; remove it, or restore the file")
    else:
        walk.reject(path, "unreadable", f"can't be read: {error.strerror}; check its permissions")


def _qualifiers(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names that tell files with one name apart, best first: the folders above, or a Hugging Face repository."""
    if len(names) >= 3 and "snapshots" in names:
        at = names.index("snapshots")
        if names[at - 1].startswith("models--") and at + 1 < len(names):
            organization, _dashes, repository = names[at - 1][len("models--") :].partition("--")
            return (*reversed(names[at + 2 :]), repository, organization, names[at + 1][:8])
    return tuple(reversed(names))


# ---- Ollama ---------------------------------------------------------------------------------------


def _walk_ollama(walk: _Walk, store: str) -> None:
    """Take the models that an Ollama store's manifests name.

    ``manifests/<registry>/<namespace>/<model>/<tag>`` is JSON with the digests of the layers; a layer's media
    type says what its blob is (ollama server/manifest.go, types/model/name.go).
    """
    manifests = f"{store}/manifests"
    for path in _files_below(manifests):
        parts = path[len(manifests) + 1 :].split("/")
        if len(parts) < 2:
            continue
        *owner, model, tag = parts
        namespace = "" if owner[-1:] in ([], ["library"]) else f"{owner[-1]}-"
        try:
            layers = _layers(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            cause = error.strerror if isinstance(error, OSError) else "it is not an Ollama manifest"
            walk.reject(path, "manifest", f"can't be used: {cause}; pull the model again with ollama")
            continue
        if layers is None:
            walk.reject(path, "foreign_format", _OLLAMA_TENSORS, f"{namespace}{model}-{tag}")
            continue
        for kind, digest in layers:
            blob = f"{store}/blobs/sha256-{digest}"
            if not os.path.lexists(blob):
                blob = f"{store}/blobs/sha256:{digest}"  # older stores
            if not os.path.lexists(blob):
                walk.reject(path, "blob_missing", f"names the blob {digest[:12]}…, which is missing; pull it again")
                break
            suffix = "" if kind == "model" else f"-{kind}"
            # Each manifest has a folder of its own, below no other: a projector belongs to its model alone.
            folder = f"{MANIFEST}{path}"
            _take(walk, Path(blob), folder, tuple(reversed(owner)), name=f"{namespace}{model}-{tag}{suffix}")
    for blob in _unfinished_blobs(f"{store}/blobs"):
        walk.reject(blob, "partial_download", "is a model that Ollama got only in part; pull it again with ollama")


def _unfinished_blobs(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as listing:
            return sorted(entry.path for entry in listing if entry.name.endswith("-partial"))
    except OSError:
        return []


def _files_below(folder: str) -> Iterator[str]:
    for path, folders, files in os.walk(folder):
        folders.sort()
        yield from (f"{path}/{name}" for name in sorted(files) if not name.startswith("."))


def _layers(path: str) -> list[tuple[str, str]] | None:
    """Kind and digest of each layer that is a GGUF file: model, projector, adapter; None for a model in other files."""
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_MANIFEST:
        raise ValueError(path)
    layers, others = [], False
    for layer in json.loads(Path(path).read_bytes())["layers"]:
        prefix, _dot, kind = layer["mediaType"].rpartition(".")
        if prefix == "application/vnd.ollama.image" and kind in ("model", "projector", "adapter"):
            match = _BLOB.fullmatch(layer["digest"])  # a digest is hostile too: it becomes part of a path
            if not match:
                raise ValueError(layer["digest"])
            layers.append((kind, match[1]))
        others = others or kind == "tensor"
    return None if others and not layers else layers
