# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Installing a release archive of llama.cpp beside earlier ones, and switching to it in one step."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from ansible_collections.magi.models.plugins.module_utils._install.archive import sha256, unpack
from ansible_collections.magi.models.plugins.module_utils._install.assets import (
    DOWNLOADS,
    Archive,
    pick,
    platform,
    read,
)
from ansible_collections.magi.models.plugins.module_utils._install.backend import (
    CPU,
    buildable,
    here,
    of_flags,
    version,
)
from ansible_collections.magi.models.plugins.module_utils._install.binary import (
    build_of,
    check_link,
    link,
    obstacle,
    points_to,
    sees_gpu,
)
from ansible_collections.magi.models.plugins.module_utils._install.download import DownloadError, download, fetch
from ansible_collections.magi.models.plugins.module_utils._install.step import InstallError, Step, Unavailable
from ansible_collections.magi.models.plugins.module_utils._install.watch import Watch

NAME = "llama-server"
RECORD = "release.json"


@dataclass(frozen=True)
class Offer:
    """What a release has for a backend."""

    backend: str
    archives: tuple[Archive, ...]


@dataclass(frozen=True)
class WantedRelease:
    """A release of llama.cpp for one host."""

    tag: str
    platform: str = ""
    """As in the names of archives; an empty string for the one of this host."""
    backend: str = CPU
    """What to compute with (backend.BACKENDS)."""
    or_build: bool = False
    """Whether llama.cpp is built where the release can't be had."""
    api: str = ""
    """Address of the repository in GitHub's API, which names the archive and its SHA-256 where neither is pinned."""
    url: str = ""
    sha256: str = ""
    """The pinned archive."""

    def __post_init__(self) -> None:
        """Raise InstallError for an impossible tag or checksum."""
        if not re.fullmatch(r"\w[\w.+-]*", self.tag):
            raise InstallError(f"{self.tag!r} is not a release tag: set llama_server_release_tag, such as b11434")
        if (self.url or self.sha256) and not re.fullmatch(r"[0-9a-fA-F]{64}", self.sha256):
            raise InstallError(
                f"the SHA-256 of the llama.cpp release {self.tag} must be 64 hexadecimal digits, "
                f"not {self.sha256!r}: set llama_server_release_sha256"
            )

    @property
    def backends(self) -> tuple[str, ...]:
        """What may be taken, the best first."""
        if self.platform or self.sha256:
            return (CPU if self.backend == "auto" else self.backend,)
        found = here(self.backend)
        # Rather built for the GPU than taken for the CPU.
        return found[:-1] if found[1:] and self.or_build and self.builds != CPU else found

    @property
    def builds(self) -> str:
        """The backend for which this host would build it."""
        return buildable(self.backend).backend

    def pinned(self) -> list[Offer]:
        """Return the archive, if it is known without asking the API. Raises Unavailable."""
        if not self.sha256:
            return []
        wanted = "" if self.url else self._platform(*self.backends)
        if "*" in wanted:
            raise InstallError(
                f"an archive for {self.backend} has a version in its name: set llama_server_release_platform, "
                f"such as {wanted.replace('*', '12.8')}, or llama_server_release_url"
            )
        url = self.url or f"{DOWNLOADS}/{self.tag}/llama-{self.tag}-bin-{wanted}.tar.gz"
        return [Offer(*self.backends, (Archive(url.rpartition("/")[2], url, self.sha256.lower()),))]

    def published(self, patience: float) -> tuple[list[Offer], list[str]]:
        """Ask the API for the archives. Return what there is, and for each backend without one why. Raises Unavailable
        if there is none at all."""
        address = f"{self.api}/releases/tags/{self.tag}"
        offers, lacking, failed = [], [], None
        try:
            files = read(fetch(address, patience=patience))
        except DownloadError as error:
            raise Unavailable(
                f"{address} does not answer ({error})",
                "check the network and llama_server_release_tag, or set llama_server_release_url and "
                "llama_server_release_sha256 to an archive that can be reached",
            ) from error
        for backend in self.backends:
            try:
                offers.append(Offer(backend, self._pick(files, backend)))
            except Unavailable as error:
                lacking.append(error.reason)
                failed = failed or error
        if failed and not offers:
            raise failed
        return offers, lacking

    def _pick(self, files: list, backend: str) -> tuple[Archive, ...]:
        wanted = self._platform(backend)
        if "*" not in wanted:
            return pick(files, self.tag, wanted)
        have = version(backend)
        if have is None and self.backend == "auto":
            what = "driver (libcuda.so.1)" if backend == "cuda" else "library (/opt/rocm)"
            raise Unavailable(f"this host has no {backend} {what}", "install it, or set llama_server_backend to cpu")
        # A driver runs what was built for an older CUDA; ROCm's libraries change their names with each major version.
        suits = {"cuda": lambda built: built <= have, "rocm": lambda built: built[0] == have[0]}[backend]
        return pick(files, self.tag, wanted, suits if have else lambda _: True)

    def _platform(self, backend: str) -> str:
        kernel = os.uname()
        return self.platform or platform(kernel.sysname, kernel.machine, backend)


class Releases:
    """The folder of the releases: its content, the current one, and how a wanted release gets there.

    path: where the link to the llama-server is wanted. keep: how many releases stay, this one included. patience:
    seconds without a byte after which a server counts as gone.
    """

    def __init__(self, path: Path, folder: Path, wanted: WantedRelease, *, keep: int, patience: float = 60) -> None:
        self.path, self.folder, self.wanted, self.keep, self.patience = path, folder, wanted, keep, patience
        self.current = folder / "current"
        self.replaced = self.current.readlink().parts[0] if self.current.is_symlink() else ""
        self.watch = Watch(folder / ".install" / "install.log", f"the installation of llama.cpp {wanted.tag}")
        self.offers: list[Offer] = []
        self.lacking: list[str] = []
        """Why each better backend was not taken."""
        self.name = ""

    def built(self) -> bool:
        """Whether path runs the build of this release, though not from a release: built here for the backend that this
        host builds for, or somebody's own."""
        number = re.fullmatch(r"b(\d+)", self.wanted.tag)
        real = self.path.resolve()
        if not number or self.folder.resolve() in real.parents or build_of(self.path) != int(number[1]):
            return False
        flags = _read(real.with_name("recipe.json"), "cmake_flags")
        return not isinstance(flags, list) or of_flags(flags) == self.wanted.builds

    def steps(self) -> list[Step]:
        """Return the steps that are left, in order, after asking for the archive where it is neither there nor pinned.

        Raises Unavailable, and InstallError if the path can't become a link.
        """
        self.offers = self.wanted.pinned()
        self.name = self._named() if self.offers else self._recorded()
        if not self.name:
            self.offers, self.lacking = self.wanted.published(self.patience)
            self.name = self._named()
        steps = []
        binary = find(self._home)
        if binary is None:
            steps.append(Step(f"install {self.name}", self._install))
        if binary is None or self.current.resolve() != binary.parent.resolve():
            steps.append(Step(f"switch to {self.name}", self._switch))
        if not points_to(self.path, self.current / NAME):
            steps.append(Step("link", self._link))
        steps += [Step(f"remove {path.name}", partial(_remove, path)) for path in self._surplus()]
        if steps:
            check_link(self.path)
        return steps

    def run(self) -> None:
        """Do the steps that are left, once no other installation is at work here. Raises as steps() does."""
        try:
            with self.watch.alone(self.folder):
                for step in self.steps():
                    step.do()
        finally:
            shutil.rmtree(self.watch.log.parent, ignore_errors=True)

    def said(self) -> str:
        """Return in one line which release this is, and why it may be trusted."""
        if not self.offers:
            return f"llama.cpp {self.wanted.tag} is the release that is there already ({self.name})."
        offer, whose = self.offers[0], "pinned" if self.wanted.sha256 else "published"
        names = " and ".join(archive.name for archive in offer.archives)
        why = f"; it is for {offer.backend}, since {', and '.join(self.lacking)}" if self.lacking else ""
        return f"llama.cpp {self.wanted.tag} is upstream's release ({names}), checked against the {whose} SHA-256{why}."

    @property
    def _home(self) -> Path:
        return self.folder / self.name

    def _named(self) -> str:
        # By content: another platform's archive of the same tag, or a corrected one, is another release.
        return f"{self.wanted.tag}-{self.offers[0].archives[0].sha256[:12]}"

    def _recorded(self) -> str:
        """Return the name of the newest release in the folder that was published for the same wish."""
        records = sorted(self.folder.glob(f"*/{RECORD}"), key=lambda path: path.stat().st_mtime, reverse=True)
        wish = self._wish
        return next((path.parent.name for path in records if _read(path, "wish") == wish and find(path.parent)), "")

    @property
    def _wish(self) -> dict | None:
        """What the record of a release must say to be the wanted one; None for a pinned one, which its name tells."""
        if self.wanted.sha256:
            return None
        backends = [
            [name, *(version(name) or ())] if name in ("cuda", "rocm") else [name] for name in self.wanted.backends
        ]
        return {"tag": self.wanted.tag, "platform": self.wanted.platform, "backends": backends}

    def _surplus(self) -> list[Path]:
        """Releases beyond `keep`, the one just replaced kept before older ones, and what installs left behind that were
        killed; one that is at work wrote there less than a day ago."""
        there = list(self.folder.iterdir()) if self.folder.is_dir() else []
        others = [path for path in there if path.is_dir() and re.fullmatch(r"\w[\w.+-]*-[0-9a-f]{12}", path.name)]
        others = [path for path in others if path != self._home and not path.is_symlink()]
        others.sort(key=lambda path: (path.name == self.replaced, path.stat().st_mtime), reverse=True)
        yesterday = time.time() - 86400
        left = [
            path for path in there if path.name.startswith((".new-", ".part-")) and path.stat().st_mtime < yesterday
        ]
        return [*others[max(self.keep - 1, 0) :], *sorted(left)]

    def _switch(self) -> None:
        binary = find(self._home)
        if binary is None:
            raise InstallError(f"{self._home} has lost its {NAME}: run again to install it")
        link(self.current, binary.parent.relative_to(self.folder))

    def _link(self) -> None:
        link(self.path, self.current / NAME)

    def _install(self) -> None:
        """Install the first of the offers that runs here."""
        while True:
            try:
                self._take(self.offers[0])
                return
            except Unavailable as error:
                if error.suspicious or not self.offers[1:]:
                    raise
                self.lacking.append(error.reason)
                del self.offers[0]
                self.name = self._named()

    def _take(self, offer: Offer) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        url = offer.archives[0].url
        with tempfile.TemporaryDirectory(prefix=".new-", dir=self.folder) as folder:
            tree, libraries = Path(folder, "tree"), Path(folder, "libraries")
            self._unpack(offer.archives[0], tree)
            binary = find(tree)
            if binary is None:
                raise Unavailable(
                    f"{url} contains no file {NAME}", "set llama_server_release_url to an archive that does"
                )
            for archive in offer.archives[1:]:
                self._unpack(archive, libraries)
                for path in [path for path in libraries.rglob("*") if not path.is_dir()]:
                    path.replace(binary.with_name(path.name))
            binary.chmod(0o755)
            reason = obstacle(binary)
            if not reason and self.wanted.backend == "auto" and offer.backend != CPU:
                reason = "" if sees_gpu(binary, offer.backend) else f"it finds no GPU by {offer.backend}"
            if reason:
                raise Unavailable(
                    f"the {NAME} of {url} does not run here ({reason})",
                    "choose another llama_server_backend, install its libraries, "
                    "or set llama_server_install_method to source",
                )
            record = {"wish": self._wish, "archives": [asdict(archive) for archive in offer.archives]}
            (tree / RECORD).write_text(json.dumps(record, indent=1))
            os.sync()  # the rename below must not reach the disk before the files do
            tree.chmod(0o755)
            if self._home.exists():  # somebody took its llama-server away
                self._home.replace(Path(folder, "old"))
            tree.replace(self._home)

    def _unpack(self, archive: Archive, tree: Path) -> None:
        """Download an archive, verify it, and unpack it into the new folder."""
        part = self.folder / f".part-{archive.sha256[:12]}"
        began_earlier = part.exists()
        self._download(archive, part)
        if began_earlier and sha256(part) != archive.sha256:
            part.unlink()  # perhaps only what was there before
            self._download(archive, part)
        try:
            actual = sha256(part)
            if actual != archive.sha256:
                raise Unavailable(
                    f"{archive.url} has SHA-256 {actual}, not {archive.sha256}",
                    "nothing was installed; correct llama_server_release_sha256, or get it from another source",
                    suspicious=True,
                )
            self.watch.say(f"unpacking {archive.name}")
            unpack(part, tree)
        except Unavailable:
            raise
        except InstallError as error:
            reason, _colon, remedy = str(error).replace(str(part), archive.url).rpartition(": ")
            raise Unavailable(reason, remedy, suspicious=True) from error
        finally:
            part.unlink()

    def _download(self, archive: Archive, part: Path) -> None:
        shown = 0.0

        def show(received: int, total: int) -> None:
            nonlocal shown
            self.watch.check()
            if time.monotonic() - shown > 1:
                shown = time.monotonic()
                size = f"{received * 100 // total} % of {total / 1e6:.0f} MB" if total else f"{received / 1e6:.0f} MB"
                self.watch.say(f"downloading {archive.name}: {size}")

        try:
            download(archive.url, part, patience=self.patience, on_progress=show)
        except DownloadError as error:
            if part.exists() and not part.stat().st_size:
                part.unlink()
            raise Unavailable(
                f"{archive.url} could not be downloaded ({error})",
                "check llama_server_release_tag, or set llama_server_release_url to a mirror",
            ) from error


def find(tree: Path) -> Path | None:
    """Return the llama-server nearest to the top of a folder."""
    found = (path for path in tree.rglob(NAME) if path.is_file())
    return min(found, key=lambda path: (len(path.parts), str(path)), default=None)


def _read(path: Path, key: str) -> object:
    try:
        return json.loads(path.read_text())[key]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
