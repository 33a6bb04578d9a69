# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Building llama.cpp once from a pinned source package: which steps are left, and doing them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
from pathlib import Path

from ansible_collections.magi.models.plugins.module_utils._base.command import run_into
from ansible_collections.magi.models.plugins.module_utils._base.cores import cores
from ansible_collections.magi.models.plugins.module_utils._install.archive import unpack, verify
from ansible_collections.magi.models.plugins.module_utils._install.backend import (
    CPU,
    TOOLKITS,
    Choice,
    buildable,
    missing,
    of_flags,
    search_path,
)
from ansible_collections.magi.models.plugins.module_utils._install.binary import (
    build_of,
    check_link,
    link,
    points_to,
    sees_gpu,
)
from ansible_collections.magi.models.plugins.module_utils._install.step import InstallError, Step
from ansible_collections.magi.models.plugins.module_utils._install.watch import Watch

PACKAGES = {"cmake": "cmake", "ninja": "ninja-build", "c++": "g++", "pip": "python3-pip"}
"""The Debian package of each tool."""


class Build:
    """The cache folder of one llama.cpp version, and the steps that fill it.

    path: where the link to the first one of the targets is wanted. package and version: of the source package; the
    version begins with the llama.cpp build number. sha256: of that package, in hexadecimal digits. backend: what to
    compute with (backend.BACKENDS), unless cmake_flags name one themselves.
    Raises InstallError where the version does not.
    """

    def __init__(
        self,
        path: Path,
        cache: Path,
        *,
        package: str,
        version: str,
        sha256: str,
        cmake_flags: list[str],
        targets: list[str],
        backend: str = CPU,
    ) -> None:
        self.path, self.cache, self.targets = path, cache, targets
        self.package, self.version, self.sha256 = package, version, sha256
        self.number = version.partition(".")[0]
        if not self.number.isdigit():
            raise InstallError(f"version {version!r} does not start with a llama.cpp build number, such as 11434.0.0")
        self.root = cache / self.number
        self.archive = self.root / f"{re.sub('[-_.]+', '_', package)}-{version}.tar.gz"
        self.source, self.build, self.bin = (self.root / name for name in ("source", "build", "bin"))
        self.watch = Watch(self.root / "build.log", f"the build of llama.cpp {self.number}")
        given = of_flags(cmake_flags)
        self.choice = Choice(given) if given != CPU else buildable(backend)
        more = TOOLKITS[self.choice.backend].flags if self.choice.backend != given else ()
        self.recipe = {"package": f"{package}=={version}", "cmake_flags": [*cmake_flags, *more]}

    def steps(self) -> list[Step]:
        """Return the steps that are left, in order. Raises InstallError if the path can't become a link."""
        runs = build_of(self.path) == int(self.number)
        if runs and self.cache.resolve() not in self.path.resolve().parents and self._computes():
            return []
        steps = []
        if not self._built():
            if not self.source.is_dir():
                if not self.archive.is_file():
                    steps.append(Step(f"download {self.package} {self.version}", self._download, ("pip",)))
                steps.append(Step("unpack", self._unpack))
            what = "build" if self.choice.backend == CPU else f"build for {self.choice.backend}"
            steps.append(Step(what, self._compile, ("cmake", "ninja", "c++")))
        if not points_to(self.path, self.bin / self.targets[0]):
            steps.append(Step("link", self._link))
        if steps:
            check_link(self.path)
        return steps

    def missing(self, steps: list[Step]) -> list[str]:
        """Return the Debian packages that these steps need and this host lacks. Raises InstallError for those that are
        no packages."""
        tools = [tool for step in steps for tool in step.tools]
        lacking = [PACKAGES[tool] for tool in tools if not (_pip() if tool == "pip" else shutil.which(tool))]
        return [*lacking, *(missing(self.choice.backend) if "cmake" in tools else ())]

    def _computes(self) -> bool:
        """Whether what is at the path computes with what is wanted. A file of somebody's own is not questioned."""
        backend = self.choice.backend
        return backend == CPU or not self.path.is_symlink() or sees_gpu(self.path, backend)

    def _built(self) -> bool:
        same = _read_json(self.bin / "recipe.json") == self.recipe
        return same and build_of(self.bin / self.targets[0]) == int(self.number)

    def run(self) -> None:
        """Do the steps that are left, once no other build of this version runs. Raises InstallError."""
        os.environ["PATH"] = search_path(self.choice.backend)
        with self.watch.alone(self.root) as self._locked:
            for step in self.steps():
                step.do()

    def _download(self) -> None:
        """Let pip download the package, from the index this host is set up with, and verify its hash."""
        self.watch.say(f"downloading {self.package} {self.version}")
        requirements = self.root / "requirements.txt"
        requirements.write_text(f"{self.package}=={self.version} --hash=sha256:{self.sha256}\n")
        # Not `--no-binary :all:`: pip would build cmake itself from source to read the package's metadata.
        options = ["--no-deps", "--no-binary", self.package, "--disable-pip-version-check", "--no-input"]
        self._run(
            [*_pip(), "download", *options, "--progress-bar=off", "--dest", self.root, "-r", requirements],
            f"{self.package}=={self.version} could not be downloaded: check the network and pip's index, "
            f"or put the archive at {self.archive}",
        )
        if not self.archive.is_file():
            raise InstallError(f"pip did not leave {self.archive}: put the archive there")

    def _unpack(self) -> None:
        """Verify the archive and unpack the llama.cpp tree."""
        self.watch.say(f"unpacking {self.archive.name}")
        verify(self.archive, self.sha256, "remove it to download it again, or correct the checksum")
        new = self.root / ".source.new"
        shutil.rmtree(new, ignore_errors=True)
        unpack(self.archive, new, below="llama.cpp")
        if not (new / "CMakeLists.txt").is_file():
            raise InstallError(f"{self.archive} contains no llama.cpp source tree: use another source package")
        new.replace(self.source)
        self.archive.unlink()

    def _configure(self) -> None:
        recipe = self.build / "recipe.json"
        if _read_json(recipe) != self.recipe:
            shutil.rmtree(self.build, ignore_errors=True)
            self.build.mkdir(parents=True)
            recipe.write_text(json.dumps(self.recipe))
        self.watch.say("configuring")
        flags = ["-G", "Ninja", f"-DLLAMA_BUILD_NUMBER={self.number}", "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON"]
        self._run(
            ["cmake", *flags, *self.recipe["cmake_flags"], "-S", self.source, "-B", self.build],
            f"cmake could not configure llama.cpp {self.number}: see the log, "
            f"correct llama_server_cmake_flags or install what it names",
        )

    def _compile(self) -> None:
        """Configure, compile, and move the finished programs into place at once."""
        self._configure()
        known = re.findall(r"^build (\S+): phony", (self.build / "build.ninja").read_text(), re.MULTILINE)
        targets = [name for name in self.targets if name in known] or self.targets[:1]
        self.watch.say(f"building {' '.join(targets)}")
        self._run(
            ["ninja", "-C", self.build, "-j", str(cores()), *targets],
            f"llama.cpp {self.number} could not be built: see the log, free memory or disk if it names them, "
            f"run again to continue, or remove {self.root} to start from scratch",
        )
        new, old = self.root / ".bin.new", self.root / ".bin.old"
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.build / "bin", new, symlinks=True)
        (new / "recipe.json").write_text(json.dumps(self.recipe))
        if build_of(new / self.targets[0]) != int(self.number):
            raise InstallError(f"{new / self.targets[0]} was built but does not run: see `{self.targets[0]} --version`")
        os.sync()  # the rename below must not reach the disk before the programs do
        if self.bin.exists():
            self.bin.replace(old)
        new.replace(self.bin)
        for folder in (old, self.build):
            shutil.rmtree(folder, ignore_errors=True)

    def _link(self) -> None:
        """Point path at the built program."""
        link(self.path, self.bin / self.targets[0])

    def _run(self, argv: list, error: str) -> None:
        """Run a command with its output in the log; stop it when nobody watches any more."""
        try:
            # The command inherits the lock: even if this module is killed, no second build joins it.
            status = run_into(self.watch.log, argv, self._locked, self.watch.check)
        except OSError as failure:
            raise InstallError(f"{error} ({failure})") from failure
        if status:
            raise InstallError(error)


def _pip() -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    return [pip] if (pip := shutil.which("pip3")) else []


def _read_json(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
