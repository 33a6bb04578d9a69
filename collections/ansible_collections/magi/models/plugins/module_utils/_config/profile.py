# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A profile: which models are enabled, how many instances of each, and with which options."""

from __future__ import annotations

import difflib
import fnmatch
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple, Union

from ansible_collections.magi.models.plugins.module_utils._base.text import shown
from ansible_collections.magi.models.plugins.module_utils._config.duration import seconds_of
from ansible_collections.magi.models.plugins.module_utils._config.environment import environment, wrong_variables
from ansible_collections.magi.models.plugins.module_utils._config.resources import resources


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a profile."""

    where: tuple[str | int, ...]
    """The keys and indexes (from 0) that lead to it from the top of the document."""
    message: str
    """A sentence with the entry's number (from 1), what is wrong and the remedy."""


@dataclass(frozen=True)
class Entry:
    """One line of ``enabled_models``: a selector (a tier, a glob over ids or an exact id, with a task or without; or a
    task alone) and its settings."""

    kind: str
    """``tier``, ``glob`` or ``model``; ``pool`` for one of ``pools``, whose name is the pattern."""
    pattern: str
    instances: int = 1
    port: int | None = None
    """The fixed port of the first instance."""
    options: Mapping[str, Any] = field(default_factory=dict)
    resources: Mapping[str, str] = field(default_factory=dict)
    """memory_max, cpu_quota, nice: see resources."""
    environment: Mapping[str, str | None] = field(default_factory=dict)
    """Variables of the process; None takes one back."""
    aliases: tuple[str, ...] = ()
    """More names that clients may ask for the model by."""
    task: str | None = None
    """What the model must be for: chat, embedding or rerank; None: any of them."""
    idle: int | None = None
    """After so many seconds without a request the server frees its memory; None: never."""
    devices: int | None = None
    """How many GPUs each instance is split over; None: as few as hold it. GPUs that are named are the option device."""
    replicas: int | None = None
    """How many instances of each of its models run on all hosts together; None: ``instances`` on each host."""
    hosts: str | None = None
    """An Ansible pattern for the hosts that it is for; None: all."""
    rpc: tuple[str, ...] = ()
    """The hosts whose workers compute its model, by their names in the inventory; empty: its server does it alone."""
    members: tuple[Entry, ...] = ()
    """Of a pool: its models, with the pool's settings below their own."""
    loaded: int = 1
    """Of a pool: how many of its models are in memory at the same time, at most."""

    @property
    def is_placed(self) -> bool:
        """Whether the fleet decides what of it a host has."""
        return self.replicas is not None or self.hosts is not None or bool(self.rpc)

    @property
    def each(self) -> tuple[Entry, ...]:
        """Those that select models: the members of a pool, or the entry itself."""
        return self.members if self.kind == "pool" else (self,)

    def __str__(self) -> str:
        if self.kind == "pool":
            return f"pool {self.pattern}"
        selector = f"tier {self.pattern}" if self.kind == "tier" else self.pattern
        if self.task is None:
            return selector
        return f"task {self.task}" if selector == "*" else f"{selector}, task {self.task}"

    def matches(self, model_id: str, tier: str, task: str | None) -> bool:
        """Whether it selects such a model; ``task`` is None if the model may be for any."""
        if self.kind == "pool":
            return any(item.matches(model_id, tier, task) for item in self.members)
        if None not in (self.task, task) and self.task != task:
            return False
        if self.kind == "tier":
            return tier.upper() == self.pattern
        return fnmatch.fnmatchcase(model_id, self.pattern)


@dataclass(frozen=True)
class Canary:
    """How a deployment is tried on some hosts before it comes to the others."""

    hosts: int = 1
    """How many come first, of those that change and serve already."""
    bake: int = 60
    """Seconds for which they are watched."""
    auto_revert: bool = True
    """What does worse there is taken back."""


@dataclass(frozen=True)
class Profile:
    name: str
    description: str
    entries: tuple[Entry, ...]
    """Those of ``enabled_models``, then the pools."""
    options: Mapping[str, Any]
    strict: bool = False
    resources: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str | None] = field(default_factory=dict)
    canary: Canary | None = None
    """None: all hosts are deployed without a trial."""

    def where(self, index: int) -> str:
        """Return where an entry is, for people; ``index`` is from 0."""
        entry = self.entries[index]
        said = str(entry) if entry.kind == "pool" else f"entry {index + 1} ({entry})"
        return f"Profile {self.name}, {said}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Profile:
        entries = tuple(map(_entry_from, data["entries"]))
        return cls(**{**data, "entries": entries, "canary": Canary(**data["canary"]) if data["canary"] else None})


def _entry_from(data: Mapping[str, Any]) -> Entry:
    members = tuple(map(_entry_from, data["members"]))
    return Entry(**{**data, "aliases": tuple(data["aliases"]), "rpc": tuple(data["rpc"]), "members": members})


_PROFILE = {
    "name": {"type": "str"},
    "description": {"type": "str", "default": ""},
    "enabled_models": {"type": "list", "elements": "raw"},
    "pools": {"type": "list", "elements": "raw"},
    "options": {"type": "dict"},
    "environment": {"type": "dict"},
    "resources": {"type": "dict"},
    "strict": {"type": "bool", "default": False},
    "rollout": {"type": "dict"},
}
_ROLLOUT = {
    "canary": {"type": "int"},
    "bake": {"type": "int", "default": Canary.bake},
    "auto_revert": {"type": "bool", "default": Canary.auto_revert},
}
_ENTRY = {
    "model": {"type": "str"},
    "tier": {"type": "str"},
    "task": {"type": "str"},
    "instances": {"type": "int", "default": 1},
    "replicas": {"type": "int"},
    "hosts": {"type": "raw"},
    "rpc": {"type": "list", "elements": "str"},
    "port": {"type": "int"},
    "aliases": {"type": "list", "elements": "str"},
    "idle": {"type": "str"},
    "devices": {"type": "raw"},
    "options": {"type": "dict"},
    "environment": {"type": "dict"},
    "resources": {"type": "dict"},
}
_MEMBER = {name: _ENTRY[name] for name in ("model", "tier", "task", "aliases", "options")}
_POOL = {
    "name": {"type": "str"},
    "models": {"type": "list", "elements": "raw"},
    "loaded": {"type": "int", "default": Entry.loaded},
    **{name: _ENTRY[name] for name in ("hosts", "port", "idle", "devices", "options", "environment", "resources")},
}
OF_ROUTER = (
    *("api_key_file", "path", "ui", "webui"),
    *("cors_credentials", "cors_headers", "cors_methods", "cors_origins"),
)
"""The options that a pool's own server has, and none of those that it starts for its models."""
_OF_POOL = {
    "device": "its GPUs are those of all its models: set devices of the pool",
    **dict.fromkeys(
        ("main_gpu", "rpc", "split_mode", "tensor_split"),
        "its GPUs are those of all its models: set it in the options of the pool",
    ),
    **dict.fromkeys(OF_ROUTER, "clients ask the pool, and not its models: set it in the options of the pool"),
}
"""The options that a model of a pool can't have for itself, each with the remedy."""
_WORDS = {"bool": "true or false", "dict": "a mapping", "int": "a whole number", "list": "a list", "str": "a string"}


TASKS = ("chat", "embedding", "rerank")
"""What a model may be for."""

ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
"""One more name of a model: llama-server takes several, with commas between them."""


_DEVICE = re.compile(r"[A-Za-z]+\d+")
_POOL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


class _Reader:
    """Takes a document apart and collects the problems instead of stopping at the first."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def refuse(self, where: Iterable[str | int], message: str) -> None:
        self.problems.append(Problem(tuple(where), message))

    def mapping(self, where: tuple[str | int, ...], what: str, data: Any, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of ``data`` by the keys of ``spec``; what is missing or wrong has its default."""
        # Slow to import, and most of those who import this module read no profile.
        from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

        values = {key: rule.get("default") for key, rule in spec.items()}
        for key, value in data.items():
            if key not in spec:
                near = difflib.get_close_matches(str(key), spec, 1, 0.5)
                hint = f'did you mean "{near[0]}"?' if near else f"the keys are {', '.join(spec)}."
                self.refuse((*where, key), f'{what}unknown key "{key}": {hint}')
            elif value is not None:
                result = ArgumentSpecValidator({key: spec[key]}).validate({key: value})
                if result.error_messages:
                    self.refuse((*where, key), f"{what}{key} must be {_WORDS[spec[key]['type']]}, not {shown(value)}.")
                elif spec[key]["type"] == "dict" and not all(isinstance(name, str) for name in value):
                    self.refuse((*where, key), f"{what}{key} has a name that is not a string; quote it.")
                else:
                    values[key] = result.validated_parameters[key]
        return values

    def entry(self, where: tuple[str | int, ...], what: str, data: Any, spec: Mapping[str, Any]) -> Entry | None:
        if isinstance(data, str):
            data = {"model": data}
        if not isinstance(data, Mapping):
            self.refuse(where, f"{what} must be a mapping, not {type(data).__name__}.")
            return None
        before = len(self.problems)
        valid = {**self.mapping((), "", {}, _ENTRY), **self.mapping(where, f"{what}: ", data, spec)}
        instances, port = valid["instances"], valid["port"]
        if instances < 1:
            self.refuse((*where, "instances"), f"{what}: instances must be 1 or more, not {instances}.")
        replicas = self.placing(where, what, valid)
        task = valid["task"].lower() if valid["task"] is not None else None
        if task not in (None, *TASKS):
            near = difflib.get_close_matches(str(task), TASKS, 1, 0.5)
            hint = f' did you mean "{near[0]}"?' if near else ""
            self.refuse((*where, "task"), f"{what}: task must be {', '.join(TASKS[:-1])} or {TASKS[-1]}.{hint}")
        given = [key for key in ("model", "tier") if valid[key] is not None]
        if task is not None and not given:
            given, valid["model"] = ["model"], "*"
        pattern = valid[given[0]] if given else ""
        kind = "tier" if given == ["tier"] else "glob" if any(c in pattern for c in "*?[") else "model"
        if len(given) > 1:
            self.refuse(where, f"{what}: give a model or a tier, not both; make two entries.")
        elif not given and len(self.problems) == before:
            self.refuse(where, f"{what}: it selects nothing; give a model (an id or a glob), a tier or a task.")
        elif given and not pattern:
            self.refuse(where, f"{what}: the selector is empty; give a model id, a glob or a tier.")
        elif port is not None and kind != "model":
            what_for = f"since {shown(pattern)} may match several models"
            self.refuse((*where, "port"), f"{what}: port needs an exact model id, {what_for}.")
        pattern = pattern.upper() if kind == "tier" else pattern
        aliases = self.aliases((*where, "aliases"), what, valid["aliases"] or ())
        rpc = self.rpc((*where, "rpc"), what, valid, kind)
        common = self.settings(where, what, valid)
        return Entry(kind, pattern, instances, aliases=aliases, task=task, replicas=replicas, rpc=rpc, **common)

    def rpc(self, where: tuple[str | int, ...], what: str, valid: Mapping[str, Any], kind: str) -> tuple[str, ...]:
        """Return the hosts of an entry's workers. A worker has one client at a time, so one server uses them."""
        if valid["rpc"] is None:
            return ()
        hosts = tuple(valid["rpc"])
        options = {key.replace("-", "_") for key in valid["options"] or ()}
        if not hosts or "" in hosts or len({*hosts}) < len(hosts):
            self.refuse(where, f"{what}: rpc must be a list of hosts, each once, such as [gpu2, gpu3].")
        elif kind != "model" or valid["instances"] != 1 or valid["replicas"] is not None:
            said = "needs an exact model id, and neither instances nor replicas: a worker has one client at a time"
            self.refuse(where, f"{what}: rpc {said}.")
        elif "rpc" in options:
            self.refuse(where, f"{what}: give rpc or the option rpc, not both.")
        elif valid["devices"] is not None or {"device", "dev"} & options:
            said = "with rpc, a server computes on all GPUs of its workers, then on its own"
            self.refuse(where, f"{what}: leave out {'devices' if valid['devices'] is not None else 'device'}: {said}.")
        return hosts

    def settings(self, where: tuple[str | int, ...], what: str, valid: Mapping[str, Any]) -> dict[str, Any]:
        """Return what entries and pools have in common."""
        port = valid["port"]
        if port is not None and not 1 <= port <= 65535:
            self.refuse((*where, "port"), f"{what}: port must be from 1 to 65535, not {port}.")
        hosts = valid["hosts"]
        if hosts is not None and not (isinstance(hosts, str) and hosts.strip()):
            said = "hosts must be a pattern, such as gpu* or gpu1,gpu2"
            self.refuse((*where, "hosts"), f"{what}: {said}, not {reprlib.repr(hosts)}.")
            hosts = None
        limits = self.resources((*where, "resources"), f"{what}: ", valid)
        variables = self.environment((*where, "environment"), f"{what}: ", valid)
        idle = self.idle((*where, "idle"), what, valid["idle"])
        options, count = self.devices((*where, "devices"), what, valid["devices"], valid["options"] or {})
        return {
            "port": port,
            "options": options,
            "resources": limits,
            "environment": variables,
            "idle": idle,
            "devices": count,
            "hosts": hosts and hosts.strip(),
        }

    def pool(self, index: int, data: Any) -> Entry | None:
        where, what = ("pools", index), f"pool {index + 1}"
        if not isinstance(data, Mapping):
            self.refuse(where, f"{what} must be a mapping with name and models, not {type(data).__name__}.")
            return None
        before = len(self.problems)
        valid = self.mapping(where, f"{what}: ", data, _POOL)
        name, models = valid["name"], valid["models"] or ()
        for key, given in (("name", name), ("models", models)):
            if not given and len(self.problems) == before:
                self.refuse(where, f"{what}: {key} is missing; give it a name and the models that share its memory.")
        if name and not _POOL_NAME.fullmatch(name):
            said = "only lower-case letters, digits and . _ -, with a letter or digit first"
            self.refuse((*where, "name"), f"{what}: name must have {said}, not {name!r}.")
        if valid["loaded"] < 1:
            self.refuse((*where, "loaded"), f"{what}: loaded must be 1 or more, not {valid['loaded']}.")
        own = self.settings(where, what, valid)
        members = [
            self.entry((*where, "models", number), f"{what}, model {number + 1}", item, _MEMBER)
            for number, item in enumerate(models)
        ]
        for number, member in enumerate(members):
            for key in member.options if member else ():
                remedy = _OF_POOL.get(key.replace("-", "_").removeprefix("no_"))
                if remedy:
                    at = (*where, "models", number, "options", key)
                    self.refuse(at, f"{what}, model {number + 1}: option {key} can't be that of one model; {remedy}.")
        shared = {name: own[name] for name in ("environment", "idle", "devices")}
        return Entry(
            "pool",
            name or "",
            members=tuple(
                replace(item, options={**own["options"], **item.options}, **shared) for item in members if item
            ),
            loaded=valid["loaded"],
            **own,
        )

    def idle(self, where: tuple[str | int, ...], what: str, given: str | None) -> int | None:
        try:
            return None if given is None else seconds_of(given)
        except ValueError as error:
            self.refuse(where, f"{what}: idle must be {error}, not {shown(given)}.")
            return None

    def devices(
        self, where: tuple[str | int, ...], what: str, given: Any, options: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], int | None]:
        """Return the options with the GPUs that are named, and how many are asked for."""
        if given is None:
            return options, None
        if {"device", "dev"} & options.keys():
            self.refuse(where, f"{what}: give devices or the option device, not both.")
        if isinstance(given, int) and not isinstance(given, bool) and given > 0:
            return options, given
        if isinstance(given, list) and given and all(isinstance(x, str) and _DEVICE.fullmatch(x) for x in given):
            return {**options, "device": ",".join(dict.fromkeys(given))}, None
        said = "a list of GPUs, such as [CUDA0], or how many"
        self.refuse(where, f"{what}: devices must be {said}, not {shown(given)}.")
        return options, None

    def placing(self, where: tuple[str | int, ...], what: str, valid: Mapping[str, Any]) -> int | None:
        replicas: int | None = valid["replicas"]
        if replicas is not None and replicas < 1:
            self.refuse((*where, "replicas"), f"{what}: replicas must be 1 or more, not {replicas}.")
        if replicas is not None and valid["instances"] != 1:
            said = "give instances, on each host, or replicas, on all hosts together, not both."
            self.refuse((*where, "replicas"), f"{what}: {said}")
        return replicas

    def aliases(self, where: tuple[str | int, ...], what: str, given: Sequence[str]) -> tuple[str, ...]:
        for name in given:
            if not ALIAS.fullmatch(name):
                self.refuse(where, f"{what}: alias {shown(name)} must have only letters, digits and . _ - : / @.")
        return tuple(dict.fromkeys(given))

    def environment(self, where: tuple[str | int, ...], what: str, valid: Mapping[str, Any]) -> dict[str, str | None]:
        given, wrong = valid["environment"] or {}, set()
        for name, said in wrong_variables(given):
            wrong.add(name)
            self.refuse((*where, name), f"{what}environment: {said}")
        return environment({name: value for name, value in given.items() if name not in wrong})

    def canary(self, given: Mapping[str, Any] | None) -> Canary | None:
        if given is None:
            return None
        where, before = ("rollout",), len(self.problems)
        valid = self.mapping(where, "rollout: ", given, _ROLLOUT)
        if valid["canary"] is None:
            if len(self.problems) == before:
                self.refuse(where, "rollout: canary is missing; say how many hosts come first, such as canary: 1.")
            return None
        for name, least in (("canary", 1), ("bake", 0)):
            if not least <= valid[name] <= 86400:
                self.refuse((*where, name), f"rollout: {name} must be from {least} to 86400, not {valid[name]}.")
        return Canary(valid["canary"], valid["bake"], valid["auto_revert"])

    def resources(self, where: tuple[str | int, ...], what: str, valid: Mapping[str, Any]) -> dict[str, str]:
        try:
            return resources(valid["resources"] or {})
        except ValueError as error:
            self.refuse(where, f"{what}resources must be {error}.")
            return {}


def examine_profile(name: str, data: Any) -> tuple[Profile | None, tuple[Problem, ...]]:
    """Return the profile ``name`` from ``data``, the YAML document of its file, or None and all that is wrong."""
    reader = _Reader()
    if not isinstance(data, Mapping):
        return None, (Problem((), f"a profile must be a mapping, not {type(data).__name__}."),)
    valid = reader.mapping((), "", data, _PROFILE)
    if valid["name"] not in (None, name):
        reader.refuse(("name",), f"its file says name: {valid['name'][:100]}; make the two equal.")
    entries = [
        reader.entry(("enabled_models", index), f"entry {index + 1}", entry, _ENTRY)
        for index, entry in enumerate(valid["enabled_models"] or ())
    ]
    pools = [reader.pool(index, pool) for index, pool in enumerate(valid["pools"] or ())]
    if "enabled_models" not in data and not pools:
        if not difflib.get_close_matches("enabled_models", map(str, data), 1, 0.5):  # a misspelt one is reported above
            reader.refuse((), 'enabled_models is missing; enable a model, or "*" for all.')
    elif not entries and not pools and not reader.problems:
        reader.refuse(("enabled_models",), 'enabled_models is empty; enable a model, or "*" for all.')
    limits = reader.resources(("resources",), "", valid)
    variables = reader.environment(("environment",), "", valid)
    canary = reader.canary(valid["rollout"])
    places = [*_places(entries, pools)]
    for where, said in (*_shared_aliases(places), *_shared_models(places), *_same_pools(pools)):
        reader.refuse(where, said)
    for index, said in _named_again(entries):
        reader.refuse(("enabled_models", index), said)
    if reader.problems:
        return None, tuple(reader.problems)
    found = tuple(entry for entry in (*entries, *pools) if entry is not None)
    options = valid["options"] or {}
    return Profile(name, valid["description"], found, options, valid["strict"], limits, variables, canary), ()


Where = tuple[Union[str, int], ...]


class _Place(NamedTuple):
    """What selects models, and where it is."""

    where: Where
    what: str
    entry: Entry
    pool: int | None = None
    """The number of its pool."""


def _places(entries: Sequence[Entry | None], pools: Sequence[Entry | None]) -> Iterator[_Place]:
    for index, entry in enumerate(entries):
        if entry:
            yield _Place(("enabled_models", index), f"entry {index + 1}", entry)
    for index, pool in enumerate(pools):
        for number, entry in enumerate(pool.members if pool else ()):
            yield _Place(("pools", index, "models", number), f"pool {index + 1}, model {number + 1}", entry, index)


def _shared_aliases(places: Sequence[_Place]) -> Iterator[tuple[Where, str]]:
    """Yield the place of each alias that is the name of another entry's model, and a sentence."""
    holder = {item.entry.pattern: item.entry.pattern for item in places if item.entry.kind == "model"}
    for where, what, entry, _pool in places:
        for alias in entry.aliases:
            if holder.setdefault(alias, entry.pattern) != entry.pattern:
                said = f"{what}: alias {alias} is also a name of {holder[alias]}; give it to one."
                yield (*where, "aliases"), said


def _shared_models(places: Sequence[_Place]) -> Iterator[tuple[Where, str]]:
    """Yield the place of each model that is named in a pool and once more, and a sentence: its memory would be counted
    twice, and who asks for it would get either."""
    seen: dict[str, _Place] = {}
    for item in places:
        if item.entry.kind == "model":
            first = seen.setdefault(item.entry.pattern, item)
            if first is not item and item.pool is not None:
                said = f"{item.what}: {item.entry.pattern} is also that of {first.what}; take it out of one of the two."
                yield item.where, said


def _same_pools(pools: Sequence[Entry | None]) -> Iterator[tuple[Where, str]]:
    seen: dict[str, int] = {}
    for index, pool in enumerate(pools):
        if pool and pool.pattern and seen.setdefault(pool.pattern, index) != index:
            said = f"{pool.pattern} is also the name of pool {seen[pool.pattern] + 1}; give each its own."
            yield ("pools", index, "name"), f"pool {index + 1}: {said}"


def _named_again(entries: Sequence[Entry | None]) -> Iterator[tuple[int, str]]:
    """Yield the index of each entry with the model of another one, of which one has replicas or rpc, and a sentence:
    which of a host's instances are whose could not be told."""
    seen: dict[str, tuple[int, Entry]] = {}
    for index, entry in enumerate(entries):
        if entry is None or entry.kind != "model":
            continue
        first, other = seen.setdefault(entry.pattern, (index, entry))
        special = next((key for key in ("replicas", "rpc") if getattr(entry, key) or getattr(other, key)), "")
        if other is not entry and None in (entry.hosts, other.hosts) and special:
            yield (
                index,
                f"entry {index + 1}: {entry.pattern} is that of entry {first + 1}, too, and one of the two has "
                f"{special}; make one entry of them, or give each its own hosts.",
            )
