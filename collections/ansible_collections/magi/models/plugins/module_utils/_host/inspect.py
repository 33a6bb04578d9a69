# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Inspecting a host: its llama-server, its instances, and what is in their way. Decides nothing."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.cores import cores
from ansible_collections.magi.models.plugins.module_utils._base.gpus import gpus, memory_of_processes
from ansible_collections.magi.models.plugins.module_utils._base.managers import ENGINES
from ansible_collections.magi.models.plugins.module_utils._base.states import State
from ansible_collections.magi.models.plugins.module_utils._base.text import SECRET
from ansible_collections.magi.models.plugins.module_utils._host.lock import read_generation, read_holder
from ansible_collections.magi.models.plugins.module_utils._host.procfs import (
    available_bytes,
    children,
    gpu_groups,
    listening_sockets,
    listens,
    memory_bytes,
    orphans,
    own_memory,
    process_environment,
    read_listeners,
    sockets_of,
    used_memory,
)
from ansible_collections.magi.models.plugins.module_utils._host.values import (
    WORKER,
    Host,
    Listener,
    Running,
    Unreadable,
)
from ansible_collections.magi.models.plugins.module_utils._llama.client import (
    ask_asleep,
    ask_health,
    ask_models,
    ask_router,
    is_router,
    port_of,
)
from ansible_collections.magi.models.plugins.module_utils._services.choice import (
    SERVICE_OPTIONS,
    chosen,
    others,
    usable,
)
from ansible_collections.magi.models.plugins.module_utils._services.manager import (
    ServiceManager,
    environment_file,
    environment_path,
)
from ansible_collections.magi.models.plugins.module_utils._services.values import ServiceError, Status

_PLACE = ("LLAMA_ARG_HOST", "LLAMA_ARG_PORT")


def asked_at(home: str, name: str, status: Status, sockets: Mapping[str, tuple[str, int]]) -> dict[str, str]:
    """Return the environment for asking an instance: where it listens, and its key files.

    ``sockets`` are all that listen on this host (``listening_sockets``).

    A server can rewrite its own environment in memory, and we may be root: we read no file and talk to no address that
    it names. All comes from the file that we wrote. If a killed deployment has lost a restart, that file is newer than
    the process; so if the kernel tells where the process listens, or its manager what it was started with, that counts.
    """
    own, pid = environment_file(home, name), status.pid
    started = {name: status.environment[name] for name in _PLACE if name in status.environment}
    if pid and started:
        return {**own, **started}
    heard = [sockets[inode] for inode in sockets_of(pid) & sockets.keys()] if pid else []
    if not heard:
        return own
    address, port = min(heard, key=lambda at: (at[1] != port_of(own), at[1], at[0]))
    return {**own, "LLAMA_ARG_HOST": address, "LLAMA_ARG_PORT": str(port)}


def _as_written(home: str, name: str, status: Status) -> bool:
    """Whether an instance was last started from its present file and not from an older one. For one that failed, or
    whose environment can't be seen. Managers tell whole seconds: in doubt, a failed one is started again, and a running
    one is left alone."""
    with contextlib.suppress(OSError):
        written = environment_path(home, name).stat().st_mtime
        if status.started_at is not None and (status.pid or status.state is State.FAILED):
            return written < status.started_at + (1 if status.pid else 0)
    return False


def _keys_changed(environment: Mapping[str, str], status: Status) -> bool:
    with contextlib.suppress(OSError, KeyError, ValueError):
        file = os.stat(environment["MAGI_API_KEY_FILE"])
        written = max(file.st_mtime, file.st_ctime)  # a file moved or copied there (mv, cp -p) may have an older mtime
        return bool(status.pid and status.started_at and written > status.started_at)
    return False


LOG_LINES = 40
"""Lines of log to read for an instance that failed or does not answer: they tell the cause."""


BEGINNING = 200
"""Lines of log to read from the start of an instance: they say whether it uses the GPU."""


@dataclass(frozen=True)
class Survey:
    """The instances of a host as they are now."""

    instances: tuple[Running, ...] = ()
    asked: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By name, the environments for asking them (asked_at)."""


def read_instances(manager: ServiceManager, home: str, *, ask: bool = False) -> Survey:
    """Return the instances of ``home``.

    With ``ask``, each running one is asked whether it is ready and, if so, which models it serves. One that may sleep
    is always asked whether it does: what it needs of a GPU is free then. None of this wakes it.
    """
    status, by = manager.status(), {}
    for other in others(manager, home):
        for name, item in _by_other(other, home).items():
            if item.pid or item.state in (State.BACKOFF, State.FAILED):
                status[name], by[name] = item, other
    managed = {item.pid for item in status.values() if item.pid}
    for name, pid in orphans(home, managed).items():
        if name not in status or not status[name].pid:
            status[name] = Status(State.ORPHANED, pid)
    sockets = listening_sockets()
    asked = {name: asked_at(home, name, item, sockets) for name, item in status.items()}
    on_gpus = memory_of_processes() if ask and any("MAGI_GPU" in where for where in asked.values()) else {}

    def read(name: str) -> Running:
        item, where = status[name], asked[name]
        told = item.environment or (process_environment(item.pid) if item.pid else {})
        # A worker has one client at a time, and a connection of ours would be in its server's way.
        worker = WORKER in where
        health = _health(item.pid, where) if ask and item.pid and port_of(where) else None
        silent = item.state is State.FAILED or health not in (None, 200)
        answers = bool(item.pid and port_of(where) and health in (None, 200))
        models = ask_router(where) if answers and is_router(where) else None
        # The models of a pool are in processes of their own.
        pids = [item.pid, *(children(item.pid) if is_router(where) else ())] if item.pid else []
        written = environment_file(home, name) if not told and _as_written(home, name, item) else {}
        return Running(
            name,
            item.state,
            item.pid,
            port_of(where),
            (told or written).get("MAGI_CONFIG_HASH"),
            item.started_at,
            _keys_changed(where, item),
            item.exit_status,
            {
                key: value
                for key, value in (told or where).items()
                if key.startswith(("LLAMA_ARG_", "MAGI_")) and not SECRET.search(key.replace("API_KEY_FILE", ""))
            },
            tuple(by.get(name, manager).logs(name, LOG_LINES)) if silent else (),
            health,
            ask_models(where) if health == 200 and not worker else None,
            _sum(map(own_memory, pids)),
            _sum(map(used_memory, pids)) if ask else None,
            _sum(map(on_gpus.get, pids)),
            _fell_back(by.get(name, manager), name) if item.pid and _may_fall(where) else "",
            none_loaded(models) if models is not None else answers and "MAGI_IDLE" in where and ask_asleep(where),
            models,
            by[name].name if name in by else "",
        )

    with ThreadPoolExecutor(8) as pool:
        return Survey(tuple(pool.map(read, sorted(status))), asked)


def _health(pid: int, where: Mapping[str, str]) -> int:
    """Return what an instance answers at /health; of a worker, 200 if it listens, else 0."""
    if WORKER in where:
        return 200 if listens(pid) else 0
    return ask_health(where)


def _by_other(other: ServiceManager, home: str) -> dict[str, Status]:
    """Return the status by a manager that was chosen before. Raises ServiceError."""
    try:
        return usable(other).status()
    except ServiceError as error:
        raise ServiceError(
            f"{other.name} was the service manager of {home} before, and can't be asked what it still runs: {error}"
        ) from None


def none_loaded(models: Mapping[str, str]) -> bool:
    """Whether a router has none of its ``models`` (ask_router) in memory."""
    return not {"loaded", "loading"} & {*models.values()}


def _sum(sizes: Iterable[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if known else None


def _may_fall(environment: Mapping[str, str]) -> bool:
    """Whether an instance should compute on a GPU, and would start without it, too: no device is named."""
    return "MAGI_GPU" in environment and not {"LLAMA_ARG_DEVICE", "MAGI_POOL_DEVICE"} & environment.keys()


def _fell_back(manager: ServiceManager, name: str) -> str:
    from ansible_collections.magi.models.plugins.module_utils._llama.help import fell_back  # see read_host

    return fell_back(manager.beginning(name, BEGINNING))


def silent_configs() -> tuple[str, ...]:
    """Return the configuration files that llama-server reads by itself (llama.cpp common/arg.cpp).

    Only those of the machine: an instance has a home folder of its own, so it never reads a user's file.
    """
    path = Path("/etc/llama.cpp/config.ini")
    return (str(path),) if path.exists() else ()


def unreadable(manager: ServiceManager, paths: Iterable[str], folders: Iterable[str]) -> tuple[Unreadable, ...]:
    """Return why the servers can't read existing files, if they see ``folders`` (see obstacle)."""
    bound = [Path(folder) for folder in folders]
    found: dict[tuple[str, str], list[str]] = {}
    for path in paths:
        with contextlib.suppress(OSError):  # others report missing files and broken links
            obstacle = manager.obstacle(Path(path), bound)
            if obstacle:
                found.setdefault(obstacle, []).append(path)
    return tuple(Unreadable(at, mode, tuple(blocked)) for (at, mode), blocked in sorted(found.items()))


def read_host(
    manager: ServiceManager,
    home: str,
    *,
    llama_server_path: str | None = None,
    environment: Mapping[str, str] | None = None,
    option_sets: Iterable[Mapping[str, Any]] = (),
    ports: Iterable[int] = (),
    ask: bool = False,
    must_read: Iterable[str] = (),
    model_folders: Iterable[str] = (),
) -> Host:
    """Read what a plan or a report needs to know about this host.

    The binary is read if its path or image is given, runs with ``environment``, and is to take each of
    ``option_sets``.
    Listeners are those on ``ports`` and on the ports of instances.
    ``must_read`` are files that the servers need, found in ``model_folders``.
    Raises ServiceError when the service manager can't be asked.
    """
    binary, binary_error, refused, worker_path = None, "", (), ""
    if llama_server_path is not None:
        # Imported here: a look at the instances alone needs neither, and each import is compiled again in every call.
        from ansible_collections.magi.models.plugins.module_utils._host.binary import (
            WORKER_PROGRAM,
            find_beside,
            read_binary,
            shut,
        )
        from ansible_collections.magi.models.plugins.module_utils._host.trial import try_options

        binary, binary_error = read_binary(manager, llama_server_path, environment)
        if binary:
            binary_error = shut(manager, binary.path)
            binary = None if binary_error else binary
        if binary:
            refused = try_options(manager, binary, option_sets, environment or {})
            worker_path = (manager.capabilities.workers and find_beside(binary.path, WORKER_PROGRAM)) or ""
    looked_at = time.time()
    instances = read_instances(manager, home, ask=ask).instances
    leases = {item.port for item in instances if item.port}
    program = binary is not None and not manager.capabilities.image
    apart = manager.capabilities.limits  # it gives each instance a cgroup of its own, which is not in ours
    return Host(
        manager=manager.name,
        home=home,
        cores=cores(),
        memory_bytes=memory_bytes(apart),
        available_bytes=available_bytes(apart),
        binary=binary,
        binary_error=binary_error,
        gpus=gpus(),
        gpu_groups=gpu_groups(),
        listeners=_listeners(manager.name, {*ports, *leases}, instances),
        instances=instances,
        generation=read_generation(home),
        looked_at=looked_at,
        silent_configs=() if manager.capabilities.image else silent_configs(),
        at_work=read_holder(home),
        unreadable=unreadable(
            manager,
            [*must_read, *([binary.path] if program and must_read else [])],
            [*model_folders, *([os.path.dirname(binary.path)] if program else [])],
        ),
        refused=refused,
        can=manager.capabilities,
        worker_path=worker_path,
    )


def _listeners(manager: str, ports: Iterable[int], instances: Iterable[Running]) -> tuple[Listener, ...]:
    """Return the listeners on ``ports``. The port of a container, whether ``manager`` runs it or an engine that was
    chosen before, is held by a process of its engine."""
    instances = tuple(instances)
    found = read_listeners(ports, {item.pid: item.name for item in instances if item.pid})
    published = {
        (_bound(address), item.port): item.name
        for item in instances
        if item.pid and (item.manager or manager) in ENGINES
        for address in item.environment.get("LLAMA_ARG_HOST", "127.0.0.1").split(",")
    }
    return tuple(
        replace(item, instance=item.instance or published.get((_bound(item.address), item.port))) for item in found
    )


def _bound(address: str) -> str:
    """Return an address as its listener has it: engines may take one socket for all addresses of both versions."""
    address = address.strip()
    return {"localhost": "127.0.0.1", "::": "0.0.0.0"}.get(address, address)  # noqa: S104 - compared, not bound


HOST_OPTIONS = {
    **SERVICE_OPTIONS,
    "llama_server_path": {"type": "path"},
    "image": {"type": "str", "default": ""},
    "port_range": {"type": "list", "elements": "int", "default": [8080, 8099]},
    "ports": {"type": "list", "elements": "int", "default": []},
    "environment": {"type": "dict", "default": {}},
    "option_sets": {"type": "list", "elements": "dict", "default": []},
}
"""The options of a module that inspects its host (argument specification)."""


def inspect_host(
    *,
    home: str,
    manager: str,
    supervisord_path: str,
    llama_server_path: str | None,
    image: str,
    port_range: Sequence[int],
    ports: Sequence[int],
    environment: Mapping[str, str | None],
    option_sets: Sequence[Mapping[str, Any]],
    identify: bool = False,
    must_read: Sequence[str] = (),
    model_folders: Sequence[str] = (),
    fetch: bool = False,
) -> Host:
    """Return the host, by the options of a module; where servers run in containers, ``image`` takes the place of
    ``llama_server_path``, or llama.cpp's own image of that build, and with ``fetch``, one that is not there is pulled.
    Raises ServiceError; ValueError for a bad port_range."""
    if len(port_range) != 2:
        raise ValueError(f"port_range must be the first and the last port, not {list(port_range)}.")
    services = usable(chosen(manager, home, supervisord_path))
    if llama_server_path and services.capabilities.image:
        from ansible_collections.magi.models.plugins.module_utils._host.binary import upstream_image  # see read_host

        llama_server_path = image or upstream_image(llama_server_path)
        if llama_server_path and fetch:
            services.fetch(llama_server_path)
    return read_host(
        services,
        home,
        llama_server_path=llama_server_path,
        environment={name: str(value) for name, value in environment.items() if value is not None},
        option_sets=option_sets,
        ports=[*range(port_range[0], port_range[1] + 1), *ports],
        ask=identify,
        must_read=must_read,
        model_folders=model_folders,
    )
