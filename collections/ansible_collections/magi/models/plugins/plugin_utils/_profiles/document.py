# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""YAML and JSON files that people write: their data, and the line where each part is."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

_LARGEST = 1_000_000
"""Characters that aliases (*x) may make of a shorter file."""
Where = tuple[Any, ...]
"""The keys and indexes (from 0) that lead to a part from the top of a document."""


@dataclass(frozen=True)
class Remark:
    """Something to say about a line of a file."""

    path: str
    line: int | None
    """From 1; None if it is about no line."""
    message: str

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}: {self.message}" if self.line else f"{self.path}: {self.message}"


class DocumentError(ValueError):
    """A file can't be read; ``remark`` says which, where, and why."""

    def __init__(self, remark: Remark) -> None:
        super().__init__(str(remark))
        self.remark = remark


@dataclass(frozen=True)
class Document:
    path: str
    data: Any
    lines: Mapping[Where, int]
    repeated: tuple[Where, ...] = ()
    """Keys that their mapping has more than once: YAML silently takes the last."""

    def remark(self, where: Where, message: str) -> Remark:
        """Return a remark on the line of ``where``, or of its parent if it has no line of its own."""
        while where and where not in self.lines:
            where = where[:-1]
        return Remark(self.path, self.lines.get(where), message)


def read_document(path: Path) -> Document:
    """Read a YAML or JSON file. Raises DocumentError."""
    shown = str(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: int(error.start)].count(b"\n") + 1
        raise DocumentError(Remark(shown, line, "it is not UTF-8; save it as UTF-8.")) from None
    except OSError as error:
        raise DocumentError(Remark(shown, None, f"it can't be read: {error.strerror}.")) from None
    try:
        return _json(shown, text) if text.lstrip()[:1] == "{" else _yaml(shown, text)
    except DocumentError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(filter(None, (error.context, error.problem)))
        pattern = unquoted(text.splitlines()[mark.line]) if mark and mark.line < len(text.splitlines()) else None
        what = f"it is not valid YAML: {what}" if pattern is None else f'{pattern} must be in quotes: "{pattern}"'
        raise DocumentError(Remark(shown, mark.line + 1 if mark else None, f"{what}.")) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = " ".join(str(error).split())
        raise DocumentError(Remark(shown, None, f"it is not valid YAML: {what}.")) from None


_UNQUOTED = re.compile(
    r"""(?:^|[\s,\[{])        # after a dash, a colon, a comma, a bracket
    (\*[^\s,\]}:\#]*          # *-q4_k_m: an alias for YAML
    |[\[{][^\]}\s]*[\]}][^\s,\]}:\#]+ # [qd]*-q4_k_m: a list, and more after it
    |[&!%@`|>][^\s,\]}:\#]*[*?\[][^\s,\]}:\#]*)  # !deep*: a tag, an anchor and so on
    (?=$|[\s,\]}:\#])""",
    re.VERBOSE,
)


def unquoted(line: str) -> str | None:
    """Return the glob on a line that is not valid YAML because of the glob's first character; None if there is
    none."""
    found = _UNQUOTED.search(line)
    return found[1] if found else None


def _json(path: str, text: str) -> Document:
    """Read JSON as JSON, since YAML knows neither its tabs nor its surrogate pairs; YAML may begin with a brace,
    too."""
    try:
        data = json.loads(text)
    except ValueError as error:
        if path.endswith(".json") and isinstance(error, json.JSONDecodeError):
            raise DocumentError(Remark(path, error.lineno, f"it is not valid JSON: {error.msg}.")) from None
        return _yaml(path, text)
    # Valid JSON has no tab within a string, so the YAML parser still finds its lines.
    return replace(_yaml(path, text.replace("\t", " ")), data=data)


def _yaml(path: str, text: str) -> Document:
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return Document(path, None, {})
        if _size(root, {}) > max(_LARGEST, 3 * len(text)):
            raise DocumentError(Remark(path, None, "its aliases (*x) make it too large; write out what they are."))
        lines: dict[Where, int] = {}
        repeated: list[Where] = []
        for where, node in _parts(loader, (), root, set()):
            if where in lines and not any(where[: len(above)] == above for above in repeated):
                repeated.append(where)
            lines[where] = node.start_mark.line + 1
        return Document(path, loader.construct_document(root), lines, tuple(repeated))
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[int, float]) -> float:
    """Return about how many characters a part has with all that its aliases repeat; one that holds itself has no
    end."""
    if isinstance(node, yaml.ScalarNode):
        return 1 + len(node.value)
    if id(node) not in known:
        known[id(node)] = math.inf
        parts = itertools.chain(*node.value) if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def _parts(loader: yaml.SafeLoader, where: Where, node: yaml.Node, seen: set[int]) -> Iterator[tuple[Where, yaml.Node]]:
    """Yield the place of each part with the node of its key or item, without what an alias (*x) repeats."""
    yield where, node
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _parts(loader, (*where, index), item, seen)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                place = (*where, loader.construct_object(key))
                yield place, key
                inner = _parts(loader, place, value, seen)
                next(inner, None)  # the key has its line already
                yield from inner
