# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A llama-server build, and the options that it takes. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

OF_TASK = {"rerank": "LLAMA_ARG_RERANKING", "embedding": "LLAMA_ARG_EMBEDDINGS"}
"""The variable of a server by its model's task; chat has none."""


class Option(NamedTuple):
    """One option of a llama-server build, as its ``--help`` shows it (llama.cpp common/arg.cpp)."""

    name: str
    """Canonical name: the last long name that is not a negation, with underscores (``n_gpu_layers``)."""
    names: tuple[str, ...]
    flags: tuple[str, ...]
    """The long flags as typed, for options that have no variable."""
    environment: str | None
    takes_value: bool
    number: bool = False
    """Whether its value is a number, or one of ``words``."""
    words: tuple[str, ...] = ()
    whole: bool = False
    """Whether that number is known to have no fraction."""


@dataclass(frozen=True)
class Binary:
    path: str
    version: str
    """The output of ``--version``, shortened to one line."""
    identity: str
    """Changes whenever the file at the path does: version, size in bytes and mtime in nanoseconds."""
    options: tuple[Option, ...] = ()
    devices: tuple[str, ...] | None = None
    """Names of the GPUs that this build can compute on here (``CUDA0``); None: it can't list them."""
    default_devices: tuple[str, ...] = ()
    """Those that it takes by itself, in its order; empty where its list does not tell."""
    device_memory: Mapping[str, tuple[int, int]] = field(default_factory=dict, hash=False)
    """By device, its memory and what is free of it now, in bytes."""
    no_gpu: str = ""
    """The line in which it said that it can't use a GPU, while it listed them."""

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON, the options as one string: Ansible templates every value of every task that gets a host,
        and the hundreds of options are nine tenths of one."""
        lists = {
            "devices": self.devices and [*self.devices],
            "default_devices": [*self.default_devices],
            "device_memory": {name: [*sizes] for name, sizes in self.device_memory.items()},
        }
        return {**vars(self), **lists, "options": json.dumps(self.options, separators=(",", ":"))}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Binary:
        rows = json.loads(data["options"])
        devices = data["devices"]
        known = {
            "options": tuple(Option._make(tuple(c) if isinstance(c, list) else c for c in row) for row in rows),
            "devices": None if devices is None else tuple(devices),
            "default_devices": tuple(data["default_devices"]),
            "device_memory": {name: tuple(sizes) for name, sizes in data["device_memory"].items()},
        }
        return cls(**{**data, **known})
