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
from magi.errors import ExitCode
from magi.events import Event
from magi.result import Result
from magi.runner.options import Options
from magi.session import Session

T = TypeVar("T")

WAIT = 0.05
"""Seconds between two checks whether the controller's previous run has ended."""


@dataclass(frozen=True)
class Server:
    """One server of a report or a status."""

    instance: str
    model_id: str
    display_name: str
    tier: str | None
    host: str
    address: str | None
    """The address that it binds."""
    port: int | None
    url: str | None
    url_from: str | None
    """From where ``url`` can be asked: controller, or host (from nowhere else)."""
    pid: int | None
    state: str
    is_ready: bool
    started_at: float | None
    """Seconds since the epoch."""
    task: str | None = None
    """What its model is for: chat, embedding or rerank."""
    aliases: Sequence[str] = ()
    """Further names by which clients may ask for it."""
    action: str | None = None
    """What the deployment did with it; None in a status."""
    asked: Mapping[str, Any] | None = None
    """Where it was asked as its clients do: url, by (controller or host), HTTP status; of ``health`` alone."""
    devices: Sequence[str] | None = None
    """The GPUs that it computes on; none is the CPU alone, and None that it does not run or nobody can tell."""
    memory: Mapping[str, Any] | None = None
    """What it needs and uses of memory, in bytes: need (by device), used, used_gpu (docs/report.md)."""
    models: Mapping[str, str] | None = None
    """Of a pool that answers, by model id: unloaded, loading, loaded, sleeping or failed."""
    members: Sequence[Mapping[str, Any]] = ()
    """Of a pool, its models: model_id, tier, task, aliases."""


@dataclass(frozen=True)
class RoutedServer:
    """A server as a gateway sees it."""

    host: str
    instance: str
    model_id: str
    address: str
    """Where the gateway reaches it."""
    port: int
    state: str
    """up, down, drained (it gets nothing new), disabled (a deployment is about to start it), or unknown."""
    busy: int | None
    """Requests that it works on; None if unknown."""
    slots: int
    """Requests that it works on at most."""


@dataclass(frozen=True)
class Route:
    """The names that lead to the same servers."""

    names: Sequence[str]
    task: str
    """What its model is for: chat, embedding or rerank."""
    held: bool
    """Whether no server of it is up, so that requests wait for one."""
    waiting: int | None
    """Requests that wait for a free slot; None if unknown."""
    servers: tuple[RoutedServer, ...]


@dataclass(frozen=True)
class Gateway:
    """One gateway of a report, a status or ``routes``."""

    host: str
    url: str | None
    """The base URL for clients of OpenAI's API; None: it was not configured."""
    url_from: str | None
    """From where ``url`` can be asked: controller, or host (from nowhere else)."""
    names: Sequence[str]
    """All that clients may ask for."""
    is_ready: bool
    cause: str | None
    """The code for why it does not work (docs/report.md); None without HAProxy where that is optional."""
    detail: str
    routes: tuple[Route, ...] = ()
    """Empty in the report of a deployment."""
    asked: Sequence[Mapping[str, Any]] = ()
    """What it was asked as its clients do: name, url, by (controller or host), HTTP status; of ``health``, and of a
    deployment for what was launched."""

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Gateway:
        routes = (
            Route(**{**item, "servers": tuple(RoutedServer(**server) for server in item["servers"])})
            for item in entry.get("routes", ())
        )
        return cls(**{**entry, "routes": tuple(routes)})


@dataclass(frozen=True)
class Report:
    """What a deployment or a look at the hosts found (docs/report.md)."""

    servers: tuple[Server, ...]
    summary: Mapping[str, Any]
    document: Mapping[str, Any]
    """The whole, as in JSON."""
    gateways: tuple[Gateway, ...] = ()

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Report:
        servers = tuple(Server(**item) for item in document.get("servers", ()))
        gateways = tuple(map(Gateway.of, document.get("gateways", ())))
        return cls(servers, document.get("summary", {}), document, gateways)

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

    One run at a time for each controller, even if several threads call it; several controllers may work side by side.
    A cancelled task ends its run and all its workers. Methods raise MagiError and its subclasses (magi.errors).
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
        """``project`` is the project's folder (default: the one at or above the working directory); the rest is as on
        the command line. Raises UsageError."""
        options = Options((os.fspath(inventory),) if inventory else (), limit, tuple(extra_vars), check=check)
        self._session = Session.of(project, options, profile=profile, strict=strict)
        # A lock of threads, since each blocking twin has a loop of its own.
        self._running = threading.Lock()
        self._listeners: set[_Listener] = set()
        self.profile: str | None = profile
        """The active profile; if it comes from the settings, None until it is known."""
        self.report: Report | None = None
        """The report of the last ``initialize``; None before, or if it ended without one."""

    @property
    def enabled_models(self) -> tuple[str, ...]:
        """Ids of the models that the last deployment enabled, those of pools too."""
        servers = self.report.servers if self.report else ()
        members = (item["model_id"] for server in servers for item in server.members)
        return tuple(dict.fromkeys([*(item.model_id for item in servers if not item.members), *members]))

    async def initialize(self) -> Report:
        """Deploy the profile in five steps and return the report; degraded is no error unless ``strict`` is set.

        Raises ProfileError and UsageError before anything is touched, HostUnreachable, and DeploymentFailed.
        """
        self.report = None
        result = await self._run(verbs.up)
        self.report = Report.of(result.document)
        self.profile = self.report.summary.get("profile") or self.profile
        result.checked()
        return self.report

    async def status(self) -> Report:
        """Return what runs. Raises HostUnreachable and DeploymentFailed, with whatever was found as ``document``."""
        return Report.of((await self._run(verbs.status)).checked().document)

    async def routes(self) -> tuple[Gateway, ...]:
        """Return each gateway with the names that it routes, and their servers.

        Raises UsageError if the inventory has no gateway, HostUnreachable and DeploymentFailed, with whatever was found
        as ``document``.
        """
        return Report.of((await self._run(verbs.routes)).checked().document).gateways

    async def health(self, *, deep: bool = False) -> Report:
        """Ask every server and gateway as clients do, ``deep`` for one token as well; return what serves, and in
        ``summary["failed"]`` what does not.

        Raises DeploymentFailed where nothing serves, with what was found as ``document``.
        """
        result = await self._run(lambda session: verbs.health(session, deep=deep))
        return Report.of((result.checked() if result.exit_code is ExitCode.FAILED else result).document)

    async def plan(self) -> Mapping[str, Any]:
        """Return the plan of each host by name (docs/controller.md); nothing changes.

        Raises what ``initialize`` raises, with the plans of the other hosts as ``document["hosts"]``.
        """
        hosts: Mapping[str, Any] = (await self._run(verbs.plan)).checked().document["hosts"]
        return hosts

    async def rollback(self) -> Report:
        """Take back the last deployment and return the report. Raises what ``initialize`` raises, and DeploymentFailed
        where a host has no generation to go back to."""
        result = await self._run(verbs.rollback)
        self.report = Report.of(result.document)
        result.checked()
        return self.report

    async def discover(self) -> Mapping[str, Any]:
        """Return the models of each host, what was set aside, and drift (docs/controller.md).

        Raises HostUnreachable and DeploymentFailed, with whatever was found as ``document``.
        """
        return (await self._run(verbs.discover)).checked().document

    async def config(self) -> Mapping[str, Any]:
        """Return the settings of each host by name, without secrets, with the source of each; no host is asked."""
        hosts: Mapping[str, Any] = (await self._run(verbs.config)).checked().document["hosts"]
        return hosts

    async def doctor(self) -> Mapping[str, Any]:
        """Return the findings on this machine and the hosts: ``problems``, ``warnings`` and ``findings``."""
        return (await self._run(verbs.doctor)).document

    async def fit(self, model: str, options: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """Return on which ``hosts`` one more server of a model fits with these options of llama-server, the best first,
        as of the last look at each; no host is asked (docs/controller-verbs.md).

        Raises UsageError for a model that no host has, an option that a llama-server does not take, and without a look.
        """
        return (await self._run(lambda session: verbs.fit(session, model, options))).document

    async def logs(self, instance: str, lines: int = 100) -> Mapping[str, Any]:
        """Return by host the last lines that an instance printed, oldest first.

        Raises UsageError if no host has it, HostUnreachable and MagiError.
        """
        found = await self._run(lambda session: verbs.logs(session, instance, lines))
        hosts: Mapping[str, Any] = found.checked().document["hosts"]
        return hosts

    async def ask(
        self, name: str, question: str, max_tokens: int = 512, *, instance: bool = False
    ) -> Mapping[str, Any]:
        """Return a model's answer through a gateway, or, without one or with ``instance``, that of the instance of this
        name: ``text``, ``reasoning``, ``finish_reason``, ``tokens``, ``host`` and more (docs/controller.md); ``events``
        has its pieces as they are written.

        Raises UsageError if nobody has that name, HostUnreachable and MagiError.
        """
        found = await self._run(lambda session: verbs.ask(session, name, question, max_tokens, instance=instance))
        return found.checked().document

    async def add_key(
        self,
        name: str,
        *,
        models: Sequence[str] = (),
        concurrent: int | None = None,
        per_minute: int | None = None,
        expires: str | None = None,
    ) -> str:
        """Make a key for a client, give its digest to all gateways, and return it; nobody else has it.

        ``models`` are globs; ``expires`` is its last day in UTC, YYYY-MM-DD. Raises UsageError, HostUnreachable and
        DeploymentFailed; the error's ``document`` has the key if some gateways took it.
        """
        limits: dict[str, Any] = {"concurrent": concurrent, "per_minute": per_minute, "expires": expires}
        found = await self._run(lambda session: verbs.add_key(session, name, models=models, **limits))
        return str(found.checked().document["key"])

    async def keys(self) -> Mapping[str, Any]:
        """Return by gateway its ``keys``, each with its name and what it may do, and whether they are ``in_use``.

        Raises UsageError without a gateway, HostUnreachable and DeploymentFailed.
        """
        gateways: Mapping[str, Any] = (await self._run(verbs.keys)).checked().document["gateways"]
        return gateways

    async def revoke_key(self, name: str) -> None:
        """Take a key from all gateways. Raises UsageError if none has it, HostUnreachable and DeploymentFailed."""
        (await self._run(lambda session: verbs.revoke_key(session, name))).checked()

    async def stop(self, instances: Sequence[str] = ()) -> None:
        """Stop these instances gracefully, or all if none is named; the next deployment starts them again.

        Raises UsageError if no host has an instance of such a name, HostUnreachable and DeploymentFailed.
        """
        (await self._run(lambda session: verbs.stop(session, instances))).checked()

    async def shutdown(self) -> None:
        """Stop and remove everything that was deployed, and end all ``events``."""
        try:
            (await self._run(verbs.down)).checked()
        finally:
            self._publish(None)
            self._listeners.clear()

    def events(self) -> AsyncIterator[Event]:
        """Return what happens in the runs of this controller from this call on, until ``shutdown`` has ended.

        Raises RuntimeError without a running event loop.
        """
        listener = _Listener(asyncio.get_running_loop(), asyncio.Queue())
        self._listeners.add(listener)
        return self._heard(listener)

    async def _heard(self, listener: _Listener) -> AsyncIterator[Event]:
        try:
            while (event := await listener.queue.get()) is not None:
                yield event
        finally:
            self._listeners.discard(listener)

    def initialize_sync(self) -> Report:
        """As ``initialize``, blocking."""
        return _blocking(self.initialize())

    def status_sync(self) -> Report:
        """As ``status``, blocking."""
        return _blocking(self.status())

    def routes_sync(self) -> tuple[Gateway, ...]:
        """As ``routes``, blocking."""
        return _blocking(self.routes())

    def health_sync(self, *, deep: bool = False) -> Report:
        """As ``health``, blocking."""
        return _blocking(self.health(deep=deep))

    def plan_sync(self) -> Mapping[str, Any]:
        """As ``plan``, blocking."""
        return _blocking(self.plan())

    def rollback_sync(self) -> Report:
        """As ``rollback``, blocking."""
        return _blocking(self.rollback())

    def discover_sync(self) -> Mapping[str, Any]:
        """As ``discover``, blocking."""
        return _blocking(self.discover())

    def config_sync(self) -> Mapping[str, Any]:
        """As ``config``, blocking."""
        return _blocking(self.config())

    def doctor_sync(self) -> Mapping[str, Any]:
        """As ``doctor``, blocking."""
        return _blocking(self.doctor())

    def fit_sync(self, model: str, options: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """As ``fit``, blocking."""
        return _blocking(self.fit(model, options))

    def logs_sync(self, instance: str, lines: int = 100) -> Mapping[str, Any]:
        """As ``logs``, blocking."""
        return _blocking(self.logs(instance, lines))

    def ask_sync(self, name: str, question: str, max_tokens: int = 512, *, instance: bool = False) -> Mapping[str, Any]:
        """As ``ask``, blocking."""
        return _blocking(self.ask(name, question, max_tokens, instance=instance))

    def add_key_sync(
        self,
        name: str,
        *,
        models: Sequence[str] = (),
        concurrent: int | None = None,
        per_minute: int | None = None,
        expires: str | None = None,
    ) -> str:
        """As ``add_key``, blocking."""
        return _blocking(
            self.add_key(name, models=models, concurrent=concurrent, per_minute=per_minute, expires=expires)
        )

    def keys_sync(self) -> Mapping[str, Any]:
        """As ``keys``, blocking."""
        return _blocking(self.keys())

    def revoke_key_sync(self, name: str) -> None:
        """As ``revoke_key``, blocking."""
        _blocking(self.revoke_key(name))

    def stop_sync(self, instances: Sequence[str] = ()) -> None:
        """As ``stop``, blocking."""
        _blocking(self.stop(instances))

    def shutdown_sync(self) -> None:
        """As ``shutdown``, blocking."""
        _blocking(self.shutdown())

    async def _run(self, verb: Callable[[Session], Result]) -> Result:
        """Run a verb in a thread, once the previous one has ended. If cancelled, however often, end the run, and wait
        until nothing of it is left."""
        session = replace(self._session, on_event=self._publish, stop=threading.Event())

        def alone() -> Result:
            try:
                return verb(session)
            finally:
                self._running.release()

        while not self._running.acquire(blocking=False):
            await asyncio.sleep(WAIT)
        # Not a task: the end of a loop cancels all tasks, and would leave the thread at work.
        work = asyncio.get_running_loop().run_in_executor(None, alone)
        cancelled = None
        while not work.done():
            try:
                await asyncio.wait({work})
            except asyncio.CancelledError as error:
                session.stop.set()
                cancelled = error
        if cancelled:
            work.exception()  # nobody waits for it any more
            raise cancelled
        return work.result()

    def _publish(self, event: Event | None) -> None:
        """Tell all listeners, each in its own loop; None: there are no more events."""
        for listener in tuple(self._listeners):
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                listener.loop.call_soon_threadsafe(listener.queue.put_nowait, event)


@dataclass(frozen=True, eq=False)
class _Listener:
    loop: asyncio.AbstractEventLoop
    queue: asyncio.Queue[Event | None]


def _blocking(verb: Coroutine[Any, Any, T]) -> T:
    """Run a verb without an event loop. Raises RuntimeError inside one: await the other twin there."""
    return asyncio.run(verb)
