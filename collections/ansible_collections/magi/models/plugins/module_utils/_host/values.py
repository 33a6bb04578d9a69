# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a host is: its llama-server, instances, listeners, cores and memory. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.addresses import overlaps
from ansible_collections.magi.models.plugins.module_utils._base.states import State
from ansible_collections.magi.models.plugins.module_utils._llama.options import Binary
from ansible_collections.magi.models.plugins.module_utils._services.values import Capabilities


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
    state: State
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
    """Name of the service manager."""
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
    refused: tuple[str, ...] = ()
    """For each set of options that it was to try, what its llama-server says against it; empty where it takes it."""
    can: Capabilities = field(default_factory=Capabilities)
    """What its service manager can do."""

    @property
    def gpu(self) -> bool:
        """Whether llama-server computes on a GPU here: there is a node of one, and the build has a device for it."""
        return bool(self.gpus and self.binary and (self.binary.devices is None or self.binary.devices))

    def to_dict(self) -> dict[str, Any]:
        states = [{**asdict(item), "state": item.state.value} for item in self.instances]  # Ansible takes plain strings
        return {**asdict(self), "instances": states}

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
                            "state": State(item["state"]),
                            "log": tuple(item["log"]),
                            "model_ids": None if item["model_ids"] is None else tuple(item["model_ids"]),
                        }
                    )
                    for item in data["instances"]
                ),
                "generation": Generation(**data["generation"]),
                "silent_configs": tuple(data["silent_configs"]),
                "refused": tuple(data["refused"]),
                "unreadable": tuple(
                    Unreadable(**{**item, "paths": tuple(item["paths"])}) for item in data["unreadable"]
                ),
                "can": Capabilities(**data["can"]),
                "at_work": data["at_work"] and Worker(**data["at_work"]),
            }
        )


def foreign_listeners(listeners: Iterable[Listener], addresses: str) -> dict[int, Listener]:
    """Return by port the listeners that are not ours and would keep us from binding ``addresses`` (one, or several with
    commas)."""
    wanted = [address.strip() for address in addresses.split(",")]
    return {
        item.port: item
        for item in listeners
        if not item.instance and any(overlaps(item.address, address) for address in wanted)
    }
