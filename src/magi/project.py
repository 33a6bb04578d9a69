"""The project that magi works on: a folder with playbooks, profiles, inventories and the collection."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magi import domain
from magi.errors import UsageError

ANSIBLE_TAGS = {"all", "always", "never", "tagged", "untagged"}
"""Tags that mean something to Ansible, whatever tasks there are."""


@dataclass(frozen=True)
class Project:
    root: Path

    @property
    def profiles(self) -> Path:
        return self.root / "profiles"

    @property
    def playbooks(self) -> Path:
        return self.root / "playbooks"

    @property
    def configuration(self) -> Path:
        """The project's ansible.cfg."""
        return self.root / "ansible.cfg"

    def playbook(self, name: str) -> Path:
        """Return the playbook of a verb. Raises UsageError where it is missing."""
        path = self.playbooks / f"{name}.yml"
        if not path.is_file():
            raise UsageError(f"{path} is missing: restore it, or name another project with --project.")
        return path

    def tags(self) -> list[str]:
        """Return the tags that tasks have, in playbooks and roles; those that Ansible gives a meaning left out."""
        import yaml

        folders = (".", "collections/ansible_collections/*/*")
        patterns = [f"{folder}/{files}" for folder in folders for files in ("playbooks/*.yml", "roles/*/tasks/*.yml")]
        found: set[str] = set()
        for path in (path for pattern in patterns for path in self.root.glob(pattern)):
            with contextlib.suppress(OSError, yaml.YAMLError):  # Ansible says what is wrong with it
                found.update(_tags(yaml.compose(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))))
        return sorted(found - ANSIBLE_TAGS)


def _tags(node: Any) -> Iterator[str]:
    """Yield the tags below a node of YAML: a list, or words with commas between them."""
    for part in node.value if node and not isinstance(node.value, str) else ():
        key, value = part if isinstance(part, tuple) else (None, part)
        if key is not None and key.value == "tags":
            for item in value.value if isinstance(value.value, list) else [value]:
                yield from (word.strip() for word in str(item.value).split(","))
        else:
            yield from _tags(value)


def find_project(given: str | os.PathLike[str] | None = None) -> Project:
    """Return the project at ``given``, else at ``MAGI_PROJECT``, else at or above the working directory, else the one
    that magi was installed from.

    Raises UsageError when there is none, or its collection is missing or of another version.
    """
    named = given or os.environ.get("MAGI_PROJECT")
    here = Path.cwd()
    candidates = [Path(named).expanduser()] if named else [here, *here.parents, *Path(__file__).resolve().parents]
    for folder in candidates:
        if (folder / "playbooks" / "site.yml").is_file():
            project = Project(folder.resolve())
            domain.check_version(project.root / domain.FOLDER)
            return project
    where = f"{named} is no magi project" if named else f"There is no magi project in {here} or above it"
    raise UsageError(f"{where} (a folder with playbooks/site.yml): go to one, or set --project or MAGI_PROJECT.")
