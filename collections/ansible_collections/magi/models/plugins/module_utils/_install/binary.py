# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A llama-server binary on this host: its build, and the stable path that points at it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from ansible_collections.magi.models.plugins.module_utils._install.step import InstallError

# "version: 0.6.0-dev (build 11434, commit unknown)", before mid-2026 "version: 5123 (a1b2c3d)"
_BUILD = re.compile(r"\(build (\d+)|^version: (\d+) \((?!build)", re.MULTILINE)


def build_of(path: Path) -> int | None:
    """Build number of the llama.cpp program at path; None if it is missing, doesn't run or has no number."""
    done = _run(path, "--version")
    found = None if isinstance(done, str) or done.returncode else _BUILD.search(done.stdout + done.stderr)
    return int(found[1] or found[2]) if found else None


def obstacle(path: Path) -> str:
    """Why the llama.cpp program at path does not run here, in a few words; an empty string if it does."""
    done = _run(path, "--version")
    if isinstance(done, str):
        return done
    if done.returncode:
        said = (done.stderr + done.stdout).strip().splitlines()
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
        # glibc names each version that it lacks in a line of its own
        return " ".join(said[0].removeprefix(f"{path}: ").split())[:200] if said else how
    return "" if build_of(path) is not None else "it does not tell its build"


_DEVICES = {"cuda": "CUDA", "rocm": "ROCm", "vulkan": "Vulkan"}


def sees_gpu(path: Path, backend: str) -> bool:
    """Whether the llama.cpp program at path finds a GPU by this backend (``--list-devices``)."""
    done = _run(path, "--list-devices")
    return not isinstance(done, str) and bool(re.search(rf"^ +{_DEVICES[backend]}\d+: ", done.stdout, re.MULTILINE))


def _run(path: Path, *arguments: str) -> subprocess.CompletedProcess[str] | str:
    """Run the program at path; a string says why it can't be run."""
    try:
        return subprocess.run(
            [path, *arguments], capture_output=True, check=False, text=True, errors="replace", timeout=60
        )
    except subprocess.TimeoutExpired:
        return "it hangs"
    except FileNotFoundError:
        return (
            "the loader that it names is missing: it was built for another system" if path.exists() else "it is missing"
        )
    except OSError as error:
        return error.strerror or str(error)


def check_link(path: Path) -> None:
    """Raise InstallError unless link(path, …) may and can put a link at path."""
    if path.exists() and not path.is_symlink():
        raise InstallError(
            f"{path} is a file that this role did not make: move it away or set model_server_llama_server_path"
        )
    parent = next(folder for folder in path.parents if folder.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InstallError(
            f"{parent} is not writable: set model_server_llama_server_path, or become a user who may write there"
        )


def link(path: Path, target: Path) -> None:
    """Make path a symbolic link to target, replacing an older link in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.unlink(missing_ok=True)  # left by a killed process, whose id is ours now
    new.symlink_to(target)
    new.replace(path)


def points_to(path: Path, target: Path) -> bool:
    """Whether path is a symbolic link with exactly this target."""
    return path.is_symlink() and path.readlink() == target
