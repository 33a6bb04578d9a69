# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a host is: its llama-server, instances, listeners, cores and memory. Pure."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ansible_collections.magi.models.plugins.module_utils._base.addresses import overlaps
from ansible_collections.magi.models.plugins.module_utils._base.states import State
from ansible_collections.magi.models.plugins.module_utils._services.values import Capabilities

if TYPE_CHECKING:  # a look at the instances alone needs no binary
    from ansible_collections.magi.models.plugins.module_utils._llama.options import Binary


WORKER = "MAGI_WORKER"
"""The variable of a worker's process (ggml-rpc-server): the server that uses it, as host/instance."""


@dataclass(frozen=True)
class Unreadable:
    """A file or folder that keeps the servers' user from files that they need."""

    at: str
    mode: str
    """As ls shows it (``drwx------``), or ``hidden`` if the service does not see it at all, or ``covered`` if it would
    cover a folder of the image."""
    paths: tuple[str, ...]
    """What can't be read."""

    def sentence(self, own_user: bool) -> str:
        """Return what it keeps from whom, and the remedy; ``own_user`` as in Capabilities."""
        what = self.paths[0] if len(self.paths) == 1 else f"{self.paths[0]} and {len(self.paths) - 1} more"
        if self.mode == "hidden":
            return (
                f"{self.at} lies in a home folder, of which the servers see model_server_scan_paths and the folder of "
                "llama_server_path alone; move it, or name the folder that it really lies in."
            )
        if self.mode == "covered":
            return f"{self.at} has {what}, and would cover that folder of the image; move it to a folder of its own."
        who = "the servers run as a user of their own" if own_user else "the servers run as this user"
        bits = ("o+x" if self.mode.startswith("d") else "o+r") if own_user else "u+rX"
        effect = "is not readable for the servers" if self.paths == (self.at,) else f"keeps the servers from {what}"
        return f"{self.at} ({self.mode}) {effect}: {who}; chmod {bits} {self.at}."


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket. ``pid`` and ``command`` are None if we may not see its owner."""

    address: str
    port: int
    pid: int | None = None
    command: str | None = None
    instance: str | None = None
    """Name of our instance that holds it."""


def memory_limit(environment: Mapping[str, str]) -> str | None:
    """Return the memory_max of an instance, from its environment."""
    found = re.search(r"(?:^| )memory_max=(\S+)", environment.get("MAGI_RESOURCES", ""))
    return found.group(1) if found else None


@dataclass(frozen=True)
class Running:
    """One instance as it is on the host now."""

    name: str
    state: State
    pid: int | None = None
    port: int | None = None
    config_hash: str | None = None
    """The hash of what the process was started with; also for a failed one, if known."""
    started_at: float | None = None
    """Seconds since the epoch; for a failed one, its last start."""
    keys_changed: bool = False
    """Its API key file was written after its start, at which it reads the keys."""
    exit_status: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    """The LLAMA_ARG_* and MAGI_* variables of the process, secrets left out."""
    log: tuple[str, ...] = ()
    """The last lines it printed, if it failed or does not answer."""
    health: int | None = None
    """HTTP status of /health, 0 without an answer; None: not asked. A worker speaks no HTTP: 200 if it listens."""
    model_ids: tuple[str, ...] | None = None
    """The ids that a healthy one lists at /v1/models; None: not asked or no answer."""
    own_memory: int | None = None
    """The bytes of the host's memory that it alone has; None if unknown."""
    used_memory: int | None = None
    """The bytes of the host's memory that it uses, with its share of what others use, too; None: not asked, unknown."""
    used_gpu: int | None = None
    """The bytes of all GPUs that it uses; None: not asked, or the driver does not tell."""
    fell_back: str = ""
    """The line in which it said at its start that it could not use the GPU that it should, and so computes on the
    CPU."""
    asleep: bool = False
    """It is idle and has freed its memory; the next request wakes it. A pool: none of its models is in memory."""
    models: Mapping[str, str] | None = None
    """Of a pool, by id of a model: unloaded, loading, loaded, sleeping or failed; None: no pool, or no answer."""
    manager: str = ""
    """What runs it, if that is not the host's service manager but one that was chosen before."""

    @property
    def server(self) -> str:
        """Of a worker: the server that uses it, as host/instance; empty: it is a server itself."""
        return self.environment.get(WORKER, "")

    @property
    def memory_max(self) -> str | None:
        """The limit that it was given; None: none."""
        return memory_limit(self.environment)


@dataclass(frozen=True)
class Generation:
    """The applied state of a host: counts up with each deployment that changed something."""

    number: int = 0
    digest: str = ""
    applied_by: str = ""
    applied_at: str = ""
    """UTC, ISO 8601."""
    profile: str = ""
    began_at: float = 0
    """When its deployment began, in seconds since the epoch by the controller's clock: the same on all its hosts. A
    rollback brings back that, too."""

    def same(self, other: Generation) -> bool:
        """Whether nobody has changed the host between the two."""
        return (self.number, self.digest) == (other.number, other.digest)


@dataclass(frozen=True)
class Holder:
    """The process that changes a host for a deployment, as the lock that it holds names it."""

    deployment: str
    """For people: user, controller and process."""
    controller: str = ""
    """Tells the controller's machine, boot and process namespace from all others; empty if unknown."""
    controller_pid: int = 0
    pid: int = 0
    """On the host."""
    start_time: int = 0
    """When ``pid`` was started, in clock ticks since the host's boot (proc(5), stat): a pid may be used again."""


_NODES = {"CUDA": r"/dev/(nvidia|nvhost|nvgpu|dxg)", "ROCm": r"/dev/(kfd|dxg)"}
"""By backend, the nodes of the GPUs that it is for."""


@dataclass(frozen=True)
class Claim:
    """The claim of a deployment to a host, from its first look at it until it has changed it."""

    deployment: str
    """For people: user, controller and process."""
    controller: str
    """As in Holder."""
    controller_pid: int
    controller_started: int
    """When ``controller_pid`` was started (start_time); 0 if unknown."""
    profile: str
    hosts: tuple[str, ...]
    """All hosts of the deployment, by the names that it has for them; () once it has ended here."""
    seconds: int
    """How long it holds, should nobody end it."""
    at: float = 0
    """When it was made, by the host's clock, in seconds since the epoch."""
    ended: bool = False
    """It is kept for a while: others tell by it who came first."""

    def same(self, other: Claim) -> bool:
        """Whether both are of one deployment."""
        return self._identity == other._identity

    @property
    def _identity(self) -> tuple[str, str, int, int]:
        return self.deployment, self.controller, self.controller_pid, self.controller_started

    def holds(self, now: float) -> bool:
        return abs(now - self.at) < self.seconds

    def decider(self, other: Claim) -> str | None:
        """Return the host whose first comer goes on, of two deployments: the first of those that both name."""
        return min({*self.hosts} & {*other.hosts}, default=None)

    @property
    def sentence(self) -> str:
        """Why another deployment is refused, without a full stop."""
        since, until = (
            time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when)) for when in (self.at, self.at + self.seconds)
        )
        return (
            f"another deployment is at work: {self.deployment}, with profile {self.profile} since {since}; this one "
            f"changes nothing: wait for the other, then run again (if it was killed, its claim ends at {until})"
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Claim:
        return cls(**{**data, "hosts": tuple(data["hosts"])})


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
    """Device nodes, whether or not llama-server can use them."""
    gpu_groups: tuple[str, ...] = ()
    """The groups that own GPUs' nodes, of those that this host has."""
    listeners: tuple[Listener, ...] = ()
    instances: tuple[Running, ...] = ()
    generation: Generation = field(default_factory=Generation)
    silent_configs: tuple[str, ...] = ()
    """Configuration files that this llama-server would read before its environment."""
    available_bytes: int | None = None
    """The memory that new processes can have; None if unknown."""
    looked_at: float = 0
    """When its instances were looked at, in seconds since the epoch, by its own clock."""
    at_work: Holder | None = None
    """The deployment that is changing the host now."""
    unreadable: tuple[Unreadable, ...] = ()
    """What keeps the servers from the files in question."""
    refused: tuple[str, ...] = ()
    """For each set of options in question, what its llama-server says against it; empty where it takes it."""
    can: Capabilities = field(default_factory=Capabilities)
    """The capabilities of its service manager."""
    worker_path: str = ""
    """Its ggml-rpc-server; empty: there is none beside llama-server, nor in the PATH."""

    @property
    def gpu(self) -> bool:
        """Whether llama-server uses a GPU here: the host has a node of one, and the build a device for it. The devices
        of other hosts (RPC) have no node."""
        devices = self.binary.devices if self.binary else ()
        return bool(self.gpus and (devices is None or devices)) or any(x.startswith("RPC") for x in devices or ())

    @property
    def lost_gpu(self) -> str:
        """The line in which llama-server says that it can't use the GPU of which the host has a node; else empty."""
        if self.binary is None or self.binary.devices != ():
            return ""
        nodes = next((nodes for backend, nodes in _NODES.items() if backend in self.binary.no_gpu), None)
        return self.binary.no_gpu if nodes and any(re.match(nodes, node) for node in self.gpus) else ""

    def to_dict(self) -> dict[str, Any]:
        states = [{**asdict(item), "state": item.state.value} for item in self.instances]  # Ansible takes plain strings
        rest = asdict(replace(self, binary=None, instances=()))
        return {**rest, "binary": self.binary and self.binary.to_dict(), "instances": states}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Host:
        from ansible_collections.magi.models.plugins.module_utils._llama.options import Binary

        return cls(
            **{
                **data,
                "binary": data["binary"] and Binary.from_dict(data["binary"]),
                "gpus": tuple(data["gpus"]),
                "gpu_groups": tuple(data["gpu_groups"]),
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
                "at_work": data["at_work"] and Holder(**data["at_work"]),
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
