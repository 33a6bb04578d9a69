"""The house rules for files and their imports, and what breaks them in a tree of files."""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

OWN = "ansible_collections.magi.models.plugins."

RANKS = {
    "_base": 0,
    **dict.fromkeys(("_config", "_install"), 1),
    **dict.fromkeys(("_gguf", "_llama", "_services"), 2),
    **dict.fromkeys(("_models", "_host.values"), 3),
    "_plan": 4,
    "_host": 5,
    **dict.fromkeys(("_haproxy", "_ansible", "_fleet", "_profiles"), 6),
    "_gateway": 7,
    "_observe": 8,
}
"""Each package, and each file that stands apart from its package. A file imports its own package and lower ranks."""

ACTING = {
    *("concurrent.futures", "fcntl", "glob", "http.client", "mmap", "os", "pathlib", "select", "shutil", "signal"),
    *("socket", "subprocess", "tempfile", "threading", "urllib.request"),
}
"""What only effects may import: it reads or changes the world."""


@dataclass(frozen=True)
class Source:
    """A Python file and what it imports."""

    name: str
    """``_package.file``, or ``file`` without a package."""
    imports: frozenset[str]
    """Dotted names of modules, and of what it imports from them."""


def sources(root: Path) -> list[Source]:
    """Return the files in the folder ``root`` and its packages."""
    return [
        Source(".".join(path.relative_to(root).with_suffix("").parts), frozenset(_imports(path)))
        for path in sorted(root.rglob("*.py"))
        if path.name != "__init__.py"
    ]


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                # a PurePath only takes file names apart
                yield f"{node.module}.{alias.name}"
                if not alias.name.startswith("Pure"):
                    yield node.module
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield from {alias.name, alias.name.split(".")[0]}


def own_imports(source: Source, names: Collection[str]) -> set[str]:
    """Return those of the files ``names`` that it imports."""
    rooms = (OWN + "module_utils.", OWN + "plugin_utils.", "magi.")
    return {m[len(room) :] for m in source.imports for room in rooms if m.startswith(room)} & {*names}


def rank(name: str) -> int | None:
    return RANKS.get(name, RANKS.get(name.split(".")[0]))


def upward(files: Collection[Source]) -> list[str]:
    """Return a sentence for each import that goes up, to a neighbour, or in a circle within its package."""
    names = {item.name for item in files}
    graph = {item.name: own_imports(item, names) for item in files}
    found = [f"{name} is in no package that has a rank." for name in sorted(names) if rank(name) is None]
    for name, others in sorted(graph.items()):
        for other in sorted(others):
            here, there = rank(name), rank(other)
            same_package = name.split(".")[0] == other.split(".")[0]
            if here is None or there is None:
                continue
            if there > here or (there == here and not same_package):
                found.append(f"{name} imports {other}, which is not below it.")
    return found + [f"{' imports '.join(ring)}: a circle." for ring in _rings(graph)]


def _rings(graph: Mapping[str, Collection[str]]) -> Iterator[list[str]]:
    """Yield one path for each file that is the first in a circle of imports."""
    for start in sorted(graph):
        ways = [[start]]
        seen: set[str] = set()
        while ways:
            way = ways.pop()
            for following in sorted(graph.get(way[-1], ())):
                if following == start:
                    yield [*way, start]
                    ways.clear()
                    break
                if following > start and following not in seen:
                    seen.add(following)
                    ways.append([*way, following])


def impure(files: Collection[Source], effects: Collection[str]) -> list[str]:
    """Return a sentence for each file that is not one of ``effects`` but imports one, or imports what acts; an entry of
    ``effects`` is a file or a package."""

    def is_effect(name: str) -> bool:
        return name in effects or name.split(".")[0] in effects

    names = {item.name for item in files}
    found = [
        f"{name} is named as an effect and does not exist."
        for name in sorted({*effects} - names - {name.split(".")[0] for name in names})
    ]
    for item in files:
        if not is_effect(item.name):
            acts = {module for module in item.imports if module in ACTING}
            acts |= {other for other in own_imports(item, names) if is_effect(other)}
            found += [f"{item.name} imports {what}, so it is not pure." for what in sorted(acts)]
    return found


def strangers(files: Collection[Source]) -> list[str]:
    """Return a sentence for each import that a target may not have: only Python's library and Ansible's are there."""
    library = getattr(sys, "stdlib_module_names", None)  # from Python 3.10 on
    allowed = (OWN + "module_utils.", "ansible.module_utils.")
    return [
        f"{item.name} imports {module}, which a target may not have."
        for item in files
        for module in sorted(item.imports)
        if library and module.split(".")[0] not in library and not module.startswith(allowed)
    ]
