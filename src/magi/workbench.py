"""What verbs work with that run no playbook: the project's profiles, and what is known of its hosts."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from magi.errors import UsageError
from magi.project import Project, find_project
from magi.runner import QUESTIONS, state_folder, unwritable

if TYPE_CHECKING:
    from magi.catalog import Known
    from magi.events import Run
    from magi.runner import Options


class Workbench:
    """The project's collection can be imported once this was made; what imports it is imported then."""

    def __init__(
        self,
        project: Path | None,
        folder: Path | None = None,
        registry: Path | None = None,
        inventory: Sequence[str] | None = None,
    ):
        self.project = find_project(project)
        self.folder = folder or self.project.profiles
        self.registry = registry
        self.inventory = tuple(inventory or ())

    @cached_property
    def hosts(self) -> Mapping[str, Known]:
        """What is known of the hosts: of the registry that was named, else from the last look at them."""
        from magi import catalog

        if self.registry:
            return catalog.from_registry(self.registry)
        with contextlib.suppress(OSError):  # no place to remember anything, so nothing is known
            return catalog.load(catalog_path(self.project, self.inventory))
        return {}

    def find(self, name: str) -> Path:
        from magi import profiles

        return profiles.find(self.folder, name)

    def paths(self, names: Iterable[str]) -> list[Path]:
        """Return the files of profiles by name, or of all."""
        from magi import profiles

        return [self.find(name) for name in names] or profiles.files(self.folder)

    @property
    def views(self) -> ModuleType:
        """The module that says what verbs come to, which needs the collection."""
        from magi import views

        return views


@contextlib.contextmanager
def passed_by_file(text: str) -> Iterator[Path]:
    """Yield a file that holds ``text``, for its user alone, within the block: a variable would be run as a template.

    Should this process be killed, the next run removes the file. Raises UsageError.
    """
    try:
        folder = state_folder() / QUESTIONS
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UsageError(unwritable(error)) from None
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=folder, suffix=".txt") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(text)
        file.flush()
        yield Path(file.name)


def catalog_path(project: Project, inventory: Sequence[str]) -> Path:
    """Return where magi remembers what it saw of the hosts of an inventory of a project. Raises OSError."""
    sources = [str(project.root), *(str(Path(item).absolute()) for item in inventory)]
    digest = hashlib.sha256("\0".join(sources).encode()).hexdigest()[:12]
    return state_folder() / "catalogs" / f"{project.root.name}-{digest}.json"


def remember(project: Project, options: Options, run: Run) -> None:
    """Keep what a run saw of the hosts, beside what is known of them already; hosts that are gone are forgotten."""
    from magi import catalog

    results = [(host, result) for host, kind, result in run.results() if kind == "ok"]
    there = {item.host for item in run.events}
    with contextlib.suppress(OSError):  # only a memory, and no reason for a verb to fail
        path = catalog_path(project, options.inventory)
        known = {host: item for host, item in catalog.load(path).items() if options.limit or host in there}
        seen = catalog.learn(known, results)
        if seen != known and any(host.models for host in seen.values()):
            catalog.save(path, seen)
