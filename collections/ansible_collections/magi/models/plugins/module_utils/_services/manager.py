# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The service managers: one file each, one protocol.

The controller renders a manager's ``TEMPLATES`` with its ``FILTERS`` into files; on the target, a ``Services`` object
acts on them. Nothing outside this folder knows how a manager does it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Template:
    """A file that a manager needs: rendered from ``source`` (in the role's templates/) to ``destination``."""

    source: str
    destination: str
    """Path with {home} and, for a file per instance, {name}."""
    mode: int
    per_instance: bool = False


@dataclass(frozen=True)
class Status:
    """An instance as its manager sees it."""

    state: str
    """running, starting, backoff, failed or stopped (see _host.Running)."""
    pid: int | None = None
    started_at: float | None = None
    """Seconds since the epoch."""
    exit_status: str | None = None


class ServiceError(RuntimeError):
    """A service manager can't be reached or refused; the message names it and the remedy."""


class Services(Protocol):
    """What a service manager does for us on a target. Instances are known by name."""

    def owned(self) -> list[Path]:
        """Return the files per instance that are there now, wanted or not."""

    def common(self) -> list[Path]:
        """Return the manager's own files that are there now."""

    def prepare(self) -> None:
        """Bring the manager itself up; called when the common files are in place, before those per instance."""

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

    def remove(self) -> None:
        """Remove the files of ours that are left, by name, and the manager where it is ours; all instances are
        stopped and forgotten. Folders in which others keep something stay."""


Filters = Mapping[str, Callable[[str], str]]


def environment_value(text: str) -> str:
    r"""Quote ``text`` for a file that both systemd (systemd.exec(5), EnvironmentFile=) and a POSIX shell read.

    Both take a double-quoted value with \\, \", \$ and \` escaped, and a newline as itself.
    """
    for special in '\\"$`':
        text = text.replace(special, "\\" + special)
    return f'"{text}"'


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
            if re.fullmatch(r"\..+\.\d{1,10}\.tmp", path.name):  # of a writer that was killed (_files.write_atomic)
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()


def chosen(manager: str, home: str, supervisord_path: str) -> Services:
    """Return the services of ``manager`` (systemd or supervisor) for the folder ``home``."""
    if manager == "systemd":
        from ansible_collections.magi.models.plugins.module_utils._services.systemd import Systemd

        return Systemd(Path(home))
    from ansible_collections.magi.models.plugins.module_utils._services.supervisor import Supervisor

    return Supervisor(Path(home), supervisord_path)


def detected(manager: str) -> str:
    """Return systemd or supervisor for ``manager``, which may be auto: systemd where it is PID 1 (sd_booted(3))."""
    if manager != "auto":
        return manager
    return "systemd" if Path("/run/systemd/system").is_dir() else "supervisor"


def names(paths: Iterable[Path], suffix: str) -> list[str]:
    return [path.name[: -len(suffix)] for path in paths if path.name.endswith(suffix)]
