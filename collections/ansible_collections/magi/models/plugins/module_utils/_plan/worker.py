# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A model that workers on other hosts compute (llama.cpp's RPC): what each host has of that. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from ansible_collections.magi.models.plugins.module_utils._host.values import WORKER, Host
from ansible_collections.magi.models.plugins.module_utils._llama.need import HOST, Need, shown
from ansible_collections.magi.models.plugins.module_utils._llama.options import Binary
from ansible_collections.magi.models.plugins.module_utils._plan.instance import config_hash, given
from ansible_collections.magi.models.plugins.module_utils._plan.ledger import Shortage, name_of
from ansible_collections.magi.models.plugins.module_utils._plan.need import ON_GPU, PROCESS, PROCESS_WITH_GPU
from ansible_collections.magi.models.plugins.module_utils._plan.values import Instance

ESTIMATED = "the memory of workers is not asked for, since each has one client at a time"


@dataclass(frozen=True)
class RpcWorker:
    """A worker that a host is to run: a ggml-rpc-server, for one server."""

    name: str
    address: str
    port: int
    server: str
    """Who uses it, as host/instance."""
    where: str
    """The entry of the profile."""
    share: tuple[int, ...] | None = None
    """What its server puts on each of its devices, in bytes; None: not known."""


@dataclass(frozen=True)
class Remote:
    """The workers of one server, as the plan of its own host takes them."""

    hosts: tuple[str, ...]
    """Where they are."""
    addresses: tuple[str, ...] = ()
    """Of each, address and port."""
    sizes: tuple[int, ...] = ()
    """The memory of each of their devices, in their order, in bytes."""
    identity: str = ""
    """Changes with whatever the server must be started again for."""
    stale: str = ""
    """Why a server that runs as desired starts again."""
    refused: str = ""
    """Why it is left as it is."""
    warnings: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[str, ...]:
        """The names that the server has for their devices."""
        return tuple(f"RPC{number}" for number in range(len(self.sizes)))

    def options(self, own: Iterable[tuple[int, int]]) -> dict[str, str]:
        """Return the options of its server, on a host whose ``own`` GPUs have so much memory, each with what is free.

        llama-server itself would split by what is free at that moment; by what there is, the split is the same each
        time, and what was counted. Tenths of a GiB: it takes only the proportions.
        """
        sizes = [*self.sizes, *(total for total, _free in own)]
        split = ",".join(str(max(round(size * 10 / (1 << 30)), 1)) for size in sizes)
        return {"rpc": ",".join(self.addresses), **({"tensor_split": split} if len(sizes) > 1 else {})}


@dataclass(frozen=True)
class Rpc:
    """What a host has of models that are computed over RPC, as the fleet decided."""

    workers: tuple[RpcWorker, ...] = ()
    remotes: Mapping[str, Remote] = field(default_factory=dict)
    """By model, the workers of its server here."""
    held: Mapping[str, str] = field(default_factory=dict)
    """By name, the workers that are left as they are, and why."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Rpc:
        def tuples(item: Mapping[str, Any]) -> dict[str, Any]:
            return {name: tuple(value) if isinstance(value, list) else value for name, value in item.items()}

        return cls(
            tuple(RpcWorker(**tuples(item)) for item in data["workers"]),
            {model: Remote(**tuples(item)) for model, item in data["remotes"].items()},
            data["held"],
        )


NO_RPC = Rpc()


def devices_of(host: Host) -> tuple[str, ...]:
    """Return the GPUs that a worker on ``host`` offers; (): the host's processor and memory."""
    return host.binary.default_devices or host.binary.devices or () if host.binary else ()


def sizes_of_devices(host: Host) -> tuple[int, ...]:
    """Return the memory of each device that a worker on ``host`` offers, in bytes."""
    memory = host.binary.device_memory if host.binary else {}
    return tuple(memory.get(name, (1 << 30, 0))[0] for name in devices_of(host)) or (host.memory_bytes,)


def need_of_worker(worker: RpcWorker, host: Host) -> Need | None:
    """Return what a worker needs of its host."""
    if worker.share is None:
        return None
    gpus = devices_of(host)
    if not gpus:
        return Need({HOST: sum(worker.share) + PROCESS}, 0, {"process": PROCESS}, ESTIMATED)
    own = {name: size + ON_GPU for name, size in zip(gpus, worker.share)}
    return Need({**own, HOST: PROCESS_WITH_GPU}, 0, {"process": PROCESS_WITH_GPU}, ESTIMATED)


def make_worker(
    worker: RpcWorker, host: Host, variables: Mapping[str, str | None], threads: int | None, need: Need | None
) -> Instance:
    """Return the instance of a worker on a host that has a binary; ``variables`` are those of the host, None: unset."""
    gpus = ",".join(devices_of(host))
    own = {name: value for name, value in variables.items() if value is not None}
    environment = {
        "LLAMA_ARG_HOST": worker.address,
        "LLAMA_ARG_PORT": str(worker.port),
        "OMP_WAIT_POLICY": "passive",
        **own,
        "MAGI_INSTANCE": worker.name,
        "MAGI_HOME": host.home,
        "MAGI_MODEL_ID": worker.name,
        "MAGI_DISPLAY_NAME": f"Worker of {worker.server}",
        "MAGI_WORKER_PATH": host.worker_path,
        WORKER: worker.server,
        **given({}, own, threads, gpus, need),
    }
    if gpus:  # a start without them fails, and does not fall to the processor
        environment["LLAMA_ARG_DEVICE"] = gpus
    digest = config_hash(environment, (), (), cast(Binary, host.binary))
    return Instance(
        name=worker.name,
        model_id=worker.name,
        display_name=environment["MAGI_DISPLAY_NAME"],
        tier="",
        task="",
        model_path="",
        address=worker.address,
        port=worker.port,
        options={},
        environment={**environment, "MAGI_CONFIG_HASH": digest},
        config_hash=digest,
        threads=threads,
        need=need,
    )


def short_sentences(host: str, workers: Sequence[RpcWorker], shortages: Sequence[Shortage]) -> str:
    """Return why workers don't fit on their host, with the remedy; empty if all do."""
    by_name = {item.name: item for item in workers}
    return " ".join(
        f"{by_name[item.instance].where}: its worker on {host} needs about {shown(item.need)} of "
        f"{name_of(item.device)}, {shown(item.left)} are left, {shown(item.missing)} are missing; add a host to rpc, "
        "lower ctx_size, or free memory there."
        for item in shortages
        if item.instance in by_name
    )
