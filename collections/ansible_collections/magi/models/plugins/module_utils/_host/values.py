# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a host is: its llama-server and the options it takes, instances, listeners, cores and memory. Pure."""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Option:
    """One option of a llama-server build, as its ``--help`` shows it (llama.cpp common/arg.cpp)."""

    name: str
    """Canonical name: the last long name that is not a negation, with underscores (``n_gpu_layers``)."""
    names: tuple[str, ...]
    flags: tuple[str, ...]
    """The long flags as typed, for options that have no variable."""
    environment: str | None
    takes_value: bool


@dataclass(frozen=True)
class Binary:
    path: str
    version: str
    """What ``--version`` prints, shortened to one line."""
    identity: str
    """Changes whenever the file at the path does: version, size in bytes and mtime in nanoseconds."""
    options: tuple[Option, ...] = ()
    devices: tuple[str, ...] | None = None
    """Names of the GPUs that this build can compute on here (``CUDA0``); None: it can't list them."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Binary:
        options = tuple(
            Option(**{**item, "names": tuple(item["names"]), "flags": tuple(item["flags"])}) for item in data["options"]
        )
        devices = data["devices"]
        return cls(**{**data, "options": options, "devices": None if devices is None else tuple(devices)})


@dataclass(frozen=True)
class Unreadable:
    """A file or folder that keeps the servers, as the user they run as, from files that they need."""

    at: str
    mode: str
    """As ls shows it (``drwx------``), or ``hidden`` where the service does not see it at all."""
    paths: tuple[str, ...]
    """What can't be read."""


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket. ``pid`` and ``command`` are None where /proc does not let us see the owner."""

    address: str
    port: int
    pid: int | None = None
    command: str | None = None
    instance: str | None = None
    """Name of our instance that holds it."""


@dataclass(frozen=True)
class Running:
    """One instance as it is on the host now."""

    name: str
    state: str
    """running, starting, backoff, failed, stopped, or orphaned (runs outside its service manager)."""
    pid: int | None = None
    port: int | None = None
    config_hash: str | None = None
    """Of what the process was started with; also of one that failed, where that is known."""
    started_at: float | None = None
    """Seconds since the epoch; of one that failed, its last start."""
    keys_changed: bool = False
    """Its file of API keys was written after it started, which reads them once."""
    exit_status: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    """The LLAMA_ARG_* and MAGI_* variables of the process, secrets left out."""
    log: tuple[str, ...] = ()
    """The last lines it printed, where it failed or does not answer."""
    health: int | None = None
    """HTTP status of /health, 0 without an answer; None: not asked."""
    model_ids: tuple[str, ...] | None = None
    """What /v1/models of a healthy one answered; None: not asked or no answer."""


@dataclass(frozen=True)
class Generation:
    """The applied state of a host: counts up with each deployment that changed something."""

    number: int = 0
    digest: str = ""
    applied_by: str = ""
    applied_at: str = ""
    """UTC, ISO 8601."""
    profile: str = ""


@dataclass(frozen=True)
class Worker:
    """The process that changes a host for a deployment, as the lock that it holds names it."""

    deployment: str
    """For people: user, controller and process."""
    controller: str = ""
    """Tells the controller's machine, boot and process namespace from all others; empty where it can't be told."""
    controller_pid: int = 0
    pid: int = 0
    """On the host."""
    start_time: int = 0
    """When ``pid`` was started, in clock ticks since the host's boot (proc(5), stat): a pid may be used again."""


@dataclass(frozen=True)
class Host:
    manager: str
    """systemd or supervisor."""
    home: str
    """Folder of the instance files, absolute."""
    cores: int
    memory_bytes: int
    binary: Binary | None
    binary_error: str = ""
    gpus: tuple[str, ...] = ()
    """Device nodes, whatever llama-server can do with them."""
    listeners: tuple[Listener, ...] = ()
    instances: tuple[Running, ...] = ()
    generation: Generation = field(default_factory=Generation)
    silent_configs: tuple[str, ...] = ()
    """Configuration files that this llama-server would read before its environment."""
    at_work: Worker | None = None
    """A deployment that changes the host at this moment."""
    unreadable: tuple[Unreadable, ...] = ()
    """What keeps the servers from the files that were asked about."""

    @property
    def gpu(self) -> bool:
        """Whether llama-server computes on a GPU here: there is a node of one, and the build has a device for it."""
        return bool(self.gpus and self.binary and (self.binary.devices is None or self.binary.devices))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Host:
        return cls(
            **{
                **data,
                "binary": data["binary"] and Binary.from_dict(data["binary"]),
                "gpus": tuple(data["gpus"]),
                "listeners": tuple(Listener(**item) for item in data["listeners"]),
                "instances": tuple(
                    Running(
                        **{
                            **item,
                            "log": tuple(item["log"]),
                            "model_ids": None if item["model_ids"] is None else tuple(item["model_ids"]),
                        }
                    )
                    for item in data["instances"]
                ),
                "generation": Generation(**data["generation"]),
                "silent_configs": tuple(data["silent_configs"]),
                "unreadable": tuple(
                    Unreadable(**{**item, "paths": tuple(item["paths"])}) for item in data["unreadable"]
                ),
                "at_work": data["at_work"] and Worker(**data["at_work"]),
            }
        )


_FLAGS = re.compile(r"-{1,2}[A-Za-z0-9][\w.-]*(?:,\s+-{1,2}[A-Za-z0-9][\w.-]*)*")


def parse_help(text: str) -> tuple[Option, ...]:
    """Return the options that ``llama-server --help`` lists, those marked as removed left out.

    An option starts in the first column with its flags; a single space before more text means that it takes a value,
    several spaces or the line's end that it doesn't; ``(env: X)`` in its description names its variable
    (llama.cpp common/arg.cpp, ``common_arg::to_string``).
    """
    blocks: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("-") and _FLAGS.match(line) and not line.startswith("-----"):
            blocks.append([line])
        elif blocks and line.startswith(" "):
            blocks[-1].append(line)
    options = []
    for block in blocks:
        head = _FLAGS.match(block[0])
        description = " ".join(block)
        if head is None or "argument has been removed" in re.sub(r"\s+", " ", description):
            continue
        flags = tuple(flag for flag in re.split(r",\s+", head.group()) if flag.startswith("--"))
        names = tuple(flag[2:].replace("-", "_") for flag in flags)
        if not names:
            continue
        positive = [name for name in names if not name.startswith("no_")] or list(names)
        variable = re.search(r"\(env: (\w+)\)", description)
        takes_value = bool(re.match(r" \S", block[0][head.end() :]))
        options.append(Option(positive[-1], names, flags, variable.group(1) if variable else None, takes_value))
    return tuple(options)


_DEVICE = re.compile(r"^  (\S+): .* \(\d+ MiB, \d+ MiB free\)$", re.MULTILINE)
_ON_THE_CPU = {"BLAS", "ZenDNN", "zDNN"}
"""Devices of ggml's kind ACCEL (ggml/src/ggml-*): libraries that the CPU computes with."""


def parse_devices(text: str) -> tuple[str, ...] | None:
    """Return the names of the GPUs that ``llama-server --list-devices`` lists, None where it lists nothing at all
    (llama.cpp common/arg.cpp, ``common_print_available_devices``: every device but the CPU itself)."""
    _before, found, listed = text.partition("Available devices:\n")
    return tuple(name for name in _DEVICE.findall(listed) if name not in _ON_THE_CPU) if found else None


def parse_listeners(table: str) -> tuple[tuple[str, int, str], ...]:
    """Return (address, port, socket inode) of every listening socket of a /proc/net/tcp or tcp6 table (proc(5)).

    Addresses there are hexadecimal words in the machine's byte order.
    """
    found = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 10 or fields[3] != "0A":  # 0A: TCP_LISTEN
            continue
        raw, port = fields[1].split(":")
        words = [int(raw[i : i + 8], 16) for i in range(0, len(raw), 8)]
        packed = struct.pack(f"={len(words)}I", *words)
        address = ipaddress.ip_address(packed)
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        found.append((str(mapped or address), int(port, 16), fields[9]))
    return tuple(found)


_WILDCARDS = {"0.0.0.0", "::"}  # noqa: S104 - recognised, not bound


def reachable(bound: str) -> str:
    """Return the address at which a server bound to ``bound`` (an address, or several with commas) is reached on its
    own host."""
    first = bound.split(",")[0]
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(first, first)  # noqa: S104 - recognised, not bound


def exposed(bound: str) -> bool:
    """Whether a server bound to ``bound`` (an address, several, or a socket's path) can be reached from elsewhere."""

    def loopback(address: str) -> bool:
        try:
            return ipaddress.ip_address(address).is_loopback
        except ValueError:
            return address == "localhost" or address.endswith(".sock")

    return bool(bound) and not all(loopback(address.strip()) for address in bound.split(","))


def overlaps(bound: str, wanted: str) -> bool:
    """Whether a listener on ``bound`` keeps another from binding ``wanted`` on the same port."""

    bound, wanted = (address.replace("localhost", "127.0.0.1") for address in (bound, wanted))
    return bound == wanted or bool(_WILDCARDS & {bound, wanted})


def foreign_listeners(listeners: Iterable[Listener], addresses: str) -> dict[int, Listener]:
    """Return by port the listeners that are not ours and would keep us from binding ``addresses`` (one, or several with
    commas)."""
    wanted = [address.strip() for address in addresses.split(",")]
    return {
        item.port: item
        for item in listeners
        if not item.instance and any(overlaps(item.address, address) for address in wanted)
    }
