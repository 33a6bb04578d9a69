# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Applying a plan on a host: the one place that changes anything. What to do was decided before (_plan)."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.files import make_folder, write_atomic, writing
from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._host import inspect
from ansible_collections.magi.models.plugins.module_utils._host.lock import (
    ConflictError,
    check_generation,
    exclusive,
    read_generation,
    read_worker,
    start_time,
    write_generation,
)
from ansible_collections.magi.models.plugins.module_utils._host.values import Generation, Running, Worker
from ansible_collections.magi.models.plugins.module_utils._llama.cause import find_cause, not_ready, start_refused
from ansible_collections.magi.models.plugins.module_utils._llama.keys import KeyFileError, check_api_keys
from ansible_collections.magi.models.plugins.module_utils._plan.values import Action, Outcome
from ansible_collections.magi.models.plugins.module_utils._services.manager import Services

FIRST_LOOK = 10
"""Seconds that a launch waits for its servers; most are ready by then, and the health check waits for the others."""


@dataclass(frozen=True)
class File:
    path: str
    content: str
    mode: int
    per_instance: bool


@dataclass(frozen=True)
class Job:
    """Everything that one call on a host needs (see the module llama_instances for the meaning)."""

    home: str
    files: Sequence[File]
    instances: Mapping[str, Mapping[str, Any]]
    """By name: address, port, api_key_file."""
    actions: Sequence[Action]
    generation: Generation
    profile: str
    deployment: str
    controller: str
    controller_pid: int
    concurrent_starts: bool
    max_startup_time: int
    readiness_check_interval: int
    stop_timeout: int


@dataclass(frozen=True)
class Result:
    changed: bool
    outcomes: tuple[Outcome, ...] = ()
    generation: Generation = field(default_factory=Generation)
    diff: tuple[dict[str, str], ...] = ()
    waited: float = 0
    """Seconds since the last start."""
    instances: tuple[str, ...] = ()
    """Names of all instances that the host had."""


def file_changes(files: Iterable[File], owned: Iterable[Path]) -> tuple[list[File], list[Path], list[dict[str, str]]]:
    """Return the files to write, the stale ones to remove, and the diff; reads the disk, writes nothing."""
    files = list(files)
    write, diff = [], []
    for file in files:
        before = _content(Path(file.path))
        mode = None if before is None else Path(file.path).stat().st_mode & 0o7777
        if (before, mode) != (file.content, file.mode):
            write.append(file)
            diff.append(_diff(file.path, before or "", file.content))
    wanted = {file.path for file in files}
    stale = [path for path in owned if str(path) not in wanted]
    diff += [_diff(str(path), _content(path) or "", "") for path in stale]
    return write, stale, diff


def _content(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None


def _diff(path: str, before: str, after: str) -> dict[str, str]:
    return {"before_header": path, "after_header": path, "before": before, "after": after}


def _actions_diff(outcomes: Iterable[Outcome]) -> list[dict[str, str]]:
    lines = [f"{item.action} {item.instance}: {item.reason}\n" for item in outcomes if item.action.changes]
    return [{"prepared": "".join(lines)}] if lines else []


def present(services: Services, job: Job, *, check_mode: bool) -> Result:
    """Make the host run the plan: write the definitions, stop what goes, start what comes, wait until it listens.

    Raises ConflictError, FileWriteError, KeyFileError, ServiceError; a server that doesn't start is an Outcome, not an
    exception.
    """
    check_key_files(job)
    if check_mode:
        check_generation(job.home, job.generation)
        return _present(services, job, check_mode=True)
    with exclusive(job.home, _worker(job)):
        check_generation(job.home, job.generation)
        result = _present(services, job, check_mode=False)
    begun = time.monotonic()
    names = [item.instance for item in result.outcomes if item.loads and item.instance in job.instances]
    return replace(
        result,
        outcomes=_settle(services, result.outcomes, names, job, min(FIRST_LOOK, job.max_startup_time)),
        waited=time.monotonic() - begun,
    )


def _worker(job: Job) -> Worker:
    pid = os.getpid()
    return Worker(job.deployment, job.controller, job.controller_pid, pid, start_time(pid))


def fence(home: str, worker: Worker, grace: float = 10) -> None:
    """End the ``worker`` of a deployment whose controller is gone, so that it can't go on beside a new one.

    Killed at any point it leaves nothing half written, and the next plan sees what it left undone. Raises ConflictError
    when the lock isn't free after ``grace`` seconds.
    """
    if read_worker(home) == worker and worker.pid and start_time(worker.pid) == worker.start_time:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, 9)
    if not _until(lambda: read_worker(home) != worker, grace):
        raise ConflictError(
            f"process {worker.pid} of {worker.deployment} does not end, though its controller is gone; end it and run "
            "again."
        )


def _present(services: Services, job: Job, *, check_mode: bool) -> Result:
    write, stale, diff = file_changes(job.files, services.owned())
    outcomes = [
        Outcome(item.instance, item.action, item.reason, item.action is not ActionKind.QUARANTINE)
        for item in job.actions
    ]
    changed = bool(write or stale) or any(item.action.changes for item in outcomes)
    diff += _actions_diff(outcomes)
    if check_mode or not changed:
        return Result(changed, tuple(outcomes), job.generation, tuple(diff))

    generation = Generation(
        job.generation.number + 1,
        hashlib.sha256(json.dumps([asdict(file) for file in job.files]).encode()).hexdigest()[:16],
        job.deployment,
        _now(),
        job.profile,
    )
    # Before the first change: wherever this ends, no other plan that was made before may pass.
    write_generation(job.home, generation)
    ending = [item.instance for item in outcomes if item.action in (ActionKind.STOP, ActionKind.RESTART)]
    look = inspect.read_instances(services, job.home) if ending else ((), {})  # while their files tell how they run
    _write(file for file in write if not file.per_instance)
    services.prepare()
    # prepare() may have cleared the definitions of a manager that was down, so what is there is looked at again.
    write, _stale, _diff = file_changes((file for file in job.files if file.per_instance), ())
    _write(write)
    end_all(services, ending, job, look)
    for path in stale:
        with writing(path):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a folder of drop-ins that held only ours
            path.parent.rmdir() if path.parent.name.endswith(".service.d") else None
    for item in outcomes:
        if item.action is ActionKind.STOP:
            services.forget(item.instance)
    services.reload()  # behind forget: what a manager still remembers would look like an instance to stop
    outcomes = _start_all(services, outcomes, job)
    return Result(True, tuple(outcomes), generation, tuple(diff))


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def check_key_files(job: Job) -> None:
    """Raise KeyFileError for a file of API keys that is missing or would leave a server open (check_api_keys)."""
    for name, instance in job.instances.items():
        path = instance.get("api_key_file")
        if path:
            where = f"instance {name}: its API key file {path}"
            try:
                text = Path(path).read_bytes().decode("utf-8", "replace")
            except OSError as error:
                raise KeyFileError(
                    f"{where} can't be read ({error.strerror}): write it on the host, or correct the option "
                    "api_key_file."
                ) from None
            check_api_keys(where, text)


def _write(files: Iterable[File]) -> None:
    for file in files:
        make_folder(Path(file.path).parent)
        write_atomic(file.path, file.content.encode("utf-8", "surrogateescape"), file.mode)


Look = tuple[tuple[Running, ...], Mapping[str, Mapping[str, str]]]
"""What inspect.read_instances returns."""


def end_all(services: Services, names: Sequence[str], job: Job, look: Look) -> None:
    """End the instances together, each gracefully: wait up to stop_timeout for its work in flight, then stop it."""
    if not names:
        return
    running, environments = look
    by_name = {item.name: item for item in running}

    def end(name: str) -> None:
        item = by_name.get(name)
        if item is None:
            return
        if item.pid is not None:
            drain(environments[name], job.stop_timeout)
        if item.pid is not None and item.state == "orphaned":
            _end_process(item.pid)
        else:
            services.stop(name)  # also one without a process: it may be about to start again

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(end, names))


def drain(environment: Mapping[str, str], timeout: float, pause: float = 0.25) -> bool:
    """Wait until the server of ``environment`` has no request in flight, at most ``timeout`` seconds; whether it has.

    llama-server does not drain on SIGTERM: it closes its listener and cuts live streams, hence this.
    """
    deadline = time.monotonic() + timeout
    while _busy(environment, min(2, max(0.1, timeout))):
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
    return True


def _busy(environment: Mapping[str, str], timeout: float) -> bool:
    """Whether a server works on a request or has one waiting, or does not say so (a hung one, a changed API key).

    Asked is /metrics (requests_processing and requests_deferred, tools/server/server.cpp), which does not wake a
    sleeping model, and where that is switched off, /slots. One that nobody can connect to, that still loads its model
    (503), or that has neither, is not busy as far as can be told.
    """
    key = inspect.api_key(environment)
    try:
        status, body = inspect.request(environment, "/metrics", timeout, key)
        if status in (404, 501):
            status, body = inspect.request(environment, "/slots", timeout, key)
            return status not in (404, 501, 503) and (
                status != 200 or any(slot["is_processing"] for slot in json.loads(body))
            )
        return status != 503 and (status != 200 or in_flight(body.decode("utf-8", "replace")) != 0)
    except (TimeoutError, socket.timeout):  # two until Python 3.10
        return True
    except OSError:
        return False
    except (http.client.HTTPException, ValueError, TypeError, KeyError, RecursionError):
        return True


def in_flight(metrics: str) -> float:
    """Return the requests that a server works on or has waiting, from its Prometheus text. Raises ValueError."""
    return sum(map(float, re.findall(r"^llamacpp:requests_(?:processing|deferred) (\S+)", metrics, re.MULTILINE)))


def _end_process(pid: int, grace: float = 5) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 15)
        if not _until(lambda: not Path(f"/proc/{pid}").exists(), grace):
            os.kill(pid, 9)
            _until(lambda: not Path(f"/proc/{pid}").exists(), grace)


def _until(condition: Callable[[], bool], seconds: float, pause: float = 0.05) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def _start_all(services: Services, outcomes: Sequence[Outcome], job: Job) -> Sequence[Outcome]:
    starting = [item.instance for item in outcomes if item.action in (ActionKind.START, ActionKind.RESTART)]
    if job.concurrent_starts:
        return _refused(outcomes, services.start(starting) if starting else {})
    for name in starting:
        refused = services.start([name])
        outcomes = _refused(outcomes, refused)
        if not refused:
            outcomes = _settle(services, outcomes, [name], job, job.max_startup_time)
    return outcomes


def _refused(outcomes: Iterable[Outcome], said: Mapping[str, str]) -> tuple[Outcome, ...]:
    """Return the outcomes with those that did not start for what their manager ``said`` of them, by name."""

    def outcome(item: Outcome) -> Outcome:
        if item.instance not in said:
            return item
        cause = start_refused(said[item.instance])
        return replace(item, launched=False, cause=cause.code, detail=cause.detail)

    return tuple(map(outcome, outcomes))


def _settle(
    services: Services, outcomes: Sequence[Outcome], names: Sequence[str], job: Job, seconds: float
) -> tuple[Outcome, ...]:
    """Return the outcomes with what became of the instances ``names`` within ``seconds``: ready, failed for good or,
    where that was all the time they have, not ready; else nothing yet."""
    found = inspect.await_ready(services, job.home, names, seconds, job.readiness_check_interval)

    def settled(item: Outcome) -> Outcome:
        if item.instance not in found:
            return item
        status, health = found[item.instance]
        failed = status.state in ("failed", "stopped")
        if health == 200 or (not failed and seconds < job.max_startup_time):
            return replace(item, ready=health == 200)
        log = services.logs(item.instance, inspect.LOG_LINES)
        cause = find_cause(log, status.exit_status) if failed else not_ready(job.max_startup_time, health)
        return replace(item, launched=not failed, cause=cause.code, detail=cause.detail, log=tuple(log))

    return tuple(map(settled, outcomes))


def stopped(services: Services, job: Job, names: Sequence[str] | None, *, check_mode: bool) -> Result:
    """Stop the instances ``names`` (None: all) gracefully; their definitions stay.

    Raises ConflictError, FileWriteError and ServiceError.
    """
    result, _look = _stopping(services, job, names)
    if check_mode or not result.changed:
        return result
    with exclusive(job.home, _worker(job)):
        result, look = _stopping(services, job, names)  # again: whoever had the lock has changed things
        if result.changed:
            generation = replace(
                result.generation,
                number=result.generation.number + 1,
                applied_by=job.deployment,
                applied_at=_now(),
            )
            write_generation(job.home, generation)  # a plan that was made before would keep what no longer runs
            end_all(services, [item.instance for item in result.outcomes], job, look)
            result = replace(result, generation=generation)
    return result


def _stopping(services: Services, job: Job, names: Sequence[str] | None) -> tuple[Result, Look]:
    look = inspect.read_instances(services, job.home)
    outcomes = tuple(
        Outcome(item.name, ActionKind.STOP, "asked for")
        for item in look[0]
        if (item.pid or item.state == "backoff") and (names is None or item.name in names)
    )
    there = tuple(item.name for item in look[0])
    diff = tuple(_actions_diff(outcomes))
    return Result(bool(outcomes), outcomes, read_generation(job.home), diff, instances=there), look


def absent(services: Services, job: Job, *, check_mode: bool, also: Iterable[str] = ()) -> Result:
    """Stop everything of ours and remove it: instances, definitions, the manager where it is ours, our state, and the
    files ``also``. Raises ConflictError, FileWriteError and ServiceError."""
    home = Path(job.home)
    also = list(map(Path, also))
    result, _look = _removing(services, job, also)
    if check_mode or not result.changed:
        return result
    with exclusive(job.home, _worker(job)):
        result, look = _removing(services, job, also)  # again: whoever had the lock has changed things
        names = [item.instance for item in result.outcomes]
        end_all(services, names, job, look)
        for name in names:
            services.forget(name)
        services.remove()
        for path in (home / "generation.json", *also, home / "lock"):
            with writing(path):
                path.unlink(missing_ok=True)
    for folder in (home, *(path.parent for path in also if path.parent.name == "magi")):
        with contextlib.suppress(OSError):
            folder.rmdir()  # only when nothing else is in it
    return result


def _removing(services: Services, job: Job, also: Iterable[Path]) -> tuple[Result, Look]:
    look = inspect.read_instances(services, job.home)
    home = Path(job.home)
    state = any(path.exists() for path in (home / "generation.json", home / "lock", *also))
    ours = [*services.owned(), *services.common()]
    outcomes = tuple(Outcome(item.name, ActionKind.REMOVE, "teardown") for item in look[0])
    diff = [_diff(str(path), _content(path) or "", "") for path in ours] + _actions_diff(outcomes)
    there = tuple(item.name for item in look[0])
    return Result(bool(ours or state or outcomes), outcomes, Generation(), tuple(diff), instances=there), look
