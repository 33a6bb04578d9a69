"""What stands in the way of a deployment: from collected facts to findings, each with its remedy. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from magi.domain import (
    Host,
    Inventory,
    PlanError,
    PlanSettings,
    Profile,
    Running,
    State,
    Way,
    address_from,
    build_plan,
    counted,
    exposed,
    find_cause,
    foreign_listeners,
    not_on_device,
    open_to_all,
    printable,
    way_to_reach,
)

OK, WARNING, PROBLEM = "ok", "warning", "problem"
TARGET_PYTHON = (3, 9)
CONTROLLER_PYTHON = (3, 11)
ANSIBLE_CORE = (2, 19)


@dataclass(frozen=True)
class Finding:
    severity: str
    """``problem``: a deployment fails, or does not serve; ``warning``: it works, but know this; ``ok``."""
    check: str
    """What was checked, as a stable word."""
    host: str | None
    """None: the machine."""
    message: str
    """What was found and, unless it is ok, the remedy."""


@dataclass(frozen=True)
class Machine:
    """Facts about the machine that magi runs on."""

    python: str
    ansible_core: str | None
    """None: it can't be imported."""
    collection: str | None
    """Where magi.models was found; None: nowhere."""
    ssh: bool
    """Whether there is an SSH client."""


@dataclass(frozen=True)
class Examined:
    """Facts about one host; None: the run did not get that far."""

    name: str
    unreachable: str | None = None
    errors: tuple[str, ...] = ()
    """The messages of failed tasks."""
    warnings: tuple[str, ...] = ()
    python: str | None = None
    settings: Mapping[str, Any] | None = None
    way: Way | None = None
    gateways: Mapping[str, Way] = field(default_factory=dict)
    """How Ansible gets to each gateway, by its name."""
    registry: Mapping[str, Any] | None = None
    host: Host | None = None


_OF_THE_REGISTRY = ("There is no registry at ", "The registry ")
"""How the module model_registry begins what it says of the registry's own file."""


def collect(results: Iterable[tuple[str, str, Mapping[str, Any]]]) -> dict[str, Examined]:
    """Return what ``results`` say of the hosts: triples of host, ``ok``, ``failed`` or ``unreachable``, and a module's
    result, as they came in a run of playbooks/doctor.yml."""
    found: dict[str, Examined] = {}
    for name, status, result in results:
        host = found.setdefault(name, Examined(name))
        said = " ".join(str(result.get("msg", "")).split())
        for words in ("Task failed: ", "Module failed: "):
            said = said.removeprefix(words)
        if status == "unreachable":
            host = replace(host, unreachable=said)
        elif status == "failed":
            host = replace(host, errors=(*host.errors, said or "a task failed and did not say why; run it with -vvv."))
        elif "origins" in result:
            gateways = {name: Way(**way) for name, way in result["gateways"].items()}
            host = replace(host, settings=result["settings"], way=Way(**result["way"]), gateways=gateways)
        elif "registry_path" in result:
            # A registry that is not there, or can't be used, is made anew by the next deployment.
            missing = tuple(item for item in result.get("warnings") or () if not item.startswith(_OF_THE_REGISTRY))
            host = replace(host, registry=result, warnings=missing)
        elif "host" in result:
            host = replace(host, host=Host.from_dict(result["host"]))
        elif "ansible_python" in result.get("ansible_facts", {}):
            facts = result["ansible_facts"]
            version = facts["ansible_python"]["version"]
            python = _dotted([version[part] for part in ("major", "minor", "micro")])
            host = replace(host, python=python)
        found[name] = host
    return found


def findings(
    machine: Machine, hosts: Mapping[str, Examined], profiles: Mapping[str, Profile], profile_problems: Sequence[str]
) -> list[Finding]:
    """Return all findings, the controller's first, then those of each host; in each the worst first.

    ``profiles`` has the active one of each host by name, unless it can't be used, which ``profile_problems`` say.
    """
    found = [*_machine(machine, hosts)]
    found += [Finding(PROBLEM, "profile", None, problem) for problem in profile_problems]
    found += [
        Finding(OK, "profile", None, f"profile {name} is sound") for name in sorted({p.name for p in profiles.values()})
    ]
    for host in hosts.values():
        found += sorted(
            _host(host, profiles.get(host.name)), key=lambda item: (PROBLEM, WARNING, OK).index(item.severity)
        )
    return found


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def _machine(machine: Machine, hosts: Mapping[str, Examined]) -> Iterator[Finding]:
    def finding(good: bool, check: str, fine: str, wrong: str) -> Finding:
        return Finding(OK if good else PROBLEM, check, None, fine if good else wrong)

    yield finding(
        _version(machine.python) >= CONTROLLER_PYTHON,
        "python",
        f"Python {machine.python}",
        f"Python {machine.python} is too old; run magi with {_dotted(CONTROLLER_PYTHON)} or later.",
    )
    core = machine.ansible_core
    yield finding(
        core is not None and _version(core) >= ANSIBLE_CORE,
        "ansible_core",
        f"ansible-core {core}",
        f"ansible-core {core or 'is missing'}; install {_dotted(ANSIBLE_CORE)} or later, with the same Python.",
    )
    yield finding(
        machine.collection is not None,
        "collection",
        f"collection magi.models in {machine.collection}",
        "the collection magi.models is not found; run magi in the project's folder.",
    )
    if not machine.ssh and any(host.unreachable for host in hosts.values()):
        yield Finding(PROBLEM, "ssh", None, "there is no ssh program; install an SSH client (Debian: openssh-client).")


def _host(host: Examined, profile: Profile | None) -> Iterator[Finding]:
    def finding(severity: str, check: str, message: str) -> Finding:
        return Finding(severity, check, host.name, printable(message.removeprefix(f"Host {host.name}: ")))

    if host.unreachable is not None:
        said = host.unreachable.rstrip(".") or "no answer"
        remedy = way_to_reach(said, "check its address, its SSH key, and that it is up")
        yield finding(PROBLEM, "connection", f"can't be reached ({said}); {remedy}.")
        return
    for error in host.errors:
        yield finding(PROBLEM, "task", error)
    if host.python and _version(host.python) < TARGET_PYTHON:
        need = f"install {_dotted(TARGET_PYTHON)} or later and set ansible_python_interpreter"
        yield finding(PROBLEM, "python", f"its Python {host.python} is too old; {need}.")
    elif host.python:
        yield finding(OK, "connection", f"reached, with Python {host.python}")
    for warning in host.warnings:
        yield finding(WARNING, "models", warning)
    if host.host is None or host.settings is None:
        return
    for check in (_binary, _gpu, _readable, _ports, _memory, _running, _deployment, _reach):
        for severity, name, message in check(host, host.host, profile):
            yield finding(severity, name, message)


_Found = Iterator[tuple[str, str, str]]
"""Severity, check and message."""


def _binary(_examined: Examined, host: Host, _profile: Profile | None) -> _Found:
    if host.binary is None:
        yield PROBLEM, "binary", host.binary_error
    else:
        yield OK, "binary", f"llama-server {host.binary.version} at {host.binary.path}"


def _gpu(examined: Examined, host: Host, _profile: Profile | None) -> _Found:
    """A build that can't use the GPU which there is, unless the host's options leave the GPU alone."""
    options = {str(key).replace("-", "_"): str(value) for key, value in (examined.settings or {})["options"].items()}
    meant = options.get("n_gpu_layers") == "0" or options.get("device") == "none"
    if host.gpus and host.binary and host.binary.devices == () and not meant:
        yield (
            WARNING,
            "gpu",
            f"llama-server at {host.binary.path} finds no GPU, though there is one ({', '.join(host.gpus)}), and "
            "computes on the CPU; set llama_server_backend (auto, cuda, rocm or vulkan) and run magi prepare, or "
            "n_gpu_layers: 0 in model_server_options if that is meant.",
        )


def _readable(examined: Examined, host: Host, _profile: Profile | None) -> _Found:
    for item in host.unreadable:
        yield PROBLEM, "models", item.sentence(host.can.own_user)
    if examined.registry is None:
        return
    models, rejected = examined.registry["models"], examined.registry["rejected"]
    folders = ", ".join(examined.registry["scan_paths"])
    if models and not host.unreadable:
        yield OK, "models", f"models in {folders}: {len(models)}, all of which the servers may read"
    if rejected:
        yield (
            WARNING,
            "models",
            f"files in {folders} that can't be served: {len(rejected)}; magi discover says why for each.",
        )


def _ports(examined: Examined, host: Host, _profile: Profile | None) -> _Found:
    settings = examined.settings or {}
    first, last = settings["port_range"]
    taken = foreign_listeners(host.listeners, settings["host"])
    for port in sorted(port for port in taken if first <= port <= last):
        owner = taken[port]
        by = "a process that can't be seen from here" if owner.pid is None else f"process {owner.pid} ({owner.command})"
        yield (
            WARNING,
            "ports",
            f"port {port} is taken by {by}; a deployment skips it, unless the profile fixes this port: stop the "
            "process, or change model_server_port_range.",
        )
    ours = {item.port for item in host.instances if item.port}
    free = sum(port not in taken and port not in ours for port in range(first, last + 1))
    yield OK, "ports", f"free ports from {first} to {last}: {free}; held by instances: {len(ours)}"


def _memory(examined: Examined, host: Host, profile: Profile | None) -> _Found:
    """The weights that the profile enables, compared with the memory; a model of several instances is mapped once."""
    if profile is None or examined.registry is None:
        return
    models = examined.registry["models"]
    sizes = {
        str(entry): {m["id"]: m["size_bytes"] for m in models if entry.matches(m["id"], m["tier"], m["task"])}
        for entry in profile.entries
    }
    pools = {str(entry): entry.loaded for entry in profile.entries if entry.kind == "pool"}
    single = {model: size for entry, found in sizes.items() if entry not in pools for model, size in found.items()}
    need = sum(size for model, size in single.items() if not any(model in sizes[pool] for pool in pools))
    need += sum(size for pool, loaded in pools.items() for size in sorted(sizes[pool].values())[-loaded:])
    there = host.memory_bytes
    said = f"the models of profile {profile.name} have {need / 2**30:.1f} GiB, the memory {there / 2**30:.1f} GiB"
    if need > there and not host.gpu:
        yield WARNING, "memory", f"{said}; enable fewer, or smaller quantizations."
    else:
        yield OK, "memory", said


def _running(examined: Examined, host: Host, _profile: Profile | None) -> _Found:
    if host.at_work:
        yield WARNING, "deployment", f"{host.at_work.deployment} is changing it right now; wait until that has ended."
    for item in host.instances:
        if item.state in (State.FAILED, State.BACKOFF):
            cause = find_cause(item.log, item.exit_status, item.memory_max)
            yield PROBLEM, "instances", f"{item.name} is {item.state}: {cause.detail}; then run magi up again."
        elif item.fell_back:
            cause = not_on_device(item.environment.get("MAGI_GPU", "the GPU"), item.fell_back)
            yield PROBLEM, "instances", f"{item.name}: {cause.detail}."
        elif item.state is State.ORPHANED:
            yield PROBLEM, "instances", f"{item.name} (process {item.pid}) outlived its service manager; run magi up."


def _deployment(examined: Examined, host: Host, profile: Profile | None) -> _Found:
    """What a deployment itself would say: make the plan and throw it away. Without a plan, what it would warn of."""
    plan, settings = None, examined.settings or {}
    if host.binary and examined.registry is not None and examined.settings is not None and profile:
        try:
            plan = build_plan(
                host_name=examined.name,
                profile=profile,
                inventory=Inventory.from_dict(examined.registry),
                host=replace(host, unreadable=()),  # said above
                settings=PlanSettings.of(examined.settings),
                scan_paths=examined.registry["scan_paths"],
                lost=examined.registry.get("lost", ()),
            )
        except PlanError as error:
            yield PROBLEM, "plan", str(error)
    if plan:
        for warning in (*plan.degraded, *plan.warnings):
            yield WARNING, "plan", warning
        yield OK, "plan", f"profile {plan.profile} results in {counted(len(plan.instances), 'instance')}"
    for path in () if plan else host.silent_configs:
        yield (
            WARNING,
            "config",
            f"llama-server also reads {path}, which no profile knows of; move it away or keep in mind that it sets "
            "options.",
        )
    said = open_to_all(plan.instances) if plan else ()
    open_ones = [item for item in host.instances if item.pid and item.name not in said and _open(item)]
    for item in open_ones:
        bound = item.environment["LLAMA_ARG_HOST"]
        yield (
            WARNING,
            "exposure",
            f"{item.name} listens on {bound}, port {item.port}, without an API key, so anyone who reaches the port "
            "can use it; set the option api_key_file, or model_server_host: 127.0.0.1, and run magi up.",
        )
    options = {str(key).replace("-", "_") for key in (*(profile.options if profile else ()), *settings["options"])}
    if not plan and not open_ones and exposed(settings["host"]) and "api_key_file" not in options:
        yield (
            WARNING,
            "exposure",
            f"servers are to listen on {settings['host']} without an API key, unless the profile sets one, so whoever "
            "reaches a port could use them; set the option api_key_file, or model_server_host: 127.0.0.1.",
        )


def _reach(examined: Examined, host: Host, _profile: Profile | None) -> _Found:
    """Servers where a gateway on another host can't reach them: of those that run, else of those to come."""
    running = {item.environment.get("LLAMA_ARG_HOST", "") for item in host.instances if item.pid}
    name, way = examined.name, examined.way or Way()
    for bound in sorted(filter(None, running or {(examined.settings or {})["host"]})):
        apart = [
            gateway for gateway, its in examined.gateways.items() if not address_from(gateway, its, bound, name, way)
        ]
        if apart:
            how = "their containers' ports are published" if host.can.image else "they listen"
            yield (
                WARNING,
                "reach",
                f"its servers can't be reached from {', '.join(apart)} (model_gateways): {how} at {bound} alone; set "
                "model_server_host to an address that others reach, or to 0.0.0.0, and run magi up.",
            )


def _open(item: Running) -> bool:
    """Whether anyone who reaches the port of an instance can use it."""
    return (
        exposed(item.environment.get("LLAMA_ARG_HOST", ""))
        and not item.server
        and "MAGI_API_KEY_FILE" not in item.environment
    )
