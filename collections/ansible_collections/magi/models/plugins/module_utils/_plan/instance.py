# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One instance: all that its process is started with, and the hash of that. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from ansible_collections.magi.models.plugins.module_utils._base.text import counted, printable
from ansible_collections.magi.models.plugins.module_utils._config.profile import OF_ROUTER
from ansible_collections.magi.models.plugins.module_utils._host.values import Host
from ansible_collections.magi.models.plugins.module_utils._llama.keys import key_file_path
from ansible_collections.magi.models.plugins.module_utils._llama.need import Need
from ansible_collections.magi.models.plugins.module_utils._llama.options import Binary
from ansible_collections.magi.models.plugins.module_utils._models.model import FileVersion
from ansible_collections.magi.models.plugins.module_utils._plan.estimate import number
from ansible_collections.magi.models.plugins.module_utils._plan.ledger import need_text, pool_needs_text
from ansible_collections.magi.models.plugins.module_utils._plan.options import IDLE, InstanceError, environment_and_args
from ansible_collections.magi.models.plugins.module_utils._plan.pool import pool_text
from ansible_collections.magi.models.plugins.module_utils._plan.select import Wanted, files_of
from ansible_collections.magi.models.plugins.module_utils._plan.values import Instance
from ansible_collections.magi.models.plugins.module_utils._services.preset import preset


def make_instance(
    item: Wanted,
    options: dict[str, Any],
    resources: Mapping[str, str],
    variables: Mapping[str, str],
    threads: int | None,
    port: int,
    address: str,
    host: Host,
    gpu: str = "",
    memory: Mapping[str, str] | None = None,
    need: Need | None = None,
    placed: str = "",
    workers: str = "",
) -> Instance:
    """Return the instance ``item`` with its resolved ``options`` on a port of ``host``, which has a binary.

    ``threads`` is the share we give it; None: we give none. ``gpu`` are the devices of the host, for one that is to
    compute on a GPU. ``memory`` are options that we set for the sake of the host's memory, unless ``options`` do.
    ``placed`` says where the fleet had the replicas of its model when it was started, ``workers`` who its workers are.
    Raises InstanceError and KeyFileError.
    """
    binary = cast(Binary, host.binary)
    # What we decide unless the profile does: never fetch anything, let the drain and Prometheus see the load, and do
    # what the model is for: without its option, an embedder's or a reranker's server refuses each request.
    projector = item.model.mmproj and item.model.mmproj.path
    defaults = {"offline": True, "metrics": True, "mmproj": projector, **(memory or {})}
    defaults |= {"embedding": {"embeddings": True}, "rerank": {"reranking": True}}.get(item.model.task, {})
    known = {name: option.name for option in binary.options for name in option.names}  # builds differ in the main name
    shares_prompts = "cache_ram" in defaults and "cache_ram" in known and known["cache_ram"] not in options
    options = {
        **{known[name]: value for name, value in defaults.items() if value is not None and name in known},
        **options,
    }
    environment, extra_args = environment_and_args(binary, options)
    if "LLAMA_ARG_API_KEY_FILE" in environment:
        # A service manager may hand the keys to the server at another path.
        environment["MAGI_API_KEY_FILE"] = key_file_path(item.where, environment["LLAMA_ARG_API_KEY_FILE"])
    environment |= {
        "LLAMA_ARG_MODEL": item.model.path,
        "LLAMA_ARG_ALIAS": ",".join([item.name, *item.entry.aliases]),
        "LLAMA_ARG_HOST": address,
        "LLAMA_ARG_PORT": str(port),
        # Threads that spin while they wait starve the host's other servers: 2 instead of 193 tokens/s with four on two
        # cores.
        "OMP_WAIT_POLICY": "passive",
        **variables,
        "MAGI_INSTANCE": item.name,
        "MAGI_HOME": host.home,
        # For whoever asks later what runs; the label is not part of what the process is made of.
        "MAGI_MODEL_ID": item.model.id,
        "MAGI_TIER": item.model.tier,
        "MAGI_TASK": item.model.task,
        "MAGI_DISPLAY_NAME": printable(item.model.display_name),
    }
    environment |= given(resources, variables, threads, gpu, need)
    idle = number(options, IDLE, 0)
    if idle > 0:
        environment["MAGI_IDLE"] = str(idle)
    if placed:
        environment["MAGI_REPLICAS"] = placed
    if workers:
        # Without its workers, it aborts: that is no defect for a debugger.
        environment |= {WORKERS: workers, "GGML_NO_BACKTRACE": "1"}
    if shares_prompts:
        environment["MAGI_PROMPTS"] = "shared"
    files = files_of(item.model) if projector == options.get("mmproj") else item.model.files
    digest = config_hash(environment, extra_args, files, binary)
    return Instance(
        name=item.name,
        model_id=item.model.id,
        display_name=item.model.display_name,
        tier=item.model.tier,
        task=item.model.task,
        model_path=item.model.path,
        address=address,
        port=port,
        options=options,
        environment={**environment, "MAGI_CONFIG_HASH": digest},
        extra_args=extra_args,
        config_hash=digest,
        aliases=item.entry.aliases,
        resources=resources,
        threads=threads,
        need=need,
    )


def given(
    resources: Mapping[str, str], variables: Mapping[str, str], threads: int | None, gpu: str, need: Need | None
) -> dict[str, str]:
    """Return the variables of a process for what it is given: in its environment, changing that changes what it was
    started with, and whoever asks later what runs is told."""
    found = {
        name: " ".join(f"{key}={value}" for key, value in sorted(values.items()))
        for name, values in (("MAGI_RESOURCES", resources), ("MAGI_ENVIRONMENT", variables))
        if values
    }
    if threads is not None:
        found |= {"LLAMA_ARG_THREADS": str(threads), "MAGI_THREADS": "shared"}
    if gpu:
        found["MAGI_GPU"] = gpu
    if need:
        found["MAGI_NEED"] = need_text(need)
    return found


WORKERS = "MAGI_WORKERS"
"""The variable of a server that workers compute for: who these are."""

_ROUTER = (*OF_ROUTER, "threads_http", "timeout")
"""The options of a pool that are for its server, too; the others are for those that it starts for its models."""


def make_pool(
    item: Wanted,
    members: Sequence[Instance],
    options: Mapping[str, Any],
    resources: Mapping[str, str],
    variables: Mapping[str, str],
    host: Host,
    gpu: str = "",
    need: Need | None = None,
) -> Instance:
    """Return the pool ``item`` of these ``members`` on a host that has a binary: llama-server in router mode.

    What it is given in variables, the servers that it starts for its models inherit; arguments would go over theirs,
    so it has none. Raises InstanceError and KeyFileError.
    """
    binary, first = cast(Binary, host.binary), members[0]
    if not host.can.pools:
        raise InstanceError(
            f"{item.where}: {host.manager} can't run it: pools need systemd or supervisor; set model_server_manager to "
            "one of them there, or take the pool out."
        )
    names = {name for option in binary.options for name in option.names}
    if "models_preset" not in names:
        raise InstanceError(
            f"{item.where}: llama-server ({binary.version}) has no router mode (--models-preset), which a pool needs: "
            "install a later build, or take the pool out."
        )
    environment, _arguments = environment_and_args(
        binary, {name: value for name, value in options.items() if name in _ROUTER}
    )
    if "LLAMA_ARG_API_KEY_FILE" in environment:
        environment["MAGI_API_KEY_FILE"] = key_file_path(item.where, environment["LLAMA_ARG_API_KEY_FILE"])
    for member in members:
        try:
            preset(member.name, member.environment, member.extra_args, member.aliases)
        except ValueError as error:
            raise InstanceError(
                f"{item.where}: {member.name}: {error}; change the option, or rename the file."
            ) from None
    path = f"{host.home}/instances/{item.name}.ini"
    environment |= {
        "LLAMA_ARG_MODELS_PRESET": path,
        "LLAMA_ARG_MODELS_MAX": str(item.at_once),
        "LLAMA_ARG_OFFLINE": "1",
        "LLAMA_ARG_HOST": first.address,
        "LLAMA_ARG_PORT": str(first.port),
        # It would also serve what it finds in the cache of downloads.
        "LLAMA_CACHE": "/nonexistent",
        "OMP_WAIT_POLICY": "passive",
        **variables,
        "MAGI_INSTANCE": item.name,
        "MAGI_HOME": host.home,
        "MAGI_MODEL_ID": item.name,
        "MAGI_TIER": "",
        "MAGI_TASK": "",
        "MAGI_DISPLAY_NAME": f"Pool {item.name} ({item.at_once} of {counted(len(members), 'model')} in memory)",
        "MAGI_POOL": pool_text(members),
    }
    environment |= given(resources, variables, None, gpu, need)
    idle = [item.environment["MAGI_IDLE"] for item in members if "MAGI_IDLE" in item.environment]
    if idle:  # who asks its models keeps one of them awake
        environment["MAGI_IDLE"] = min(idle, key=int)
    # Where it runs on as it is, others count what it has of the host's cores and memory.
    if any("MAGI_THREADS" in part.environment for part in members):
        environment["MAGI_THREADS"] = "shared"
    elif "threads" in options:
        environment["MAGI_POOL_THREADS"] = str(options["threads"])
    prompts = min(sum("MAGI_PROMPTS" in part.environment for part in members), item.at_once)
    if prompts:
        environment["MAGI_PROMPTS"] = str(prompts)
    if "LLAMA_ARG_DEVICE" in first.environment:  # a router that is told so itself would open the GPU
        environment["MAGI_POOL_DEVICE"] = first.environment["LLAMA_ARG_DEVICE"]
    if need:
        environment["MAGI_POOL_NEEDS"] = pool_needs_text({item.name: item.need for item in members if item.need})
    digest = config_hash(environment, [member.config_hash for member in members], (), binary)
    return Instance(
        name=item.name,
        model_id=item.name,
        display_name=environment["MAGI_DISPLAY_NAME"],
        tier="",
        task="",
        model_path=path,
        address=first.address,
        port=first.port,
        options=options,
        environment={**environment, "MAGI_CONFIG_HASH": digest},
        config_hash=digest,
        resources=resources,
        need=need,
        members=tuple(members),
        loaded=item.at_once,
    )


# What may change while a server that people use runs on: its shares of cores and memory, the label, the GPUs of the
# host, where others of its model run.
_SHARES = {"LLAMA_ARG_THREADS": "MAGI_THREADS", "LLAMA_ARG_CACHE_RAM": "MAGI_PROMPTS"}
_NOT_HASHED = (
    *_SHARES,
    *_SHARES.values(),
    "MAGI_DISPLAY_NAME",
    "MAGI_GPU",
    "MAGI_NEED",
    "MAGI_POOL_NEEDS",
    "MAGI_POOL_THREADS",
    "MAGI_REPLICAS",
)


def config_hash(
    environment: Mapping[str, str],
    extra_args: Iterable[str],
    files: Iterable[FileVersion],
    binary: Binary,
) -> str:
    """Return 16 hexadecimal digits, a hash of what a process is made of: its environment (without what may change
    while it runs), arguments, the files of the model and its projector (path, size in bytes, mtime in
    nanoseconds), the binary's path and identity.
    """
    content = {
        "environment": {key: value for key, value in environment.items() if key not in _NOT_HASHED},
        "extra_args": list(extra_args),
        "files": [[item.path, item.size, item.mtime_ns] for item in files],
        "binary": [binary.path, binary.identity],
    }
    for variable, shared in _SHARES.items():
        if shared not in environment and variable in environment:
            content[variable] = environment[variable]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
