# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Variables that users give an instance's process. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.text import SECRET, shown

_FILE = re.compile(r"_(?:FILE|PATH|DIR)$")
"""The end of a variable's name when its value says where something is."""


def wrong_variables(value: Mapping[Any, Any]) -> Iterator[tuple[Any, str]]:
    """Yield the name of each variable that isn't allowed, with a sentence that begins with it."""
    for name, given in value.items():
        said = _why_not(str(name), given)
        if said:
            yield name, f"{name} {said}."


def _why_not(name: str, given: Any) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        return "is not a variable name; use letters, digits and '_'"
    if name.startswith("LLAMA_"):
        return "is llama-server's own; set the option that it stands for, under options"
    if name.startswith("MAGI_") or name == "HOME":
        return "is set by the deployment; take it out"
    if SECRET.search(name) and not _FILE.search(name):
        return "looks like a secret, which others on the host could read; put it into a file and give that file's path"
    if given is not None and (isinstance(given, bool) or not isinstance(given, (str, int, float))):
        return f"must be a string or a number, not {shown(given)}; quote it"
    return ""


def environment(value: Any) -> dict[str, str | None]:
    """Return the variables as strings; None takes back one that was given before.

    Raises ValueError, which says what ``value`` should be.
    """
    if not isinstance(value, Mapping):
        raise ValueError("a mapping of variables")
    for _name, said in wrong_variables(value):
        raise ValueError(f"a mapping of variables for a process ({said.rstrip('.')})")
    return {str(name): None if given is None else str(given) for name, given in sorted(value.items())}
