# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The plan of a host: from profile, registry and host to instances and actions. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.text import counted, printable
from ansible_collections.magi.models.plugins.module_utils._config.profile import Entry, Profile
from ansible_collections.magi.models.plugins.module_utils._host.values import (
    Binary,
    Generation,
    Host,
    Listener,
    Running,
    exposed,
    foreign_listeners,
)
from ansible_collections.magi.models.plugins.module_utils._llama.cause import REPEATED, find_cause
from ansible_collections.magi.models.plugins.module_utils._plan.capacity import share_cores
from ansible_collections.magi.models.plugins.module_utils._plan.instance import (
    Instance,
    InstanceError,
    checked_text,
    config_hash,
    environment_and_args,
    key_file_path,
    local_url,
    resolve_options,
)


class PlanError(ValueError):
    """There is no plan; nothing was touched. The message names the host, what is wrong and the remedy."""


class AskedForError(PlanError):
    """What the profile or the settings ask for is wrong, and nothing on the host."""


@dataclass(frozen=True)
class Action:
    instance: str
    action: str
    """start, restart, stop, keep, or quarantine: left stopped, since it failed for good with just what is desired."""
    reason: str


@dataclass(frozen=True)
class Plan:
    """What a host should run. Every later stage reads this and nothing else."""

    host: str
    profile: str
    manager: str
    home: str
    llama_server_path: str
    generation: Generation
    instances: tuple[Instance, ...]
    actions: tuple[Action, ...]
    models_discovered: int
    models_enabled: int
    degraded: tuple[str, ...] = ()
    """What the profile asks for and this host can't give; a failure where strict is set."""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    strict: bool = False
    gpu: bool = False
    """Whether llama-server computes on one there."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        return cls(
            **{
                **data,
                "generation": Generation(**data["generation"]),
                "instances": tuple(Instance.from_dict(item) for item in data["instances"]),
                "actions": tuple(Action(**item) for item in data["actions"]),
                **{name: tuple(data[name]) for name in ("degraded", "warnings", "notes")},
            }
        )

    def names(self, *actions: str) -> tuple[str, ...]:
        """Return the names of the instances that have one of these actions."""
        return tuple(item.instance for item in self.actions if item.action in actions)


@dataclass(frozen=True)
class Settings:
    """The settings that a plan needs (see _settings)."""

    port_range: tuple[int, int]
    host: str = "127.0.0.1"
    options: Mapping[str, Any] = field(default_factory=dict)
    resources: Mapping[str, str] = field(default_factory=dict)
    strict: bool = False
    retry_quarantined: bool = False

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """Return them from all ``values`` that were settled."""
        given = {item.name: values[item.name] for item in fields(cls)}
        return cls(**{**given, "port_range": tuple(given["port_range"])})


@dataclass(frozen=True)
class Wanted:
    """One instance that the profile enables, before it has a port and threads."""

    name: str
    where: str
    model: Mapping[str, Any]
    entry: Entry
    port: int | None


def enabled(
    profile: Profile, models: Sequence[Mapping[str, Any]], rejected: Sequence[Mapping[str, Any]], host: str
) -> tuple[list[Wanted], list[str]]:
    """Return the instances that ``profile`` enables among ``models``, in its order, and a sentence for each entry
    that finds nothing.

    Tiers and globs enable each model once, and leave alone those that an exact entry names; naming a model exactly
    twice, or with ``instances: 2``, makes two instances.
    """
    by_id = {model["id"]: model for model in models}
    named = {entry.pattern for entry in profile.entries if entry.kind == "model"}
    counts: dict[str, int] = {}
    wanted: list[Wanted] = []
    missing: list[str] = []
    for number, entry in enumerate(profile.entries, 1):
        where = f"Profile {profile.name}, entry {number} ({entry})"
        if entry.kind == "model":
            found = [by_id[entry.pattern]] if entry.pattern in by_id else []
        else:
            matching = [model for model in models if entry.matches(model["id"], model["tier"])]
            found = [model for model in matching if model["id"] not in named and model["id"] not in counts]
            if matching and not found:
                continue  # all enabled by another entry
        if not found:
            missing.append(f"{where}: {_why_missing(entry, by_id, rejected, host)}")
        for model in found:
            for i in range(entry.instances):
                nth = counts[model["id"]] = counts.get(model["id"], 0) + 1
                name = model["id"] if nth == 1 else f"{model['id']}-{nth}"
                wanted.append(Wanted(name, where, model, entry, entry.port if i == 0 else None))
    return _unique(wanted, {model["id"] for model in models}), missing


def _unique(wanted: list[Wanted], ids: set[str]) -> list[Wanted]:
    """Refuse two instances of one name: a second instance of ``x`` and a model whose id is ``x-2``."""
    seen: set[str] = set()
    for item in wanted:
        if item.name in seen or (item.name != item.model["id"] and item.name in ids):
            raise PlanError(
                f"{item.where}: the instance name {item.name} is also another model's id; rename that file."
            )
        seen.add(item.name)
    return wanted


def _files(model: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what a server of ``model`` reads: its file or shards, and the projector beside them."""
    return [*model["files"], *([model["mmproj"]] if model["mmproj"] else [])]


def _why_missing(entry: Entry, ids: Iterable[str], rejected: Sequence[Mapping[str, Any]], host: str) -> str:
    if entry.kind == "model":
        for item in rejected:  # a broken file may lack the quantization that its id had
            if entry.pattern == item["id"] or entry.pattern.startswith(f"{item['id']}-"):
                return f"set aside on {host}: {item['reason']}"
        near = difflib.get_close_matches(entry.pattern, ids, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"no such model on {host}; {hint}playbooks/discover.yml lists those that are."
    aside = [item["reason"] for item in rejected if entry.matches(item["id"], "")]  # of no tier: nothing tells it
    return " Set aside: ".join([f"matches no model on {host}.", *aside[:3]])


def build_plan(
    *,
    host_name: str,
    profile: Profile,
    registry: Mapping[str, Any],
    host: Host,
    settings: Settings,
) -> Plan:
    """Return the plan of the host ``host_name``.

    ``registry`` holds ``models`` and ``rejected`` as the module model_registry returns them.
    Raises PlanError when there is nothing to serve, the binary is missing, an option is unknown or a port is taken.
    """
    if host.binary is None:
        raise PlanError(f"Host {host_name}: {host.binary_error}")
    wanted, degraded = enabled(profile, registry["models"], registry["rejected"], host_name)
    usable = []
    for item in wanted:
        try:
            for file in _files(item.model):
                checked_text(f"{item.where}: the file name of {item.name} on {host_name}", file["path"])
        except InstanceError as error:
            degraded.append(str(error))
        else:
            usable.append(item)
    if not usable:
        raise PlanError(
            f"Host {host_name}: nothing that profile {profile.name} enables is available "
            f"({counted(len(registry['models']), 'model')} discovered), so there is nothing to serve. "
            + " ".join(degraded)
        )
    strict = settings.strict or profile.strict
    if strict and degraded:
        raise PlanError(f"Host {host_name}: strict is set and {' '.join(degraded)}")

    ports, notes = assign_ports(host_name, usable, host, settings)
    instances = tuple(_instances(host_name, usable, ports, host.binary, host, settings, profile))
    actions = tuple(decide(instances, host.instances, profile.name, retry=settings.retry_quarantined))
    kept = {item.instance for item in actions if item.action == "keep"}
    running = {item.name: item for item in host.instances}
    for instance in instances:
        old = running[instance.name].environment.get("LLAMA_ARG_THREADS") if instance.name in kept else None
        if instance.threads and old and old != str(instance.threads):
            notes.append(
                f"{instance.name} keeps {old} threads until its next restart; its share is now {instance.threads}."
            )
    return Plan(
        host=host_name,
        profile=profile.name,
        manager=host.manager,
        home=host.home,
        llama_server_path=host.binary.path,
        generation=host.generation,
        instances=instances,
        actions=actions,
        models_discovered=len(registry["models"]),
        models_enabled=len({item.model_id for item in instances}),
        degraded=tuple(degraded),
        warnings=tuple(_warnings(host_name, instances, host, settings)),
        notes=tuple(notes),
        strict=strict,
        gpu=host.gpu,
    )


def assign_ports(
    host_name: str, wanted: Sequence[Wanted], host: Host, settings: Settings
) -> tuple[dict[str, int], list[str]]:
    """Return the port of each instance by name: fixed by the profile, else the one it holds, else the first free one
    of the range, in profile order; and notes on foreign listeners that were stepped around.

    Raises PlanError, naming port, pid and command, when a port that must be used is taken, or none is left.
    """
    foreign = foreign_listeners(host.listeners, settings.host)
    first, last = settings.port_range
    ports: dict[str, int] = {}
    holder: dict[int, str] = {}

    def take(name: str, port: int) -> None:
        if port in foreign:
            raise PlanError(
                f"Host {host_name}: port {port} of {name} is taken by {_owner(foreign[port])}; "
                "stop it, or give the entry another port."
            )
        if port in holder:
            raise AskedForError(
                f"Host {host_name}: port {port} is fixed for both {holder[port]} and {name}; change one of the two."
            )
        holder[port] = name
        ports[name] = port

    for item in wanted:
        if item.port is not None:
            take(item.name, item.port)
    leases = {item.name: item.port for item in host.instances if item.port is not None}
    for item in wanted:
        lease = leases.get(item.name)
        if item.name not in ports and lease is not None and first <= lease <= last and lease not in holder:
            take(item.name, lease)
    free = (port for port in range(first, last + 1) if port not in holder and port not in foreign)
    for item in wanted:
        if item.name not in ports:
            port = next(free, None)
            if port is None:
                taken = ", ".join(f"{p} by {_owner(foreign[p])}" for p in sorted(foreign) if first <= p <= last)
                raise PlanError(
                    f"Host {host_name}: no free port for {item.name} in {first}-{last}"
                    + (f" (taken: {taken})" if taken else "")
                    + "; widen model_server_port_range."
                )
            take(item.name, port)
    highest = max(ports.values())
    notes = [
        f"Port {port} is taken by {_owner(foreign[port])} and was left out."
        for port in sorted(foreign)
        if first <= port <= min(last, highest)
    ]
    return ports, notes


def _owner(listener: Listener) -> str:
    if listener.pid is None:
        return "a process that cannot be seen from here"
    return f"process {listener.pid} ({listener.command})"


def _instances(
    host_name: str,
    wanted: Sequence[Wanted],
    ports: Mapping[str, int],
    binary: Binary,
    host: Host,
    settings: Settings,
    profile: Profile,
) -> Iterable[Instance]:
    try:
        resolved = [
            resolve_options(
                binary,
                (
                    (f"Profile {profile.name}, options", profile.options),
                    (f"Host {host_name}, model_server_options", settings.options),
                    (item.where, item.entry.options),
                ),
            )
            for item in wanted
        ]
        shares = share_cores(host.cores, [_claim(options, host) for options in resolved])
        for item, options, share in zip(wanted, resolved, shares):
            threads = None if "threads" in options or _on_gpu(options, host) else share
            resources = {**profile.resources, **settings.resources, **item.entry.resources}
            yield _instance(item, options, resources, threads, ports[item.name], binary, settings.host, host.home)
    except InstanceError as error:
        raise AskedForError(f"Host {host_name}: {error}") from None


def _on_gpu(options: Mapping[str, Any], host: Host) -> bool:
    return host.gpu and str(options.get("n_gpu_layers", "auto")) != "0" and options.get("device") != "none"


def _claim(options: Mapping[str, Any], host: Host) -> int | None:
    """Cores that the instance takes by itself; None: it shares. One that computes on a GPU keeps one core busy."""
    if "threads" in options:
        return max(int(options["threads"]), 0) if str(options["threads"]).lstrip("-").isdigit() else 0
    return 1 if _on_gpu(options, host) else None


def _instance(
    item: Wanted,
    options: dict[str, Any],
    resources: Mapping[str, str],
    threads: int | None,
    port: int,
    binary: Binary,
    address: str,
    home: str,
) -> Instance:
    known = {name for option in binary.options for name in option.names}
    # What we decide unless the profile does: never fetch anything, let the drain and Prometheus see the load.
    projector = item.model["mmproj"] and item.model["mmproj"]["path"]
    defaults = {"offline": True, "metrics": True, "mmproj": projector}
    options = {
        **{name: value for name, value in defaults.items() if value is not None and name in known},
        **options,
    }
    environment, extra_args = environment_and_args(binary, options)
    if "LLAMA_ARG_API_KEY_FILE" in environment:
        # A service manager may hand the keys to the server at another path.
        environment["MAGI_API_KEY_FILE"] = key_file_path(item.where, environment["LLAMA_ARG_API_KEY_FILE"])
    environment |= {
        "LLAMA_ARG_MODEL": item.model["path"],
        "LLAMA_ARG_ALIAS": item.name,
        "LLAMA_ARG_HOST": address,
        "LLAMA_ARG_PORT": str(port),
        # Spinning in wait starves the other servers of the host: 2 against 193 tokens/s with four on two cores.
        "OMP_WAIT_POLICY": "passive",
        "MAGI_INSTANCE": item.name,
        "MAGI_HOME": home,
        # For who asks later what runs; the label is not part of what the process is made of.
        "MAGI_MODEL_ID": item.model["id"],
        "MAGI_TIER": item.model["tier"],
        "MAGI_DISPLAY_NAME": printable(item.model["display_name"]),
    }
    if resources:  # known to the process, so that a change of them is one of what it was started with
        environment["MAGI_RESOURCES"] = " ".join(f"{name}={value}" for name, value in sorted(resources.items()))
    if threads is not None:
        environment |= {"LLAMA_ARG_THREADS": str(threads), "MAGI_THREADS": "shared"}
    files = _files(item.model) if projector == options.get("mmproj") else item.model["files"]
    digest = config_hash(environment, extra_args, files, binary)
    return Instance(
        name=item.name,
        model_id=item.model["id"],
        display_name=item.model["display_name"],
        tier=item.model["tier"],
        model_path=item.model["path"],
        address=address,
        port=port,
        options=options,
        environment={**environment, "MAGI_CONFIG_HASH": digest},
        extra_args=extra_args,
        url=local_url(address, port),
        config_hash=digest,
        resources=resources,
        threads=threads,
    )


def decide(
    instances: Iterable[Instance], running: Iterable[Running], profile: str, *, retry: bool = False
) -> Iterable[Action]:
    """Yield one action for each instance that is desired or there, comparing what *runs* with what is desired.

    An instance that its service manager gave up on is left alone (quarantine) while nothing it is made of changes,
    unless ``retry``: a deployment would only crash it again, and wait for it.
    """
    there = {item.name: item for item in running}
    for instance in instances:
        now = there.pop(instance.name, None)
        if now is None:
            yield Action(instance.name, "start", "new in this profile")
        elif now.state == "orphaned":
            yield Action(instance.name, "restart", f"process {now.pid} runs outside its service manager")
        elif now.config_hash == instance.config_hash and not retry and _fails_again(now):
            yield Action(instance.name, "quarantine", f"failed with just this configuration ({now.exit_status})")
        elif now.state not in ("running", "starting"):
            why = f" ({now.exit_status})" if now.exit_status else ""
            yield Action(instance.name, "start", f"was {now.state}{why}")
        elif now.config_hash != instance.config_hash:
            yield Action(instance.name, "restart", _difference(now, instance))
        elif now.keys_changed:
            yield Action(instance.name, "restart", "its file of API keys was changed after it started")
        else:
            yield Action(instance.name, "keep", "runs as desired")
    for name in sorted(there):
        yield Action(name, "stop", f"not enabled by profile {profile}")


def _fails_again(now: Running) -> bool:
    return now.state == "failed" and find_cause(now.log, now.exit_status).code in REPEATED


def _difference(now: Running, instance: Instance) -> str:
    """Say what differs between the running process and the desired one."""

    def shown(environment: Mapping[str, str]) -> dict[str, str]:
        found = {
            key.removeprefix("LLAMA_ARG_").lower(): value
            for key, value in environment.items()
            if key.startswith("LLAMA_ARG_")
        }
        named = {"api_key_file": environment.get("MAGI_API_KEY_FILE"), "resources": environment.get("MAGI_RESOURCES")}
        return {**found, **{key: value for key, value in named.items() if value}}

    old, new = shown(now.environment), shown(instance.environment)
    if "MAGI_THREADS" in instance.environment:
        old.pop("threads", None)
        new.pop("threads", None)
    changes = [
        f"{key} {old.get(key, 'unset')} → {new.get(key, 'unset')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    return ", ".join(changes) or "its model file, arguments or llama-server changed"


def open_to_all(instances: Iterable[Instance]) -> list[str]:
    """Return the names of those that whoever reaches their port can use."""
    return [item.name for item in instances if exposed(item.address) and not item.options.get("api_key_file")]


def _warnings(host_name: str, instances: Sequence[Instance], host: Host, settings: Settings) -> Iterable[str]:
    open_ones = open_to_all(instances)
    if open_ones:
        yield (
            f"Host {host_name}: {', '.join(open_ones)} listen on {settings.host} without an API key, so whoever "
            "reaches the port can use them; set the option api_key_file, or model_server_host: 127.0.0.1."
        )
    limited = [item.name for item in instances if item.resources]
    if limited and host.manager != "systemd":
        yield (
            f"Host {host_name}: {host.manager} can't hold the resources of {', '.join(limited)}, which are left out "
            "there: only systemd limits memory and processor time."
        )
    for path in host.silent_configs:
        yield (
            f"Host {host_name}: llama-server also reads {path}, which no profile knows of; move it away "
            "or keep in mind that it sets options."
        )
