"""Changes as jobs: one at a time for an inventory, with events from the beginning, a result, and an end on request."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from magi.domain import FileWriteError, write_atomic
from magi.errors import ExitCode, Interrupted, MagiError
from magi.events import Event, said
from magi.progress import STEPS, Progress
from magi.result import Result
from magi.state.defect import defect
from magi.state.folder import is_held, unwritable
from magi.web.problems import Problem
from magi.web.runs import Runs, Verb

KEEP = 50
"""Jobs to remember."""
FOLLOWED = 5
"""Of these, the newest keep their events."""
TOLD = ("task", "ok", "failed", "unreachable")
"""The kinds of events that clients get."""
RUNNING, DONE, FAILED, CANCELLED = "running", "done", "failed", "cancelled"


@dataclass(frozen=True)
class Entry:
    """One event of a job, as clients get it."""

    kind: str
    """event, progress or end."""
    data: str
    """JSON in ASCII, on one line."""


@dataclass
class Job:
    id: str
    verb: str
    given: Mapping[str, Any]
    by: str
    """The role whose token asked for it."""
    began: float
    """Seconds since the epoch."""
    state: str = RUNNING
    exit_code: int | None = None
    """As that of magi (docs/controller.md); None while it runs."""
    problem: str | None = None
    ended: float | None = None
    document: Mapping[str, Any] | None = None
    """What the verb found or did."""
    entries: list[Entry] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def summary(self) -> dict[str, Any]:
        """Return what is known of it, without its document and its events."""
        names = ("id", "verb", "given", "by", "began", "state", "exit_code", "problem", "ended")
        return {name: getattr(self, name) for name in names}

    def add(self, entry: Entry) -> None:
        """Add an event, and wake those who wait for it."""
        self.entries.append(entry)
        self.wake()

    async def follow(self, after: int = 0, pause: float = 15) -> AsyncIterator[tuple[int, Entry] | None]:
        """Yield the events that come after number ``after``, with their numbers, to the end of the job: all if it has
        no such number (any more). None after ``pause`` seconds without one, so that nobody takes the connection for
        dead, and when it is woken."""
        after = after if after <= len(self.entries) else 0
        while True:
            news = self.news
            for number, entry in enumerate(self.entries[after:], after + 1):
                yield number, entry
                after = number
            if self.state != RUNNING and after >= len(self.entries):
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await news.wait()
            if after >= len(self.entries):
                yield None

    def wake(self) -> None:
        """Wake those who wait for an event."""
        news, self.news = self.news, asyncio.Event()
        news.set()


class Jobs:
    """Of one event loop: nothing here is called from another thread."""

    def __init__(self, runs: Runs, folder: Path, changed: Callable[[], None] = lambda: None):
        """``folder`` keeps the jobs of an inventory; ``changed`` is called when one has ended. Raises MagiError."""
        self._runs, self._folder, self._changed = runs, folder, changed
        self._at_work: str | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._jobs = {job.id: job for job in _load(folder)}

    def __iter__(self) -> Iterator[Job]:
        """The jobs, the newest first."""
        return reversed(self._jobs.values())

    def get(self, job_id: str) -> Job:
        """Return a job. Raises Problem."""
        if job_id not in self._jobs:
            raise Problem(HTTPStatus.NOT_FOUND, f"There is no job {job_id!a}; GET jobs lists the last {KEEP}.")
        return self._jobs[job_id]

    @contextlib.contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """Let no other change of this inventory begin within the block, from here or another magi serve.

        Raises Problem if one is at work.
        """
        remedy = "wait for its end, or cancel it."
        if self._at_work:
            raise Problem(HTTPStatus.CONFLICT, f"{self._at_work} is at work on this inventory: {remedy}")
        try:
            lock = open(self._folder / "lock", "a")  # noqa: SIM115 - closed by the with below
        except OSError as error:
            raise MagiError(f"Nothing was changed, since {unwritable(error)}") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                other = f"Another magi serve is at work on this inventory: {remedy}"
                raise Problem(HTTPStatus.CONFLICT, other) from None
            self._at_work = what
            try:
                yield
            finally:
                self._at_work = None

    def start(self, verb: str, act: Verb, given: Mapping[str, Any], by: str, begin: Callable[[str], None]) -> Job:
        """Start a job and return it; ``begin`` is called with its id before. Raises Problem if another is at work, and
        MagiError, and then nothing was begun."""
        job_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{verb}-{secrets.token_hex(3)}"
        alone = contextlib.ExitStack()
        alone.enter_context(self.alone(f"Job {job_id}"))
        try:
            begin(job_id)
            job = Job(job_id, verb, given, by, time.time())
            self._save(job)
        except BaseException:
            alone.close()
            raise
        self._jobs[job_id] = job
        for old in list(self._jobs.values())[:-FOLLOWED]:
            del old.entries[:-1]
        task = asyncio.create_task(self._carry_out(job, act, alone))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    async def _carry_out(self, job: Job, act: Verb, alone: contextlib.ExitStack) -> None:
        with alone:
            tell = _teller(job, asyncio.get_running_loop())
            try:
                result = await self._runs.run(act, tell, job.stop)
            except Interrupted as error:
                self._end(job, CANCELLED, error.exit_code, str(error), error.document)
            except MagiError as error:
                self._end(job, FAILED, error.exit_code, str(error), error.document)
            except Exception as error:
                self._end(job, FAILED, ExitCode.FAILED, defect(error), None)
            else:
                self._end(job, _state(result), result.exit_code, result.problem or None, result.document)
        self._changed()

    def _end(self, job: Job, state: str, code: ExitCode, problem: str | None, found: Mapping[str, Any] | None) -> None:
        job.state, job.exit_code, job.problem, job.document = state, int(code), problem, found
        job.ended = time.time()
        with contextlib.suppress(MagiError):  # it is only a memory, and the change is made
            self._save(job)
        job.add(Entry("end", json.dumps(job.summary())))

    def _save(self, job: Job) -> None:
        for old in [other for other in self._jobs.values() if other is not job][: 1 - KEEP]:
            (self._folder / f"{old.id}.json").unlink(missing_ok=True)
            del self._jobs[old.id]
        data = {**job.summary(), "document": job.document}
        try:
            write_atomic(self._folder / f"{job.id}.json", json.dumps(data, default=str).encode(), 0o600)
        except FileWriteError as error:
            raise MagiError(f"Nothing was changed: {error}") from None

    def wake(self) -> None:
        """Wake those who follow a job."""
        for job in self._jobs.values():
            job.wake()

    async def end(self) -> None:
        """Wait for the job at work, whose run has been stopped."""
        await asyncio.gather(*self._tasks)


def _state(result: Result) -> str:
    return DONE if result.exit_code in (ExitCode.OK, ExitCode.DEGRADED, ExitCode.CHANGES) else FAILED


def _load(folder: Path) -> list[Job]:
    """Return the jobs that a folder remembers. One that still ran was ended with its magi serve."""
    jobs, elsewhere = [], is_held(folder / "lock")
    for path in sorted(folder.glob("*.json"))[-KEEP:]:
        with contextlib.suppress(OSError, ValueError, TypeError):  # half a memory is none
            job = Job(**json.loads(path.read_bytes()))
            if job.state == RUNNING:
                if elsewhere:  # it is another magi serve's
                    continue
                job.state, job.exit_code, job.ended = FAILED, int(ExitCode.FAILED), path.stat().st_mtime
                job.problem = "magi serve ended while it was at work: see what runs, and start it again."
            job.add(Entry("end", json.dumps(job.summary())))
            jobs.append(job)
    return jobs


def _teller(job: Job, loop: asyncio.AbstractEventLoop) -> Callable[[Event], None]:
    """Return the function that a run calls, in its thread, with each event."""
    progress = Progress()
    before: dict[str, Any] = {}

    def tell(event: Event) -> None:
        nonlocal before
        progress.add(event)
        entries = [Entry("event", json.dumps(_told(event)))] if event.kind in TOLD else []
        hosts = {name: asdict(host) for name, host in progress.hosts.items()}
        now = {"step": progress.step, "name": STEPS.get(progress.step, progress.verb), "hosts": hosts}
        if now != before:
            known = before.get("hosts", {})
            changed = {name: host for name, host in hosts.items() if host != known.get(name)}
            entries.append(Entry("progress", json.dumps({**now, "hosts": changed})))
            before = now
        for entry in entries:
            loop.call_soon_threadsafe(job.add, entry)

    return tell


def _told(event: Event) -> dict[str, Any]:
    """Return what clients get of an event: never the result of a task."""
    wrong = event.kind in ("failed", "unreachable") and not event.ignored
    return {
        "kind": event.kind,
        "task": event.task,
        "step": event.step,
        "host": event.host or None,
        "message": said(event.result) if wrong else None,
    }
