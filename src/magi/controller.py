"""The controller as an object, for programs: async first, with a blocking twin of each verb."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from magi import verbs
from magi.errors import DeploymentFailed, ExitCode, HostUnreachable, UsageError
from magi.events import Event
from magi.runner import Options
from magi.verbs import Session
from magi.verdict import Outcome

T = TypeVar("T")


@dataclass(frozen=True)
class Server:
    """One server of a report or a status."""

    instance: str
    model_id: str
    display_name: str
    tier: str | None
    host: str
    address: str | None
    """What it binds."""
    port: int | None
    url: str | None
    """As its own host reaches it."""
    pid: int | None
    state: str
    is_ready: bool
    started_at: float | None
    """Seconds since the epoch."""
    action: str | None = None
    """What the deployment did with it; None in a status."""


@dataclass(frozen=True)
class Report:
    """What a deployment or a look at the hosts found (docs/report.md)."""

    servers: tuple[Server, ...]
    summary: Mapping[str, Any]
    document: Mapping[str, Any]
    """The whole as JSON has it."""

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Report:
        return cls(tuple(Server(**item) for item in document.get("servers", ())), document.get("summary", {}), document)

    @property
    def total_servers(self) -> int:
        return len(self.servers)

    @property
    def ready_servers(self) -> int:
        return sum(server.is_ready for server in self.servers)

    @property
    def is_degraded(self) -> bool:
        """Whether something that the profile asks for does not serve."""
        return self.ready_servers < self.total_servers or bool(
            self.summary.get("failed") or self.summary.get("degraded")
        )


class Controller:
    """Deploys one profile to the hosts of one inventory.

    One run at a time for each controller; several controllers may work side by side. A cancelled task ends its run: no
    worker goes on behind it. Methods raise MagiError and its subclasses (magi.errors).
    """

    def __init__(
        self,
        profile: str | None = None,
        inventory: str | os.PathLike[str] | None = None,
        *,
        project: str | os.PathLike[str] | None = None,
        limit: str | None = None,
        extra_vars: Sequence[str] = (),
        strict: bool = False,
        check: bool = False,
    ):
        """``project`` is the folder with the playbooks, else the one at or above the working directory; the rest is
        what the command line takes. Raises UsageError."""
        options = Options((os.fspath(inventory),) if inventory else (), limit, tuple(extra_vars), check=check)
        self._session = Session.of(project, options, profile=profile, strict=strict)
        self._running = asyncio.Lock()
        self._listeners: set[asyncio.Queue[Event | None]] = set()
        self.profile: str | None = profile
        """The active profile; the one that the settings name, once it is known."""
        self.report: Report | None = None
        """Of the last deployment."""

    @property
    def enabled_models(self) -> tuple[str, ...]:
        """Ids of the models that the last deployment enabled."""
        return tuple(dict.fromkeys(server.model_id for server in self.report.servers)) if self.report else ()

    async def initialize(self) -> Report:
        """Deploy the profile by the five steps and return the report; degraded is no error unless ``strict`` is set.

        Raises ProfileError and UsageError before anything is touched, HostUnreachable, and DeploymentFailed.
        """
        outcome = await self._run(verbs.up)
        self.report = Report.of(outcome.document)
        self.profile = self.report.summary.get("profile") or self.profile
        _raise(outcome)
        return self.report

    async def status(self) -> Report:
        """Return what runs. Raises HostUnreachable."""
        outcome = await self._run(verbs.status)
        _raise(outcome)
        return Report.of(outcome.document)

    async def plan(self) -> Mapping[str, Any]:
        """Return the plan of each host by name (docs/controller.md); nothing changes."""
        outcome = await self._run(verbs.plan)
        if outcome.exit_code is not ExitCode.CHANGES:
            _raise(outcome)
        return outcome.document["hosts"]

    async def stop(self, instances: Sequence[str] = ()) -> None:
        """Stop instances gracefully, all without names; the next deployment starts them again.

        Raises UsageError where no host has an instance of such a name, HostUnreachable and DeploymentFailed.
        """
        _raise(await self._run(lambda session: verbs.stop(session, instances)))

    async def shutdown(self) -> None:
        """Stop and remove everything that was deployed, and end all ``events``."""
        try:
            _raise(await self._run(verbs.down))
        finally:
            for queue in self._listeners:
                queue.put_nowait(None)

    async def events(self) -> AsyncIterator[Event]:
        """Yield what happens in the runs of this controller from now on, until ``shutdown`` has ended."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._listeners.discard(queue)

    def initialize_sync(self) -> Report:
        """As ``initialize``, blocking."""
        return _blocking(self.initialize())

    def status_sync(self) -> Report:
        """As ``status``, blocking."""
        return _blocking(self.status())

    def plan_sync(self) -> Mapping[str, Any]:
        """As ``plan``, blocking."""
        return _blocking(self.plan())

    def stop_sync(self, instances: Sequence[str] = ()) -> None:
        """As ``stop``, blocking."""
        _blocking(self.stop(instances))

    def shutdown_sync(self) -> None:
        """As ``shutdown``, blocking."""
        _blocking(self.shutdown())

    async def _run(self, verb: Callable[[Session], Outcome]) -> Outcome:
        """Run a verb in a thread. Cancelled, it ends the run, and waits until nothing of it is left."""
        loop = asyncio.get_running_loop()

        def publish(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(self._publish, event)

        async with self._running:
            session = replace(self._session, on_event=publish, stop=threading.Event())
            work = asyncio.ensure_future(asyncio.to_thread(verb, session))
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                session.stop.set()
                with contextlib.suppress(Exception):
                    await work
                raise

    def _publish(self, event: Event) -> None:
        for queue in self._listeners:
            queue.put_nowait(event)


def _raise(outcome: Outcome) -> None:
    if outcome.exit_code is ExitCode.UNREACHABLE:
        raise HostUnreachable(outcome.problem)
    if outcome.exit_code is ExitCode.USAGE:
        raise UsageError(outcome.problem)
    if outcome.exit_code is ExitCode.FAILED:
        raise DeploymentFailed(outcome.problem)


def _blocking(verb: Coroutine[Any, Any, T]) -> T:
    """Run a verb where no event loop runs. Raises RuntimeError where one does: await the other twin there."""
    return asyncio.run(verb)
