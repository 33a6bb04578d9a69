# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a host should run: the plan, and what it is made from. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._base.text import counted
from ansible_collections.magi.models.plugins.module_utils._host.values import Generation
from ansible_collections.magi.models.plugins.module_utils._llama.cause import Cause
from ansible_collections.magi.models.plugins.module_utils._llama.need import Need

STANDS_IN = "MAGI_STANDS_IN"
"""The variable of a process that serves while another restarts: the name of that."""


class PlanError(ValueError):
    """There is no plan, and nothing was touched. The message names the host, what is wrong and the remedy."""


class AskedForError(PlanError):
    """The profile or the settings are wrong, not the host."""


@dataclass(frozen=True)
class Instance:
    """A desired instance. ``name`` is ``<model id>`` or ``<model id>-<n>`` from the second on."""

    name: str
    model_id: str
    display_name: str
    tier: str
    task: str
    """What its model is for: chat, embedding or rerank."""
    model_path: str
    address: str
    """What it binds: an address, or several with commas."""
    port: int
    options: Mapping[str, Any]
    """The resolved options by canonical name, for people; what the process gets is environment and extra_args."""
    environment: Mapping[str, str]
    extra_args: tuple[str, ...] = ()
    """Arguments for options that have no variable in this build."""
    config_hash: str = ""
    aliases: tuple[str, ...] = ()
    """More names that clients may ask for it by."""
    resources: Mapping[str, str] = field(default_factory=dict)
    """Limits that the service manager sets: memory_max, cpu_quota, nice."""
    threads: int | None = field(default=None)
    """Its share of the threads; None where the profile decides or a GPU does the work."""
    need: Need | None = None
    """What it needs of memory; None: not asked."""
    members: tuple[Instance, ...] = ()
    """Of a pool: its models, each as if it ran by itself there; what names, address and port they have, the pool's
    server has."""
    loaded: int = 0
    """Of a pool: how many of them are in memory at the same time, at most."""

    @property
    def each(self) -> tuple[Instance, ...]:
        """What serves one model each: the members of a pool, or the instance itself."""
        return self.members or (self,)

    @property
    def api_key_file(self) -> str | None:
        """The API key file, as the options name it."""
        return self.environment.get("MAGI_API_KEY_FILE")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Instance:
        need = data["need"] and Need.from_dict(data["need"])
        members = tuple(map(cls.from_dict, data.get("members", ())))
        tuples = {name: tuple(data[name]) for name in ("extra_args", "aliases")}
        return cls(**{**data, **tuples, "need": need, "members": members})


@dataclass(frozen=True)
class Action:
    instance: str
    action: ActionKind
    reason: str

    def to_dict(self) -> dict[str, str]:
        return {**asdict(self), "action": self.action.value}  # Ansible's variables are plain strings

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Action:
        return cls(data["instance"], ActionKind(data["action"]), data["reason"])


def overtaken(by: Generation) -> Cause:
    """Return the cause of an instance that does not serve because ``by`` was applied while we waited for it."""
    return Cause(
        "changed_meanwhile",
        f"another deployment changed the host while this one waited: {by.applied_by or 'unknown'} applied profile "
        f"{by.profile or 'unknown'} at {by.applied_at or 'an unknown time'}; run again",
    )


@dataclass(frozen=True)
class ActionResult:
    """The result of an action."""

    action: Action
    launched: bool = True
    """Started and not ended; the health check tells whether it is ready. True for stop and keep, not for quarantine."""
    cause: Cause | None = None
    """Why it does not serve."""
    log: tuple[str, ...] = ()
    ready: bool = False
    """It answers /health with 200; the health check waits for the others."""
    cut: int | None = 0
    """Requests still in flight when the time to wait for them ran out and it was ended; None: it did not say how
    many."""

    @property
    def instance(self) -> str:
        return self.action.instance

    @property
    def cut_off(self) -> str:
        """A sentence about the requests that were cut; empty if none were."""
        if self.cut == 0:
            return ""
        if self.cut is None:
            cut = "requests may have been cut (it did not say how many it had)"
        else:
            cut = f"{counted(self.cut, 'request')} {'was' if self.cut == 1 else 'were'} cut"
        return f"model_server_stop_timeout ran out for {self.instance}: {cut}; raise it where answers take longer."

    @property
    def loads(self) -> bool:
        return self.launched and not self.ready and not self.cause

    def to_dict(self) -> dict[str, Any]:
        """Return it as the module llama_instances does: flat."""
        cause = self.cause or Cause("", "")
        return {
            **self.action.to_dict(),
            "launched": self.launched,
            "cause": cause.code,
            "detail": cause.detail,
            "log": list(self.log),
            "ready": self.ready,
            "cut": self.cut,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ActionResult:
        cause = Cause(data["cause"], data["detail"]) if data["cause"] else None
        return cls(Action.from_dict(data), data["launched"], cause, tuple(data["log"]), data["ready"], data["cut"])


@dataclass(frozen=True)
class Account:
    """A device or the host's memory; in bytes."""

    device: str
    total: int
    room: int
    """What our instances can have of it, all together."""
    given: int
    """What they need of it."""


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
    kept: tuple[Instance, ...] = ()
    """Those that run on as they are, because what they are made of is missing now; their files stay, too."""
    degraded: tuple[str, ...] = ()
    """What the profile asks for and this host can't give; a failure if strict is set."""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    strict: bool = False
    gpu: bool = False
    """Whether llama-server computes on a GPU there."""
    gpu_groups: tuple[str, ...] = ()
    """The groups that own the GPUs' device nodes there."""
    memory: tuple[Account, ...] = ()
    """The host's memory and devices, and what the instances need of them; () where that is not asked."""
    spare_ports: tuple[int, ...] = ()
    """Ports of the range that nothing has, now or once it is applied: for those that stand in for what restarts."""
    workers: tuple[Instance, ...] = ()
    """The workers that servers of other hosts use; no client asks them."""
    restores: float | None = None
    """When the deployment began that it brings back (Generation.began_at); None: it is made from a profile."""

    @property
    def served(self) -> tuple[Instance, ...]:
        """What serves once it is applied: its instances, and those that run on as they are."""
        return (*self.instances, *self.kept)

    def remembered(self) -> Plan:
        """Return what a rollback needs of it: what was to run, not how it came to that."""
        return replace(
            self, generation=Generation(), actions=(), degraded=(), warnings=(), notes=(), memory=(), spare_ports=()
        )

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "actions": [item.to_dict() for item in self.actions]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        return cls(
            **{
                **data,
                "generation": Generation(**data["generation"]),
                **{name: tuple(map(Instance.from_dict, data[name])) for name in ("instances", "kept")},
                "actions": tuple(Action.from_dict(item) for item in data["actions"]),
                "memory": tuple(Account(**item) for item in data["memory"]),
                **{name: tuple(data[name]) for name in ("degraded", "warnings", "notes", "gpu_groups")},
                "spare_ports": tuple(data.get("spare_ports", ())),
                "workers": tuple(map(Instance.from_dict, data.get("workers", ()))),
            }
        )

    def names(self, *actions: ActionKind) -> tuple[str, ...]:
        """Return the names of the instances that have one of these actions."""
        return tuple(item.instance for item in self.actions if item.action in actions)


@dataclass(frozen=True)
class Remembered:
    """What an earlier deployment made of a host."""

    generation: Generation
    plan: Plan
    runnable: bool
    """Its llama-server is still there."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Remembered:
        return cls(Generation(**data["generation"]), Plan.from_dict(data["plan"]), data["runnable"])


@dataclass(frozen=True)
class Share:
    """What a host has of a model with replicas, as the fleet decided."""

    count: int
    why: str = ""
    """Why what is new there comes there, or what is too many ends."""
    since: str = ""
    """What a new one is started with, so that later deployments know where the fleet had them (Siblings)."""
    moved: bool = False
    """Whether what is new there was on a host that is gone."""


@dataclass(frozen=True)
class Settings:
    """The settings that a plan needs (see _settings)."""

    port_range: tuple[int, int]
    host: str = "127.0.0.1"
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str | None] = field(default_factory=dict)
    resources: Mapping[str, str] = field(default_factory=dict)
    strict: bool = False
    missing: str = "keep"
    """What happens to an instance whose model is missing: keep or stop."""
    retry_quarantined: bool = False
    memory: str = "refuse"
    """What happens to a plan with instances that don't fit into memory: refuse, warn, or off, and none is asked."""
    beside: bool = False
    """What is new may start before what goes has ended, and so takes a port of its own while there is one."""
    key_hidden_from: str = ""
    """The group of the inventory whose options have an API key file that others, which count more, hide."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """Return those among ``values``, which are settled."""
        given = {item.name: values[item.name] for item in fields(cls) if item.name in values}
        return cls(**{**given, "port_range": tuple(given["port_range"])})
