"""What the controller remembers about hosts, so that verbs can work on profiles without them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from magi.config import redacted
from magi.domain import Binary, Host, without_ours, write_atomic
from magi.errors import UsageError
from magi.events import Run
from magi.project import Project
from magi.runner.options import Options
from magi.state.folder import state_folder

SCHEMA = 6
NEEDS = 200
"""How many answers of llama-fit-params are kept for a host."""
MODE = 0o600  # paths and names of models are nobody else's business


@dataclass(frozen=True)
class Known:
    """One host, as of the last look at it."""

    name: str
    models: tuple[Mapping[str, Any], ...] = ()
    """As returned by the module model_registry."""
    rejected: tuple[Mapping[str, Any], ...] = ()
    companions: tuple[Mapping[str, Any], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    """The host's model_server_options, secrets redacted."""
    environment: Mapping[str, str | None] = field(default_factory=dict)
    """The host's model_server_environment."""
    binary: Binary | None = None
    """Its llama-server with the options that it takes, and the memory that others leave of its devices; None: nobody
    has looked yet."""
    instances: tuple[str, ...] = ()
    """Names of its instances then."""
    host: Mapping[str, Any] | None = None
    """The host itself at the last look, as the module model_host_info returns it; its binary is ``binary``."""
    needs: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """What its llama-fit-params said, by the key of the question."""

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(replace(self, binary=None)), "binary": self.binary and self.binary.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Known:
        return cls(
            data["name"],
            tuple(data["models"]),
            tuple(data["rejected"]),
            tuple(data["companions"]),
            data["options"],
            data["environment"],
            data["binary"] and Binary.from_dict(data["binary"]),
            tuple(data["instances"]),
            data["host"],
            data["needs"],
        )


def learn(known: Mapping[str, Known], results: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, Known]:
    """Return what is known after ``results``, the pairs of host and module result of a run.

    A registry, a look at the host and settled settings are recognised by their content; the rest is ignored.
    """
    hosts = dict(known)
    for name, result in results:
        found: dict[str, Any] = {}
        if "registry_path" in result and "models" in result:
            found.update({part: tuple(result[part]) for part in ("models", "rejected", "companions")})
        if isinstance(result.get("settings"), Mapping) and "origins" in result:
            found.update({part: redacted(result["settings"].get(part) or {}) for part in ("options", "environment")})
        if isinstance(result.get("needs"), Mapping):
            before = hosts[name].needs if name in hosts else {}
            found.update(needs=dict([*{**before, **result["needs"]}.items()][-NEEDS:]))
        if isinstance(result.get("host"), Mapping) and (result["host"].get("binary") or {}).get("options"):
            found.update(binary=_binary(result["host"]))
        if isinstance(result.get("host"), Mapping) and "instances" in result["host"]:
            found.update(instances=tuple(item["name"] for item in result["host"]["instances"]))
        if isinstance(result.get("host"), Mapping) and "looked_at" in result["host"]:
            found.update(host=_looked(result["host"]))
        if found:
            hosts[name] = replace(hosts.get(name, Known(name)), **found)
    return hosts


def _binary(host: Mapping[str, Any]) -> Binary:
    of_others = without_ours(Host.from_dict(host)) if "looked_at" in host else None
    return of_others or Binary.from_dict(host["binary"])


def _looked(host: Mapping[str, Any]) -> dict[str, Any]:
    """Return a host without what is of no use later, or is kept beside it."""
    return {**host, "binary": None, "listeners": [], "instances": [{**item, "log": []} for item in host["instances"]]}


def load(path: Path) -> dict[str, Known]:
    """Return the known hosts by name; {} without a usable catalog."""
    try:
        data = json.loads(path.read_bytes())
        if data["schema"] != SCHEMA:
            return {}
        return {item["name"]: Known.from_dict(item) for item in data["hosts"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # it is only a memory: the next look at the hosts writes it again


def save(path: Path, hosts: Mapping[str, Known]) -> None:
    """Write the catalog, crash-safely. Raises FileWriteError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    data = {"schema": SCHEMA, "hosts": [hosts[name].to_dict() for name in sorted(hosts)]}
    write_atomic(path, json.dumps(data, separators=(",", ":")).encode() + b"\n", MODE)


def from_registry(path: Path) -> dict[str, Known]:
    """Return the content of a registry file, as one host named after the file. Raises UsageError."""
    # Slow to import, and not needed to remember what a run found.
    from magi.domain import RegistryError, load_registry

    try:
        registry = load_registry(str(path))
    except RegistryError as error:
        why = {
            "missing": "does not exist",
            "unreadable": "can't be read",
            "schema": "is of a newer schema",
        }.get(error.code, "is not a registry, or is corrupt")
        raise UsageError(f"The registry {path} {why}; name another with --registry, or run magi discover.") from None
    found = registry.inventory.to_dict()
    models, rejected, companions = (tuple(found[part]) for part in ("models", "rejected", "companions"))
    return {path.name: Known(path.name, models, rejected, companions)}


def path_of(project: Project, inventory: Sequence[str]) -> Path:
    """Return the path of the catalog for a project and an inventory. Raises OSError."""
    sources = [str(project.root), *(str(Path(item).absolute()) for item in inventory)]
    digest = hashlib.sha256("\0".join(sources).encode()).hexdigest()[:12]
    return state_folder() / "catalogs" / f"{project.root.name}-{digest}.json"


def remember(project: Project, options: Options, run: Run) -> None:
    """Add what a run saw on the hosts to what is known about them, and forget hosts that are gone."""
    results = [(host, result) for host, kind, result in run.results() if kind == "ok"]
    there = {item.host for item in run.events}
    with contextlib.suppress(OSError):  # only a memory, and no reason for a verb to fail
        path = path_of(project, options.inventory)
        known = {host: item for host, item in load(path).items() if options.limit or host in there}
        seen = learn(known, results)
        if seen != known and any(host.models for host in seen.values()):
            save(path, seen)
