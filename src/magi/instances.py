"""Instances by name, and the lines that the playbooks for one show while they run. Pure."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from magi.domain import printable
from magi.errors import UsageError


class InstanceNameError(UsageError):
    """No instance has that name; the message has the nearest one."""


def missing(name: str, hosts: Mapping[str, Collection[str]]) -> InstanceNameError:
    """Return the error for an instance that none of ``hosts`` has; by host the names of the instances that it has."""
    there = sorted({instance for instances in hosts.values() for instance in instances})
    where = ", ".join(hosts) or "any host"
    if not there:
        return InstanceNameError(f"There is no instance {name} on {where}: nothing is deployed there; run magi up.")
    near = difflib.get_close_matches(name, there, 1, 0.5)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(there)}."
    return InstanceNameError(f"There is no instance {name} on {where}; {hint}")


def unknown(names: Iterable[str], hosts: Mapping[str, Collection[str]]) -> InstanceNameError | None:
    """Return the error for those of ``names`` that none of ``hosts`` has; None if each is on some host."""
    sentences = [str(missing(name, hosts)) for name in names if not any(name in there for there in hosts.values())]
    return InstanceNameError(" ".join(sentences)) if sentences else None


def log_line(shown: str, hosts: Collection[str]) -> tuple[str, str] | None:
    """Return host and line from a line of log that playbooks/logs.yml shows; None for its other output."""
    host, bar, line = shown.partition(" | ")
    return (host, line) if bar and host in hosts else None


def answer_piece(shown: str) -> tuple[str, str] | None:
    """Return kind (``text``, ``reasoning``) and words of a piece of an answer that playbooks/ask.yml shows, or None."""
    try:
        piece: Any = json.loads(shown)
    except ValueError:
        return None
    if isinstance(piece, dict) and len(piece) == 1:
        (kind, words), *_none = piece.items()
        if kind in ("text", "reasoning") and isinstance(words, str):
            return kind, words
    return None


def terminal_text(text: str) -> str:
    """Return ``text`` with what could move a cursor, all but line ends and tabs, written as escapes."""
    return "".join(char if char in "\n\t" else printable(char) for char in text)
