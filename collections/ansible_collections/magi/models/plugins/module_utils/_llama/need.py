# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a server needs of memory: what llama-fit-params prints of it, and the sum. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

HOST = "Host"
"""The host's own memory, as llama-fit-params calls it beside the names of devices."""
MIB = 1 << 20


class Row(NamedTuple):
    """What a server needs of a device, or of HOST; in bytes."""

    device: str
    model: int
    context: int
    compute: int


_ROW = re.compile(r"^(\S+) (\d+) (\d+) (\d+) ?$", re.MULTILINE)


def parse_rows(text: str) -> tuple[Row, ...]:
    """Return what ``llama-fit-params --fit-print on`` prints on standard output: a row for each device and, last, HOST
    (llama.cpp common/fit.cpp, ``common_fit_print``); () where it is not that."""
    rows = tuple(Row(name, *(int(number) * MIB for number in numbers)) for name, *numbers in _ROW.findall(text))
    return rows if rows and rows[-1].device == HOST else ()


class Told(NamedTuple):
    """What a host's llama-fit-params says of one server."""

    rows: tuple[Row, ...]
    why: str = ""
    """Why there are no rows."""

    @classmethod
    def of(cls, plain: Sequence[Any]) -> Told:
        """Return it from plain values, as JSON has it."""
        rows, why = plain
        return cls(tuple(Row(*row) for row in rows), str(why))


@dataclass(frozen=True)
class Need:
    """What a server needs, in bytes."""

    own: Mapping[str, int]
    """By device and HOST, what no other process shares."""
    mapped: int = 0
    """Of the host's memory, the weights of its file, which all servers of that file share."""
    parts: Mapping[str, int] = field(default_factory=dict)
    """Of ``own``, what llama-fit-params does not count and we add: process, repacked, outputs, projector,
    beside, prompts."""
    estimated: str = ""
    """Why it is an estimate from the header and not what llama-fit-params says; empty if it is that."""

    def total(self, device: str = HOST) -> int:
        return self.own.get(device, 0) + (self.mapped if device == HOST else 0)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Need:
        return cls(**plain)


def shown(size: int) -> str:
    """Return bytes for people, in GiB, or MiB where it is less than one."""
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{-(-size // MIB)} MiB"
