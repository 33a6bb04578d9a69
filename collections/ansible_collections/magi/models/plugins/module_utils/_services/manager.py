# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The service managers: one file each, one protocol. Nothing outside this folder knows how a manager does it."""

from __future__ import annotations

import contextlib
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from ansible_collections.magi.models.plugins.module_utils._services.values import (
    Capabilities,
    Filters,
    Status,
    Template,
)


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
        """Return what its templates know beside what all managers' templates do."""

    def environment(self, name: str, wanted: Mapping[str, str]) -> Mapping[str, str]:
        """Return the environment of an instance that is ``wanted``, as this manager's file of it holds it."""

    def obstacle(self, path: Path, folders: Sequence[Path], *, program: bool = False) -> tuple[str, str] | None:
        """Return what keeps the servers from reading the file at ``path``, or from executing it as their ``program``,
        and its mode (see Unreadable); None: nothing. Where home folders are hidden, they see ``folders``.

        Raises OSError where the file is gone, or leads nowhere.
        """

    def owned(self) -> list[Path]:
        """Return the files per instance that are there now, wanted or not."""

    def discard(self, path: Path) -> None:
        """Remove a file of ours, and a folder that held nothing else."""

    def common(self) -> list[Path]:
        """Return the manager's own files that are there now."""

    def prepare(self) -> None:
        """Bring the manager itself up; called when the common files are in place, before those per instance."""

    def outdated(self) -> bool:
        """Whether the manager itself has to be replaced, and with it all that it runs; prepare() does so once its
        instances have ended."""

    def regain(self) -> None:
        """End a manager of ours that can't be asked any more. Called before instances are looked at to be ended."""

    def status(self) -> dict[str, Status]:
        """Return every instance of ours that has a definition or runs."""

    def reload(self) -> None:
        """Read the changed definitions; nothing starts, nothing stops."""

    def start(self, names: Sequence[str]) -> dict[str, str]:
        """Start instances that don't run, with their definitions as they are now, also after they failed.

        Return by name what the manager said of those that it refuses to start; it starts the others.
        """

    def stop(self, name: str) -> None:
        """End an instance: SIGTERM, a few seconds of grace, SIGKILL. Returns when it has ended."""

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


def environment_value(text: str) -> str:
    r"""Quote ``text`` for a file that both systemd (systemd.exec(5), EnvironmentFile=) and a POSIX shell read.

    Both take a double-quoted value with \\, \", \$ and \` escaped, and a newline as itself.
    """
    for special in '\\"$`':
        text = text.replace(special, "\\" + special)
    return f'"{text}"'


def environment_path(home: str | Path, name: str) -> Path:
    """Return where the environment of an instance is written, whatever manages it."""
    return Path(home) / "instances" / f"{name}.env"


def environment_file(home: str | Path, name: str) -> dict[str, str]:
    """Return what the file of an instance sets, as it was written with ``environment_value``; {} where it can't be
    read."""
    with contextlib.suppress(OSError):
        text = environment_path(home, name).read_bytes().decode("utf-8", "surrogateescape")
        values = re.findall(r'^(\w+)="((?:[^"\\]|\\.)*)"$', text, re.MULTILINE | re.DOTALL)
        return {key: re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL) for key, value in values}
    return {}


def tail(path: Path, lines: int, limit: int = 65536) -> list[str]:
    """Return the last ``lines`` lines of a log, reading at most ``limit`` bytes; [] where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - limit))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return text.splitlines()[-lines:]


def clear(files: Iterable[Path], folders: Iterable[Path]) -> None:
    """Remove files of ours, and those folders of ours that are empty then: what others keep there stays."""
    for path in files:
        path.unlink(missing_ok=True)
    for folder in folders:
        for path in folder.glob(".*.tmp"):
            if re.fullmatch(r"\..+\.\d{1,10}\.tmp", path.name):  # of a writer that was killed (write_atomic)
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()


def names(paths: Iterable[Path], suffix: str) -> list[str]:
    return [path.name[: -len(suffix)] for path in paths if path.name.endswith(suffix)]


def ways(path: Path) -> Iterator[tuple[Path, Sequence[Path]]]:
    """Yield the ways to the file at ``path``, by itself and by what it links to, each with the folders that it leads
    through, the outermost first; at last the file. Raises OSError where there is none."""
    path = path.absolute()
    real = path.resolve(strict=True)
    yield path, tuple(reversed(path.parents))
    yield real, (*reversed(real.parents), real)


def needed(mode: int, program: bool) -> int:
    """Return the permission bit (for others) that a file or folder of ``mode`` is used by."""
    return 0o1 if program or stat.S_ISDIR(mode) else 0o4
