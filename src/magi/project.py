"""The project that magi works on: a folder with playbooks, profiles, inventories and the collection."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
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
    def has_collection(self) -> bool:
        """Whether it is a checkout with its own collection; else magi's is used."""
        return (self.root / domain.FOLDER / "plugins").is_dir()

    @property
    def collections(self) -> Path:
        """The folder of the collection's ``ansible_collections``."""
        return self.root / "collections" if self.has_collection else domain.carried().parents[2]

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

    @property
    def is_bare(self) -> bool:
        """Whether it deploys on this machine and was never prepared."""
        return self._configured("inventory") == "inventories/local" and not (self.root / "data").exists()

    def playbook(self, name: str) -> str:
        """Return the playbook of a verb for ansible-playbook: the checkout's, else the collection's."""
        path = self.playbooks / f"{name}.yml"
        return str(path) if self.has_collection and path.is_file() else f"magi.models.{name}"

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return the variables that ansible-playbook needs to find the project's configuration and the collection."""
        found = {} if given.get("ANSIBLE_CONFIG") else {"ANSIBLE_CONFIG": str(self.configuration)}
        if self.has_collection:
            return found
        configured = filter(None, self._configured("collections_path").split(os.pathsep))
        others = given.get("ANSIBLE_COLLECTIONS_PATH") or os.pathsep.join(
            str(self.root / Path(path).expanduser()) for path in configured
        )
        default = "~/.ansible/collections:/usr/share/ansible/collections"  # Ansible's own
        return {**found, "ANSIBLE_COLLECTIONS_PATH": f"{self.collections}{os.pathsep}{others or default}"}

    def forks(self, given: Mapping[str, str]) -> int:
        """Return the number of workers in the ansible.cfg that a run uses with the environment ``given``, else 0."""
        found = self._configured("forks", given.get("ANSIBLE_CONFIG"))
        return int(found) if found.isdecimal() else 0  # Ansible says what is wrong with it

    def _configured(self, setting: str, path: str | None = None) -> str:
        """Return a setting of the section ``defaults`` of the project's ansible.cfg, or of the one at ``path``; or an
        empty string."""
        from configparser import ConfigParser, Error

        parser = ConfigParser(interpolation=None)
        with contextlib.suppress(OSError, Error, UnicodeDecodeError):  # Ansible says what is wrong with it
            parser.read(path or self.configuration, encoding="utf-8")
        return parser.get("defaults", setting, fallback="")

    def tags(self) -> list[str]:
        """Return the tags of the tasks in playbooks and roles, without those that mean something to Ansible."""
        import yaml

        folders = (".", "collections/ansible_collections/*/*")
        patterns = [f"{folder}/{files}" for folder in folders for files in ("playbooks/*.yml", "roles/*/tasks/*.yml")]
        found: set[str] = set()
        roots = (self.root, self.collections.parent)
        for path in {path for root in roots for pattern in patterns for path in root.glob(pattern)}:
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


def is_project(folder: Path) -> bool:
    """Whether it has the collection, or a profile of ours: other repositories have such folders and playbooks, too."""
    if Project(folder).has_collection:
        return True
    for path in (folder / "profiles").glob("*.yml"):
        with contextlib.suppress(OSError):
            if re.search(rb"^(?:enabled_models|pools):", path.read_bytes(), re.MULTILINE):
                return True
    return False


def carried(name: str) -> Path:
    """Return a file or folder that came with magi: in its package, or in its checkout."""
    here = Path(__file__).resolve()
    return next(path for path in (here.parent / "carried" / name, here.parents[2] / name) if path.exists())


def find_project(given: str | os.PathLike[str] | None = None) -> Project:
    """Return the project at ``given``, else at ``MAGI_PROJECT``, else at or above the working directory, else the
    checkout that magi was installed from.

    Raises UsageError when there is none, or its collection is missing or of another version.
    """
    named = given or os.environ.get("MAGI_PROJECT")
    here = Path.cwd()
    candidates = [Path(named).expanduser()] if named else [here, *here.parents, Path(__file__).resolve().parents[2]]
    for folder in filter(is_project, candidates):
        project = Project(folder.resolve())
        domain.check_version(project.collections / "ansible_collections" / "magi" / "models")
        return project
    where = f"{named} is not a magi project" if named else f"There is no magi project in {here} or above it"
    raise UsageError(f"{where}: make one with magi init, go to one, or name one with --project or MAGI_PROJECT.")
