"""What the verbs on profiles work with: the project's profiles, and what is known about its hosts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from magi.profiles import files
from magi.project import find_project
from magi.state import catalog
from magi.state.catalog import Known


class Workbench:
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
        """What is known about the hosts: from the given registry, else from the last look at them."""
        if self.registry:
            return catalog.from_registry(self.registry)
        with contextlib.suppress(OSError):  # there is no place to remember anything, so nothing is known
            return catalog.load(catalog.path_of(self.project, self.inventory))
        return {}

    def find(self, name: str) -> Path:
        """Return the file of a profile by name or path. Raises ProfileError."""
        return files.find(self.folder, name)

    def paths(self, names: Iterable[str]) -> list[Path]:
        """Return the files of profiles by name, or of all."""
        return [self.find(name) for name in names] or files.files(self.folder)
