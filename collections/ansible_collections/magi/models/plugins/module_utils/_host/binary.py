# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The llama-server of a host: what it takes, and what keeps the servers from executing it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._llama.help import (
    default_devices,
    device_memory,
    fell_back,
    parse_devices,
    parse_help,
)
from ansible_collections.magi.models.plugins.module_utils._llama.options import Binary, Option
from ansible_collections.magi.models.plugins.module_utils._services.manager import ServiceManager
from ansible_collections.magi.models.plugins.module_utils._services.values import ServiceError

UPSTREAM = "ghcr.io/ggml-org/llama.cpp"
"""Where llama.cpp publishes its images (llama.cpp docs/docker.md): for each backend one, by build."""
_VARIABLE = "model_server_llama_server_path (LLAMA_SERVER_PATH)"


def read_binary(
    manager: ServiceManager, path: str, environment: Mapping[str, str] | None = None
) -> tuple[Binary | None, str]:
    """Return the llama-server at ``path``, or in the image of that name, with its options, or None and a sentence that
    says why not.

    Runs it three times as ``manager`` does (``--version``, ``--help``, ``--list-devices``; 5 to 10 ms each, the last
    longer where a GPU's driver starts, and half a second more for a container) with ``environment`` alone, 20 seconds
    each at most, all at once.
    """
    if not path:
        return None, (
            f"{manager.name} needs an image of llama-server, model_server_image is not set, and no llama-server at "
            f"{_VARIABLE} tells which build's to take: set it to one with its tag or digest, such as "
            f"{UPSTREAM}:server-b11434, or install that build on the host."
        )
    path = os.path.expanduser(path)
    given = environment or {}
    try:
        build = manager.identity(path)
        with ThreadPoolExecutor(3) as pool:
            devices = pool.submit(_devices, manager, path, given)
            version, said = pool.map(lambda argument: _run(manager, given, path, argument), ("--version", "--help"))
        options: tuple[Option, ...] = parse_help(said)
    except ServiceError as error:
        return None, str(error)
    except (OSError, subprocess.SubprocessError) as error:
        return None, _why_not(manager, path, error)
    if not any(option.environment == "LLAMA_ARG_MODEL" for option in options):
        return None, f"{path} does not list llama-server's options; is it llama-server?"
    found = re.search(r"version:\s*(.+)", version)
    line = found.group(1).strip() if found else "unknown version"
    return Binary(path, line, f"{line} {build}", options, **devices.result()), ""


def _why_not(manager: ServiceManager, path: str, error: Exception) -> str:
    """Return a sentence on a llama-server that did not run."""
    setting = "model_server_image" if manager.capabilities.image else _VARIABLE
    if isinstance(error, FileNotFoundError) and not os.path.exists(path):
        return f"there is no llama-server at {path}; install it (role llama_server), or set {setting}."
    from ansible_collections.magi.models.plugins.module_utils._llama.cause import find_cause  # see choice.chosen

    said = str(error)
    if isinstance(error, FileNotFoundError):
        said = "the loader or interpreter that it names is missing: it was built for another system"
    elif isinstance(error, OSError) and error.errno == errno.ENOEXEC:
        said = f"it is no program for this host, which is {os.uname().machine}"
    elif isinstance(error, subprocess.TimeoutExpired):
        said = f"no answer within {error.timeout:.0f} s"
    elif isinstance(error, subprocess.CalledProcessError):
        printed = error.output.decode("utf-8", "replace")
        cause = find_cause(printed.splitlines(), f"exit status {error.returncode}")
        if error.returncode == -signal.SIGILL:
            cause = find_cause((), "terminated by SIGILL")
        if cause.code in ("library_missing", "illegal_instruction"):
            return f"llama-server at {path}: {cause.detail}."
        said = f"exit status {error.returncode}: {' '.join(printed.split())[-200:] or 'it printed nothing'}"
    if manager.capabilities.image:
        return f"llama-server in the image {path} does not run ({said}); correct {setting}."
    return f"llama-server at {path} does not run ({said}); reinstall it, or set {setting}."


def upstream_image(path: str) -> str:
    """Return llama.cpp's own image of a server for the GPUs of this host, of the same build as the llama-server at
    ``path``; an empty string where none runs there."""
    # Imported here: only a host that runs containers needs them, see choice.chosen.
    from ansible_collections.magi.models.plugins.module_utils._install.backend import CPU, here
    from ansible_collections.magi.models.plugins.module_utils._install.binary import build_of

    build, backend = build_of(Path(path).expanduser()), here("auto")[0]
    return f"{UPSTREAM}:server-{'' if backend == CPU else f'{backend}-'}b{build}" if build else ""


WORKER_PROGRAM = "ggml-rpc-server"


def find_beside(path: str, program: str) -> str | None:
    """Return the ``program`` of the llama-server at ``path``: beside it, or beside what its link leads to, else in the
    PATH."""
    paths = (path, os.path.realpath(path)) if os.path.isabs(path) else ()  # it may be in an image
    folders = [os.path.dirname(each) for each in paths]
    return shutil.which(program, path=os.pathsep.join([*folders, os.environ.get("PATH", os.defpath)]))


def runnable(manager: ServiceManager, path: str) -> bool:
    """Whether there is a llama-server at ``path``, or in the image of that name."""
    if not manager.capabilities.image:
        return os.access(path, os.X_OK)
    try:
        return bool(manager.identity(path))
    except ServiceError:
        return False


def shut(manager: ServiceManager, path: str) -> str:
    """Return why the servers may not execute llama-server, as a sentence; an empty string if they may."""
    obstacle = manager.obstacle(Path(path), [Path(path).parent], program=True)
    if obstacle is None:
        return ""
    at, mode = obstacle
    if mode == "hidden":
        return (
            f"the servers may not execute {path}: {at} lies in a home folder, which services do not see; move it, or "
            f"set {_VARIABLE} to the path that it really has."
        )
    who = "o" if manager.capabilities.own_user else "u"
    return (
        f"the servers may not execute {path}, since {at} is {mode}: chmod {who}+x {at}, or move llama-server and set "
        f"{_VARIABLE}."
    )


def _devices(manager: ServiceManager, path: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what a Binary has on GPUs."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):  # an older build, or a hanging driver
        said = _run(manager, environment, path, "--list-devices")
        devices = parse_devices(said)
        no_gpu = "" if devices else fell_back(said.splitlines())
        return {
            "devices": devices,
            "default_devices": default_devices(said),
            "device_memory": device_memory(said),
            "no_gpu": no_gpu,
        }
    return {}


def _run(manager: ServiceManager, environment: Mapping[str, str], path: str, argument: str) -> str:
    done = manager.ask(path, [argument], environment)
    done.check_returncode()
    return done.stdout.decode("utf-8", "replace")
