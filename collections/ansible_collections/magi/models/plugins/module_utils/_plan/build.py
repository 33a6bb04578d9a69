# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The plan of a host: from profile, registry and host to instances and actions. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.addresses import exposed
from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._base.text import counted, printable
from ansible_collections.magi.models.plugins.module_utils._config.profile import Profile
from ansible_collections.magi.models.plugins.module_utils._host.values import Host
from ansible_collections.magi.models.plugins.module_utils._llama.keys import KeyFileError
from ansible_collections.magi.models.plugins.module_utils._llama.need import Told
from ansible_collections.magi.models.plugins.module_utils._models.model import Inventory
from ansible_collections.magi.models.plugins.module_utils._plan.actions import decide
from ansible_collections.magi.models.plugins.module_utils._plan.capacity import share_threads
from ansible_collections.magi.models.plugins.module_utils._plan.devices import (
    Devices,
    devices,
    meant_for,
    missing,
    stays,
    too_few,
)
from ansible_collections.magi.models.plugins.module_utils._plan.instance import make_instance, make_pool
from ansible_collections.magi.models.plugins.module_utils._plan.layers import (
    option_layers,
    option_set,
    option_sets,
    variables_of,
)
from ansible_collections.magi.models.plugins.module_utils._plan.leave import kept_instance, lacks_projector, leave
from ansible_collections.magi.models.plugins.module_utils._plan.memory import Memory
from ansible_collections.magi.models.plugins.module_utils._plan.options import (
    InstanceError,
    checked_string,
    resolve_options,
)
from ansible_collections.magi.models.plugins.module_utils._plan.ports import assign_ports
from ansible_collections.magi.models.plugins.module_utils._plan.refusal import DoesNotFit, Lacking, sentences
from ansible_collections.magi.models.plugins.module_utils._plan.select import (
    Shares,
    Wanted,
    check_aliases,
    files_of,
    select,
)
from ansible_collections.magi.models.plugins.module_utils._plan.share import explained, moved, since
from ansible_collections.magi.models.plugins.module_utils._plan.values import (
    Action,
    AskedForError,
    Instance,
    Plan,
    PlanError,
    Settings,
)
from ansible_collections.magi.models.plugins.module_utils._plan.worker import (
    NO_RPC,
    Remote,
    Rpc,
    make_worker,
    need_of_worker,
    short_sentences,
)


def build_plan(
    *,
    host_name: str,
    profile: Profile,
    inventory: Inventory,
    host: Host,
    settings: Settings,
    scan_paths: Sequence[str],
    lost: Sequence[str] = (),
    needs: Mapping[str, Told] | None = None,
    shares: Shares = (),
    rpc: Rpc = NO_RPC,
) -> Plan:
    """Return the plan of the host ``host_name``.

    ``scan_paths`` are absolute; ``lost`` are sentences about those that are missing or were emptied. ``needs`` are what
    the host's llama-fit-params said, by the key of the question; None: nobody looks at memory. ``shares`` are what the
    fleet decided that the host has of each entry, ``rpc`` what it has of models that are computed over RPC.

    Raises PlanError when there is nothing to serve, the binary is missing or no port is left, DoesNotFit when memory is
    short, and AskedForError when an option is unknown or two entries fix the same port.
    """
    if host.binary is None:
        raise PlanError(f"Host {host_name}: {host.binary_error}")
    wanted, degraded = select(
        profile, inventory.models, (*inventory.rejected, *inventory.companions), host_name, host.instances, shares
    )
    check_aliases(host_name, wanted, inventory.models)
    usable = []
    covering = {path: each.sentence(True) for each in host.unreadable if each.mode == "covered" for path in each.paths}
    for item in wanted:
        good = []
        for part in item.each:
            try:
                for file in files_of(part.model):
                    checked_string(f"{part.where}: the file name of {part.name} on {host_name}", file.path)
                    if file.path in covering:
                        raise InstanceError(f"{part.where}: {part.name} on {host_name}: {covering[file.path]}")
            except InstanceError as error:
                degraded.append(str(error))
            else:
                good.append(part)
        if good:
            usable.append(replace(item, model=good[0].model, members=tuple(good) if item.members else ()))
    names = {item.name for item in usable}
    remotes = {item.name: rpc.remotes[item.model.id] for item in usable if item.entry.rpc and rpc.remotes}
    options = _options(host_name, usable, host, settings, profile, remotes)
    now = {item.name: item for item in host.instances}
    reasons = {
        item.name: stays(options[item.name], host, now.get(item.name))
        or lacks_projector(item.model, options[item.name], now.get(item.name), inventory, scan_paths, settings)
        for item in usable
    }
    reasons |= {name: item.refused for name, item in remotes.items() if item.refused}
    degraded += [
        f"{item.where}: it does not start on {host_name}: {reasons[item.name]}."
        for item in usable
        if item.name in remotes and reasons[item.name] and not (item.name in now and now[item.name].pid)
    ]
    stay = {name: reason for name, reason in reasons.items() if reason}

    def leave_as_they_are(whom: Mapping[str, str]) -> dict[str, Action]:
        there = [item for item in host.instances if item.name in whom]
        return leave(there, profile, inventory, scan_paths, whom, replace(settings, missing="keep"))

    usable = [item for item in usable if item.name not in stay]
    names |= {item.name for item in rpc.workers}
    undesired = [item for item in host.instances if item.name not in names]
    stay |= rpc.held
    leaving = {**leave(undesired, profile, inventory, scan_paths, {}, settings, shares), **leave_as_they_are(stay)}
    stopping = {name for name, item in leaving.items() if item.action is not ActionKind.KEEP}
    kept = {x.port: x.name for x in host.instances if x.port and x.name in leaving.keys() - stopping}
    kept |= {item.port: item.name for item in rpc.workers}
    ports = assign_ports(host_name, usable, host, settings, kept)
    degraded += [f"Host {host_name}: {reason}." for reason in ports.refused.values()]
    usable = [item for item in usable if item.name not in ports.refused]
    leaving.update(leave_as_they_are(ports.refused))
    runs_on = [item for item in host.instances if item.name in leaving and leaving[item.name].action is ActionKind.KEEP]
    degraded += [f"Host {host_name}: {x.name} runs on as it is: {leaving[x.name].reason}." for x in runs_on]
    degraded += [f"Host {host_name}: {sentence}" for sentence in lost]
    if not usable and ports.refused:
        raise PlanError(" ".join(degraded))
    placed = [share for share in shares if share is not None]
    if not usable and not runs_on and not placed and not rpc.workers:
        raise PlanError(
            f"Host {host_name}: nothing that profile {profile.name} enables is available "
            f"({counted(len(inventory.models), 'model')} discovered), so there is nothing to serve. "
            + " ".join(degraded)
        )
    gpus = {item.name: _devices(host_name, item, options[item.name], host, settings, profile) for item in usable}
    lacking = [missing(item.name, options[item.name], host, gpus[item.name]) for item in usable]
    degraded += [f"Host {host_name}: {sentence}" for sentence in lacking if sentence]
    strict = settings.strict or profile.strict
    if strict and degraded:
        raise PlanError(f"Host {host_name}: strict is set and {' '.join(degraded)}")

    notes = list(ports.notes)
    looks = settings.memory != "off" and needs is not None
    theirs = {item.name: need_of_worker(item, host) if looks else None for item in rpc.workers}
    try:
        memory = Memory(
            inventory, host, settings, profile, needs, usable, options, gpus, runs_on, remotes, [*theirs.values()]
        )
    except InstanceError as error:
        raise AskedForError(f"Host {host_name}: {error}") from None
    gpus = {name: memory.devices(name, found) for name, found in gpus.items()}
    threads = share_threads([*(options[item.name] for item in usable), *({} for _item in rpc.workers)], host, runs_on)
    instances = tuple(
        _instances(host_name, usable, options, gpus, ports.of, host, settings, profile, memory, threads, remotes)
    )
    workers = tuple(
        make_worker(item, host, settings.environment, share, theirs[item.name])
        for item, share in zip(rpc.workers, threads[len(usable) :])
    )
    actions = tuple(decide((*instances, *workers), host.instances, leaving, retry=settings.retry_quarantined))
    actions = tuple(_again(item, remotes) for item in actions)
    if placed:
        actions = explained(actions, usable, host.instances, placed)
    ledger = memory.ledger((*instances, *workers), runs_on, actions)
    short = memory.lacking(ledger)
    if short and settings.memory == "refuse":
        raise DoesNotFit(host_name, short, len(instances))
    short_workers = short_sentences(host_name, rpc.workers, ledger.shortages)
    if short_workers and settings.memory == "refuse":
        raise PlanError(f"Host {host_name}: nothing was changed. {short_workers}")
    notes += memory.notes()
    notes += [
        f"{name} is computed by workers: {', '.join(map(' at '.join, zip(item.hosts, item.addresses)))}."
        for name, item in remotes.items()
        if item.addresses
    ]
    notes += [f"{item.name} computes for {item.server}, which alone uses it." for item in rpc.workers]
    notes += [
        f"Pool {item.name} has {', '.join(part.name for part in item.members)}, at most {item.loaded} of them in "
        "memory at the same time."
        for item in instances
        if item.members
    ]
    environments = [*(item.environment for item in instances), *(item.environment for item in runs_on)]
    unchanged = {item.instance for item in actions if item.action is ActionKind.KEEP}
    for instance in instances:
        old = now[instance.name].environment.get("LLAMA_ARG_THREADS") if instance.name in unchanged else None
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
        models_discovered=len(inventory.models),
        models_enabled=len({part.model_id for item in instances for part in item.each}),
        kept=tuple(kept_instance(item) for item in runs_on if not item.server),
        workers=workers,
        degraded=tuple(degraded),
        warnings=(
            *_short(host_name, short),
            *([f"Host {host_name}: memory is short. {short_workers}"] if short_workers else []),
            *(said for item in remotes.values() for said in item.warnings),
            *_warnings(host_name, instances, host, settings),
            *moved(host_name, usable, host.instances),
        ),
        notes=tuple(notes),
        strict=strict,
        gpu=host.gpu or bool(host.lost_gpu) or any(map(meant_for, environments)),
        gpu_groups=host.gpu_groups,
        memory=ledger.accounts,
        spare_ports=ports.spare,
    )


def _again(action: Action, remotes: Mapping[str, Remote]) -> Action:
    """Return the action of a server, which starts again with its workers."""
    why = remotes[action.instance].stale if action.instance in remotes else ""
    return Action(action.instance, ActionKind.RESTART, why) if why and action.action is ActionKind.KEEP else action


def _options(
    host_name: str,
    wanted: Sequence[Wanted],
    host: Host,
    settings: Settings,
    profile: Profile,
    remotes: Mapping[str, Remote],
) -> dict[str, dict[str, Any]]:
    """Return by name the resolved options of each instance."""
    try:
        _check_trial(host_name, wanted, host, settings, profile)
        found = {
            part.name: resolve_options(host.binary, option_layers(profile, host_name, settings.options, part))
            for item in wanted
            for part in (item, *item.members)
        }
        for item in wanted:
            remote = remotes.get(item.name)
            if remote and not remote.refused and host.binary:
                memory = host.binary.device_memory
                own = [memory[name] for name in host.binary.default_devices if name in memory]
                layers = [(item.where, remote.options(own))]
                found[item.name] = {**resolve_options(host.binary, layers), **found[item.name]}
        return found
    except InstanceError as error:
        raise AskedForError(f"Host {host_name}: {error}") from None


def _devices(
    host_name: str, item: Wanted, options: Mapping[str, Any], host: Host, settings: Settings, profile: Profile
) -> Devices:
    said = too_few(item.entry.devices, options, host)
    if said:
        raise AskedForError(f"Host {host_name}: {item.where}: {said}.")
    now = next((there for there in host.instances if there.name == item.name), None)
    variables = variables_of(profile, settings.environment, item)
    found = devices(options, variables, host, settings.environment, now, item.entry.devices)
    if item.entry.devices is not None and host.binary and host.binary.devices and found.there and not found.named:
        said = f"devices: {item.entry.devices} can't be chosen, as its options or variables say which GPUs it sees"
        raise AskedForError(f"Host {host_name}: {item.where}: {said}; leave one of them out.")
    return found


def _instances(
    host_name: str,
    wanted: Sequence[Wanted],
    options: Mapping[str, dict[str, Any]],
    gpus: Mapping[str, Devices],
    ports: Mapping[str, int],
    host: Host,
    settings: Settings,
    profile: Profile,
    memory: Memory,
    shares: Sequence[int | None],
    remotes: Mapping[str, Remote],
) -> Iterable[Instance]:
    try:
        for item, threads in zip(wanted, shares):
            given, remote = options[item.name], remotes.get(item.name)
            resources = {**profile.resources, **settings.resources, **item.entry.resources}
            variables = variables_of(profile, settings.environment, item)
            for name, value in variables.items():
                checked_string(f"{item.where}: the variable {name}", value)
            own = gpus[item.name]
            chosen = {"device": own.named} if own.named else {}
            made = [
                make_instance(
                    part,
                    {**options[part.name], **chosen},
                    {} if item.members else resources,
                    {} if item.members else variables,
                    # Several models of a pool may compute at the same time.
                    None if threads is None or "threads" in options[part.name] else max(threads // item.at_once, 1),
                    ports[item.name],
                    settings.host,
                    host,
                    own.there,
                    memory.options,
                    memory.need(part.name),
                    since(part, host.instances),
                    remote.identity if remote else "",
                )
                for part in item.each
            ]
            need = memory.need(item.name)
            yield make_pool(item, made, given, resources, variables, host, own.there, need) if item.members else made[0]
    except (InstanceError, KeyFileError) as error:
        raise AskedForError(f"Host {host_name}: {error}") from None


def _check_trial(host_name: str, wanted: Sequence[Wanted], host: Host, settings: Settings, profile: Profile) -> None:
    """Raise InstanceError for options (option_sets) that the host's llama-server was given and refused."""
    tried = list(zip(option_sets(profile, settings.options), host.refused))
    for item in (part for each in wanted for part in each.each):
        given = option_set(option_layers(profile, host_name, settings.options, item))
        said = next((said for options, said in tried if options == given), "")
        if host.binary and not host.binary.devices and "invalid device" in said:
            continue  # the GPU is gone; the option is not wrong
        if said:
            raise InstanceError(
                f"{item.where}: llama-server ({host.binary.version if host.binary else ''}) refuses its options, with "
                f"those of profile and host: {printable(said)}; correct them."
            )


def open_to_all(instances: Iterable[Instance]) -> list[str]:
    """Return the names of the instances that anyone who reaches their port can use."""
    return [item.name for item in instances if exposed(item.address) and not item.options.get("api_key_file")]


def _short(host_name: str, short: Sequence[Lacking]) -> Iterable[str]:
    if short:
        yield f"Host {host_name}: memory is short. {sentences(short)}"


def _warnings(host_name: str, instances: Sequence[Instance], host: Host, settings: Settings) -> Iterable[str]:
    open_ones = open_to_all(instances)
    if open_ones:
        yield (
            f"Host {host_name}: {', '.join(open_ones)} listen on {settings.host} without an API key, so anyone who "
            "reaches the port can use them; set the option api_key_file, or model_server_host: 127.0.0.1."
        )
    keyless = [item.name for item in instances if not item.options.get("api_key_file")]
    if keyless and settings.key_hidden_from:
        yield (
            f"Host {host_name}: the group {settings.key_hidden_from} has an api_key_file in model_server_options, "
            f"which others for this host replace, so {', '.join(keyless)} have no API key; rename the others to "
            "model_server_options_host, and they are laid over the group's."
        )
    limited = [item.name for item in instances if item.resources]
    if limited and not host.can.limits:
        yield (
            f"Host {host_name}: {host.manager} can't apply the resources of {', '.join(limited)}, and leaves them out: "
            "only systemd, docker and podman limit memory and processor time."
        )
    for item in host.unreadable:
        # One that serves goes on, since it has its file open, but couldn't be started again.
        names = [part.name for each in instances for part in each.each if part.model_path in item.paths]
        if names:
            yield f"Host {host_name}: {', '.join(names)} can't be started: {item.sentence(host.can.own_user)}"
    for path in host.silent_configs:
        yield (
            f"Host {host_name}: llama-server also reads {path}, which no profile knows of; move it away "
            "or keep in mind that it sets options."
        )
