"""What the first page says: what is not ready and why, and what each host has. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from magi.domain import Account, State, printable

Document = Mapping[str, Any]

_WHY = {
    State.RUNNING: "it runs, and does not answer yet",
    State.STARTING: "it is being started",
    State.BACKOFF: "it ended, and is started again after a pause; its log says why",
    State.FAILED: "it ended, and its service manager gave up on it; its log says why",
    State.STOPPED: "it was stopped, and starts with the next deployment",
    State.ORPHANED: "its service manager was killed, and the next deployment restarts it",
    State.ABSENT: "the host does not have it",
    State.UNKNOWN: "its host could not be asked",
}
_PROFILE = {"bad_option", "bad_api_key_file", "out_of_memory", "address_unavailable", "device_missing"}
_MODELS = {"file_missing", "file_unreadable", "file_corrupt", "architecture_unsupported"}
_LOG = {"load_failed", "crashed", "timeout", "service_setup", "library_missing", "illegal_instruction", "no_work"}


@dataclass(frozen=True)
class Trouble:
    """Something that is not ready."""

    host: str
    instance: str | None
    sentence: str
    """Why, and the remedy."""
    page: str
    """The page that helps: deploy, profile, models, log, or fleet, to look again."""


@dataclass(frozen=True)
class HostView:
    """What a host has."""

    name: str
    reached: bool
    servers: tuple[Document, ...]
    workers: tuple[Document, ...]
    """What computes for servers of other hosts."""
    memory: tuple[Account, ...]
    """The host's memory and devices; () where that is not known."""


def chats(server: Document) -> list[str]:
    """Return the names by which a server may be asked to chat: its model's, or those of a pool's models."""
    return [
        name
        for item in server.get("members") or (server,)
        if item.get("task") in (None, "chat")
        for name in (item["model_id"], *item.get("aliases", ()))
    ]


def troubles(status: Document, problem: str, health: Document | None) -> list[Trouble]:
    """Return what is not ready.

    ``problem`` says why hosts were lost, however many; ``health`` is what a later look found, if there was one: it
    knows causes.
    """
    causes = {(x["host"], x["instance"]): x for x in _failed(health) + _failed(status)}
    gone = ", ".join(status["summary"]["unreachable"])
    found = [Trouble(gone, None, problem or f"These hosts can't be asked: {gone}.", "fleet")] if gone else []
    for server in status["servers"]:
        if server["is_ready"]:
            continue
        host, name = server["host"], server["instance"]
        cause = causes.get((host, name))
        why = f"Host {host}, instance {name}: {_WHY[State(server['state'])]}."
        found.append(Trouble(host, name, cause["detail"] if cause else why, _page(cause, server)))
    for worker in status.get("workers", ()):
        if not worker["is_ready"]:
            host, name = worker["host"], worker["instance"]
            why = f"Host {host}, {name}, which computes for {worker['server']}: {_WHY[State(worker['state'])]}."
            found.append(Trouble(host, name, why, _page(None, worker)))
    for gateway in status.get("gateways", ()):
        if gateway["cause"]:
            found.append(Trouble(gateway["host"], None, gateway["detail"], "deploy"))
    if not status["servers"] and not found:
        found.append(Trouble("", None, "Nothing runs: deploy a profile.", "deploy"))
    return found


def _failed(document: Document | None) -> list[Document]:
    return list(document["summary"].get("failed", ())) if document else []


def _page(cause: Document | None, server: Document) -> str:
    code = cause["cause"] if cause else ""
    if code in _PROFILE:
        return "profile"
    if code in _MODELS:
        return "models"
    if code in _LOG or (not cause and server["state"] in (State.FAILED, State.BACKOFF, State.RUNNING)):
        return "log"
    return "fleet" if code == "loading" or (not cause and server["state"] == State.STARTING) else "deploy"


def hosts(status: Document, plan: Document | None) -> list[HostView]:
    """Return the hosts in the order in which they were asked; ``plan`` knows their memory."""
    gone = set(status["summary"]["unreachable"])
    plans = plan["hosts"] if plan else {}
    servers, workers = status["servers"], status.get("workers", ())
    names = dict.fromkeys([*(item["host"] for item in (*servers, *workers)), *plans, *sorted(gone)])
    return [
        HostView(
            printable(name),
            name not in gone,
            tuple(server for server in servers if server["host"] == name),
            tuple(worker for worker in workers if worker["host"] == name),
            tuple(Account(**item) for item in plans[name]["memory"]) if name in plans else (),
        )
        for name in names
    ]
