# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The service managers: one file each, one protocol. Nothing outside this folder knows how a manager works."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from ansible_collections.magi.models.plugins.module_utils._services.values import (
    Capabilities,
    Filters,
    Status,
    Template,
)

ASKING = 20
"""Seconds that llama-server has for an answer (ask)."""


class ServiceManager(Protocol):
    """A service manager for one folder of ours (home). Instances are known by name.

    The controller renders its ``templates`` with its ``filters``, ``values`` and ``environment`` into files; on the
    host, the other methods act on these files.
    """

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]
    templates: ClassVar[Sequence[Template]]
    filters: ClassVar[Filters]

    def values(self) -> Mapping[str, Any]:
        """Return the values for its templates, beyond those that all managers' templates get."""

    def environment(self, name: str, wanted: Mapping[str, str]) -> Mapping[str, str]:
        """Return the environment of a ``wanted`` instance, as in the file that this manager writes for it."""

    def obstacle(self, path: Path, folders: Sequence[Path], *, program: bool = False) -> tuple[str, str] | None:
        """Return what keeps the servers from reading the file at ``path``, or from executing it as their ``program``,
        and its mode (see Unreadable); None: nothing. If home folders are hidden, the servers see ``folders`` of them.

        Raises OSError if the file is gone, or a link leads nowhere.
        """

    def fetch(self, program: str) -> None:
        """Get the llama-server ``program`` if that is the manager's to get and is not there. Raises ServiceError."""

    def tidy(self, programs: Collection[str]) -> None:
        """Remove what fetch got, but for ``programs`` and what is in use. Raises FileWriteError."""

    def identity(self, program: str) -> str:
        """Return what changes whenever the llama-server ``program`` does. Raises OSError and ServiceError."""

    def ask(
        self, program: str, arguments: Sequence[str], variables: Mapping[str, str]
    ) -> subprocess.CompletedProcess[bytes]:
        """Run llama-server to ask it something, with ``variables``, ASKING seconds at most; return what it printed.
        Raises OSError, ServiceError and TimeoutExpired."""

    def owned(self) -> list[Path]:
        """Return the existing files of instances, wanted or not."""

    def discard(self, path: Path) -> None:
        """Remove a file of ours, and its folder if that is empty then."""

    def common(self) -> list[Path]:
        """Return the manager's own files that exist."""

    def needs(self) -> list[Path]:
        """Return paths in whose folders it writes as it starts, stops and forgets instances."""

    def prepare(self) -> None:
        """Bring up the manager itself; called when the common files are in place, before those of instances."""

    def outdated(self) -> bool:
        """Whether the manager itself must be replaced, and with it all that it runs; prepare() does so once its
        instances have ended."""

    def regain(self) -> None:
        """End a manager of ours that no longer answers. Called before the look for instances to end."""

    def status(self) -> dict[str, Status]:
        """Return every instance of ours that has a definition or runs."""

    def reload(self) -> None:
        """Read the changed definitions; start and stop nothing."""

    def start(self, names: Sequence[str]) -> dict[str, str]:
        """Start instances that don't run, with their definitions as they are now, also after they failed.

        Return by name what the manager said of those that it refuses to start; it starts the others.
        """

    def stop(self, name: str) -> None:
        """End an instance: SIGTERM, a few seconds of grace, SIGKILL. Return when it has ended."""

    def forget(self, name: str) -> None:
        """Drop a stopped instance whose definition is gone, what its server kept, and a log that is ours; reload()
        makes it final."""

    def logs(self, name: str, lines: int) -> list[str]:
        """Return the last lines that the instance printed, oldest first."""

    def beginning(self, name: str, lines: int) -> list[str]:
        """Return the first lines that the last run of the instance printed."""

    def remove(self) -> None:
        """Remove the files of ours that are left, by name, and the manager where it is ours; all instances are
        stopped and forgotten. Folders in which others keep something stay."""


class HostProgram:
    """What is the same for the managers whose llama-server is a program of the host, by its path."""

    def fetch(self, program: str) -> None:
        """The role llama_server installs it."""

    def tidy(self, programs: Collection[str]) -> None:
        """It has got none."""

    def identity(self, program: str) -> str:
        status = os.stat(program)
        return f"{status.st_size} {status.st_mtime_ns}"

    def ask(
        self, program: str, arguments: Sequence[str], variables: Mapping[str, str]
    ) -> subprocess.CompletedProcess[bytes]:
        return asked([program, *arguments], {"PATH": os.defpath, **variables})


def asked(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[bytes]:
    """Run a command that asks llama-server something. Raises OSError and TimeoutExpired."""
    return subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=ASKING,
        check=False,
    )


def environment_value(text: str) -> str:
    r"""Quote ``text`` for a file that both systemd (systemd.exec(5), EnvironmentFile=) and a POSIX shell read.

    Both accept a double-quoted value with \\, \", \$ and \` escaped, and a newline as itself.
    """
    for special in '\\"$`':
        text = text.replace(special, "\\" + special)
    return f'"{text}"'


def environment_path(home: str | Path, name: str) -> Path:
    """Return the path of an instance's environment file, whatever manages it."""
    return Path(home) / "instances" / f"{name}.env"


def environment_file(home: str | Path, name: str) -> dict[str, str]:
    """Return the variables in the file of an instance, written with ``environment_value``; {} if it can't be read."""
    with contextlib.suppress(OSError):
        text = environment_path(home, name).read_bytes().decode("utf-8", "surrogateescape")
        values = re.findall(r'^(\w+)="((?:[^"\\]|\\.)*)"$', text, re.MULTILINE | re.DOTALL)
        return {key: re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL) for key, value in values}
    return {}


def instance_files(home: Path) -> list[Path]:
    """Return the files of instances in ``home`` that all managers have."""
    return [path for path in (home / "instances").glob("*.*") if path.suffix in (".env", ".ini")]


def tail(path: Path, lines: int, limit: int = 65536) -> list[str]:
    """Return the last ``lines`` lines of a log, reading at most ``limit`` bytes; [] without a log."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - limit))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return text.splitlines()[-lines:]


def clear(files: Iterable[Path], folders: Iterable[Path]) -> None:
    """Remove files of ours, and folders of ours that are empty then: other people's files there stay."""
    for path in files:
        path.unlink(missing_ok=True)
    for folder in folders:
        for path in folder.glob(".*.tmp"):
            if re.fullmatch(r"\..+\.\d{1,10}\.tmp", path.name):  # left by a killed writer (write_atomic)
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()


def names(paths: Iterable[Path], suffix: str) -> list[str]:
    return [path.name[: -len(suffix)] for path in paths if path.name.endswith(suffix)]


def ways(path: Path) -> Iterator[tuple[Path, Sequence[Path]]]:
    """Yield each path to the file at ``path``, its own and those of its links, as the folders on the way, outermost
    first, and at last the file. Raises OSError without a file."""
    path = path.absolute()
    real = path.resolve(strict=True)
    yield path, tuple(reversed(path.parents))
    yield real, (*reversed(real.parents), real)


def needed(mode: int, program: bool) -> int:
    """Return the permission bit that others need to use a file or folder of ``mode``."""
    return 0o1 if program or stat.S_ISDIR(mode) else 0o4
