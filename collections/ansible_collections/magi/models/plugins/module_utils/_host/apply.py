# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Applying a plan on a host: the one place that changes anything. The plan has decided what to do."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.files import (
    check_writable,
    content_of,
    diff_of,
    make_folder,
    write_atomic,
    writing,
)
from ansible_collections.magi.models.plugins.module_utils._base.history import forget, generations, history, remember
from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind, State
from ansible_collections.magi.models.plugins.module_utils._host.claims import check_claim, claims_file, end_claim
from ansible_collections.magi.models.plugins.module_utils._host.inspect import LOG_LINES, Survey, read_instances
from ansible_collections.magi.models.plugins.module_utils._host.lock import (
    ConflictError,
    check_generation,
    exclusive,
    read_generation,
    read_holder,
    write_generation,
)
from ansible_collections.magi.models.plugins.module_utils._host.procfs import start_time
from ansible_collections.magi.models.plugins.module_utils._host.values import Claim, Generation, Holder, memory_limit
from ansible_collections.magi.models.plugins.module_utils._host.wait import await_ready
from ansible_collections.magi.models.plugins.module_utils._llama.cause import (
    Cause,
    address_unavailable,
    find_cause,
    not_ready,
    port_taken,
    start_refused,
)
from ansible_collections.magi.models.plugins.module_utils._llama.client import port_of
from ansible_collections.magi.models.plugins.module_utils._llama.drain import drain
from ansible_collections.magi.models.plugins.module_utils._llama.keys import KeyFileError, check_api_keys
from ansible_collections.magi.models.plugins.module_utils._plan.values import Action, ActionResult, overtaken
from ansible_collections.magi.models.plugins.module_utils._services.choice import others
from ansible_collections.magi.models.plugins.module_utils._services.manager import ServiceManager, environment_file
from ansible_collections.magi.models.plugins.module_utils._services.values import ServiceError, ServiceFile

FIRST_LOOK = 10
"""Seconds that a launch waits for its servers; most are ready by then, and the health check waits for the others."""

PATIENCE = 30
"""Seconds that a deployment waits for another to give way, if neither is sure to be first (check_claim)."""


@dataclass(frozen=True)
class Job:
    """Everything that one call on a host needs (see the module llama_instances for the meaning)."""

    home: str
    files: Sequence[ServiceFile]
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
    claim: Claim | None = None
    """The claim of the deployment to this host; None: it makes none."""
    unreached: Sequence[str] = ()
    """Hosts of the deployment that it could not claim."""
    beside: bool = False
    """Only ``actions`` and ``files`` come now, beside all that runs; the rest of the plan follows in another call."""
    followed: bool = False
    """Another call of the deployment follows: its claim goes on."""
    began_at: float = 0
    """When the deployment began, or that which comes back did (Generation)."""
    plan: Mapping[str, Any] = field(default_factory=dict)
    """What it is made of, to be remembered."""


@dataclass(frozen=True)
class Applied:
    changed: bool
    actions: tuple[ActionResult, ...] = ()
    generation: Generation = field(default_factory=Generation)
    diff: tuple[dict[str, str], ...] = ()
    waited: float = 0
    """Seconds since the last start."""
    instances: tuple[str, ...] = ()
    """Names of all instances on the host before."""
    workers: tuple[str, ...] = ()
    """Workers that were left, for a second call."""


def files_of(manager: ServiceManager, home: str, began_at: float, names: Iterable[str]) -> list[ServiceFile]:
    """Return the files that a remembered deployment made for the instances ``names``, and those that they share.

    Raises ServiceError if it is not remembered any more, and there are any.
    """
    names = tuple(names)
    entry = next((item for item in history(home) if item["began_at"] == began_at), None)
    if entry is None and not names:
        return []
    if entry is None:
        raise ServiceError(f"{home}/generations has no deployment of {began_at} any more; run again.")
    own = {template.destination.format(home=home, name=name) for name in names for template in manager.templates}
    files = [ServiceFile(**item) for item in entry["files"]]
    return [file for file in files if not file.per_instance or file.path in own]


def file_changes(
    files: Iterable[ServiceFile], owned: Iterable[Path]
) -> tuple[list[ServiceFile], list[Path], list[dict[str, str]]]:
    """Return the files to write, the stale ones to remove, and the diff. Reads the disk, writes nothing."""
    files = list(files)
    write, diff = [], []
    for file in files:
        before = content_of(Path(file.path))
        mode = None if before is None else Path(file.path).stat().st_mode & 0o7777
        if (before, mode) != (file.content, file.mode):
            write.append(file)
            diff.append(diff_of(file.path, before or "", file.content))
    wanted = {file.path for file in files}
    stale = [path for path in owned if str(path) not in wanted]
    return write, stale, diff + _files_diff(stale)


def _actions_diff(actions: Iterable[Action]) -> list[dict[str, str]]:
    lines = [f"{item.action} {item.instance}: {item.reason}\n" for item in actions if item.action.changes]
    return [{"prepared": "".join(lines)}] if lines else []


def present(manager: ServiceManager, job: Job, *, check_mode: bool) -> Applied:
    """Make the host run the plan: write the definitions, stop old instances, start new ones, wait until they listen.

    Raises ConflictError, FileWriteError, KeyFileError and ServiceError. If a server does not start, its ActionResult
    says why.
    """
    if check_mode:
        check_key_files(job)
        check_generation(job.home, job.generation)
        return _present(manager, job, check_mode=True)
    with _claimed(job):
        check_key_files(job)
        with exclusive(job.home, _holder(job)):
            if job.claim:  # from here on, others see the lock
                check_claim(job.home, job.claim, job.unreached)
            check_generation(job.home, job.generation)
            result = _present(manager, job, check_mode=False)
    begun = time.monotonic()
    names = [item.instance for item in result.actions if item.loads and item.instance in job.instances]
    actions = _settle(manager, result.actions, names, job, min(FIRST_LOOK, job.max_startup_time))
    now = read_generation(job.home)
    if not now.same(result.generation):  # the lock is free while they are waited for
        actions = tuple(
            replace(item, cause=overtaken(now), log=()) if item.cause and item.instance in names else item
            for item in actions
        )
    return replace(result, actions=actions, waited=time.monotonic() - begun)


@contextlib.contextmanager
def _claimed(job: Job) -> Iterator[None]:
    """Within it, the deployment has the host that it claimed; behind it no more, unless it comes again. Raises
    ConflictError."""
    if job.claim is None:
        yield
        return
    keep = False
    try:
        check_claim(job.home, job.claim, job.unreached, PATIENCE)
        yield
        keep = job.followed
    finally:
        if not keep:
            end_claim(job.home, job.claim)


def _holder(job: Job) -> Holder:
    pid = os.getpid()
    return Holder(job.deployment, job.controller, job.controller_pid, pid, start_time(pid))


def fence(home: str, holder: Holder, grace: float = 10) -> None:
    """End the ``holder`` of the lock, whose controller is gone, so that its deployment can't go on beside a new one.

    Killed at any point, it leaves nothing half written, and the next plan sees what it left undone. Raises
    ConflictError if the lock isn't free after ``grace`` seconds.
    """
    if read_holder(home) == holder and holder.pid and start_time(holder.pid) == holder.start_time:
        with contextlib.suppress(ProcessLookupError):
            os.kill(holder.pid, 9)
    if not _until(lambda: read_holder(home) != holder, grace):
        raise ConflictError(
            f"process {holder.pid} of {holder.deployment} does not end, though its controller is gone; end it and run "
            "again."
        )


def _present(manager: ServiceManager, job: Job, *, check_mode: bool) -> Applied:
    before = others(manager, job.home)
    if job.beside and (before or manager.outdated()):  # to replace it would end what runs
        return Applied(False, generation=job.generation)
    left = _files_left(manager, job)
    owned = () if job.beside else (path for path in manager.owned() if str(path) not in left)
    write, stale, diff = file_changes(job.files, owned)
    diff += _files_diff(path for path in _files_of(before) if str(path) not in {file.path for file in job.files})
    results = [ActionResult(item, item.action is not ActionKind.QUARANTINE) for item in job.actions]
    back = 0 < job.began_at < job.generation.began_at  # to what an earlier deployment made, even if that is the same
    changed = bool(write or stale or before) or any(item.action.changes for item in job.actions) or back
    diff += _actions_diff(job.actions)
    if check_mode or not changed:
        if not check_mode and job.began_at == job.generation.began_at:  # all of it has started beside
            _remember(job, job.generation)
        return Applied(changed, tuple(results), job.generation, tuple(diff))
    # Before anything is stopped.
    check_writable([*(file.path for file in write), *stale, *manager.needs()])

    generation = Generation(
        job.generation.number + 1,
        hashlib.sha256(json.dumps([asdict(file) for file in job.files]).encode()).hexdigest()[:16],
        job.deployment,
        _now(),
        job.profile,
        job.began_at,
    )
    # Before the first change: wherever this ends, older plans must be refused.
    write_generation(job.home, generation)
    _remember(job, generation)
    ending = [item.instance for item in job.actions if item.action in (ActionKind.STOP, ActionKind.RESTART)]
    _regain(manager, job.home)
    replaced = manager.outdated()
    survey = (
        read_instances(manager, job.home) if ending or replaced or before else Survey()
    )  # while their files still say how they run
    cut = {}
    if replaced:
        cut = end_all(manager, [item.name for item in survey.instances], job, survey)
    elif before:
        moving = [item.name for item in survey.instances if item.manager and item.name not in ending]
        cut = end_all(manager, [*ending, *moving], job, survey)
        _remove_all(before)
        write, _stale, _diff = file_changes(job.files, ())  # what they had in common is gone
    _write(file for file in write if not file.per_instance)
    manager.prepare()
    # prepare() may have cleared the definitions of a manager that was down, so look again.
    write, _stale, _diff = file_changes((file for file in job.files if file.per_instance), ())
    _write(write)
    if not replaced and not before:
        cut = end_all(manager, ending, job, survey)
    for path in stale:
        with writing(path):
            manager.discard(path)
    for item in job.actions:
        if item.action is ActionKind.STOP:
            manager.forget(item.instance)
    manager.reload()  # after forget: whatever a manager still remembers would look like an instance to stop
    results = _start_all(manager, _cut(results, cut), job)
    if job.plan and not job.beside:  # a rollback needs those of the others that are remembered
        plans = [job.plan, *(made["plan"] for made in history(job.home))]
        manager.tidy({plan["llama_server_path"] for plan in plans if "llama_server_path" in plan})
    return Applied(True, tuple(results), generation, tuple(diff))


def _files_of(managers: Iterable[ServiceManager]) -> list[Path]:
    return [path for manager in managers for path in (*manager.owned(), *manager.common())]


def _remove_all(managers: Iterable[ServiceManager]) -> None:
    """Remove managers whose instances have ended, with all that is left of these."""
    for manager in managers:
        for name in manager.status():
            manager.forget(name)
        manager.remove()


def _regain(manager: ServiceManager, home: str) -> None:
    for each in (manager, *others(manager, home)):
        each.regain()


def _files_diff(paths: Iterable[Path]) -> list[dict[str, str]]:
    return [diff_of(str(path), content_of(path) or "", "") for path in dict.fromkeys(paths)]


def _remember(job: Job, generation: Generation) -> None:
    if job.began_at and not job.beside:
        files = [asdict(file) for file in job.files]
        remember(job.home, job.began_at, {"generation": asdict(generation), "plan": job.plan, "files": files})


def _files_left(manager: ServiceManager, job: Job) -> set[str]:
    """Return the files of instances that run on as they are, although the plan does not write them."""
    names = [item.instance for item in job.actions if not item.action.changes and item.instance not in job.instances]
    own = [template.destination for template in manager.templates if template.per_instance]
    return {destination.format(home=job.home, name=name) for name in names for destination in own}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def check_key_files(job: Job) -> None:
    """Raise KeyFileError for an API key file that is missing or would leave a server open (check_api_keys)."""
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


def _write(files: Iterable[ServiceFile]) -> None:
    for file in files:
        make_folder(Path(file.path).parent)
        write_atomic(file.path, file.content.encode("utf-8", "surrogateescape"), file.mode)


def end_all(manager: ServiceManager, names: Sequence[str], job: Job, survey: Survey) -> dict[str, int | None]:
    """End the instances together, each gracefully: wait up to stop_timeout for its requests, then stop it. Return by
    name how many requests were cut (see ActionResult)."""
    if not names:
        return {}
    by_name = {item.name: item for item in survey.instances}
    managers = (manager, *others(manager, job.home))

    def end(name: str) -> int | None:
        item = by_name.get(name)
        if item is None:
            return 0
        asks = item.pid is not None and not item.server  # no client asks a worker but its server, which has ended
        left = drain(survey.asked[name], job.stop_timeout) if asks else 0
        if item.pid is not None and item.state is State.ORPHANED:
            _end_process(item.pid)
        else:
            for each in managers:
                each.stop(name)  # also without a process: it may be about to start again
        return left

    with ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(names, pool.map(end, names)))


def _cut(results: Iterable[ActionResult], cut: Mapping[str, int | None]) -> tuple[ActionResult, ...]:
    return tuple(replace(item, cut=cut.get(item.instance, 0)) for item in results)


def _end_process(pid: int, grace: float = 5) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 15)
        if not _until(lambda: not start_time(pid), grace):
            os.kill(pid, 9)
            _until(lambda: not start_time(pid), grace)


def _until(condition: Callable[[], bool], seconds: float, pause: float = 0.05) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def _start_all(manager: ServiceManager, results: Sequence[ActionResult], job: Job) -> Sequence[ActionResult]:
    starting = [item.instance for item in job.actions if item.action in (ActionKind.START, ActionKind.RESTART)]
    if job.concurrent_starts:
        return _refused(results, manager.start(starting) if starting else {})
    for name in starting:
        refused = manager.start([name])
        results = _refused(results, refused)
        if not refused:
            results = _settle(manager, results, [name], job, job.max_startup_time)
    return results


def _refused(results: Iterable[ActionResult], said: Mapping[str, str]) -> tuple[ActionResult, ...]:
    """Return the results with those that did not start, for the reason that their manager ``said``, by name."""

    def outcome(item: ActionResult) -> ActionResult:
        if item.instance not in said:
            return item
        return replace(item, launched=False, cause=start_refused(said[item.instance]))

    return tuple(map(outcome, results))


def _settle(
    manager: ServiceManager, results: Sequence[ActionResult], names: Sequence[str], job: Job, seconds: float
) -> tuple[ActionResult, ...]:
    """Return the results with the outcome of the instances ``names`` after ``seconds``: ready, failed for good or, if
    their time is up, not ready; else none yet."""
    found = await_ready(manager, job.home, names, seconds, job.readiness_check_interval)

    def settled(item: ActionResult) -> ActionResult:
        if item.instance not in found:
            return item
        status, health = found[item.instance]
        failed = status.state in (State.FAILED, State.STOPPED)
        if health == 200 or (not failed and seconds < job.max_startup_time):
            return replace(item, ready=health == 200)
        log = manager.logs(item.instance, LOG_LINES)
        cause = not_ready(time.time() - status.started_at if status.started_at else seconds, health)
        if failed:
            environment = environment_file(job.home, item.instance)
            cause = find_cause(log, status.exit_status, memory_limit(environment))
            cause = _unbound(environment, manager) if cause.code == "port_taken" else cause
        return replace(item, launched=not failed, cause=cause, log=tuple(log))

    return tuple(map(settled, results))


def _unbound(environment: Mapping[str, str], manager: ServiceManager) -> Cause:
    """Return why a server of ``environment`` could not bind its port. It does not say why, so try the port."""
    port = port_of(environment) or 0
    for address in environment.get("LLAMA_ARG_HOST", "127.0.0.1").split(","):
        try:
            where = socket.getaddrinfo(address.strip(), port, type=socket.SOCK_STREAM)[0]
            with socket.socket(where[0], where[1]) as bound:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                bound.bind(where[4])
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return port_taken(f"{address}, port {port}")
            return address_unavailable(address, port, error.strerror or str(error))
    if port < 1024 and manager.capabilities.own_user:
        return address_unavailable(address, port, "only root may bind ports below 1024")
    return port_taken(f"port {port}")


def stopped(
    manager: ServiceManager, job: Job, names: Sequence[str] | None, *, check_mode: bool, workers: bool = True
) -> Applied:
    """Stop the instances ``names`` (None: all) gracefully; their definitions stay. Without ``workers``, these are left.

    Raises ConflictError, FileWriteError and ServiceError.
    """
    result, _survey = _stopping(manager, job, names, workers)
    if check_mode or not result.changed:
        return result
    with exclusive(job.home, _holder(job)):
        _regain(manager, job.home)
        result, survey = _stopping(manager, job, names, workers)  # again: whoever had the lock has changed things
        if result.changed:
            generation = replace(
                result.generation,
                number=result.generation.number + 1,
                applied_by=job.deployment,
                applied_at=_now(),
            )
            write_generation(job.home, generation)  # an older plan would keep what no longer runs
            cut = end_all(manager, [item.instance for item in result.actions], job, survey)
            result = replace(result, generation=generation, actions=_cut(result.actions, cut))
    return result


def _stopping(manager: ServiceManager, job: Job, names: Sequence[str] | None, workers: bool) -> tuple[Applied, Survey]:
    survey = read_instances(manager, job.home)
    meant = [
        item
        for item in survey.instances
        if (item.pid or item.state is State.BACKOFF) and (names is None or item.name in names)
    ]
    actions = tuple(Action(item.name, ActionKind.STOP, "asked for") for item in meant if workers or not item.server)
    found = _foreseen(bool(actions), actions, read_generation(job.home), _actions_diff(actions), survey)
    left = () if workers else tuple(item.name for item in meant if item.server)
    return replace(found, workers=left), survey


def absent(
    manager: ServiceManager, job: Job, *, check_mode: bool, also: Iterable[str] = (), workers: bool = True
) -> Applied:
    """Stop everything of ours and remove it: instances, definitions, the manager where it is ours, our state, and the
    files ``also``. Without ``workers``, where there are some that run, all others are stopped, and no more.

    Raises ConflictError, FileWriteError and ServiceError."""
    if not workers and _stopping(manager, job, None, workers)[0].workers:
        return stopped(manager, job, None, check_mode=check_mode, workers=False)
    home = Path(job.home)
    also = list(map(Path, also))
    result, _survey = _removing(manager, job, also)
    if check_mode or not result.changed:
        return result
    with exclusive(job.home, _holder(job)):
        _regain(manager, job.home)
        result, survey = _removing(manager, job, also)  # again: whoever had the lock has changed things
        names = [item.instance for item in result.actions]
        before = others(manager, job.home)
        result = replace(result, actions=_cut(result.actions, end_all(manager, names, job, survey)))
        _remove_all(before)
        for name in names:
            manager.forget(name)
        manager.remove()
        forget(job.home)
        for path in (home / "generation.json", *also, claims_file(job.home), home / "lock"):
            with writing(path):
                path.unlink(missing_ok=True)
    for folder in (home, *(path.parent for path in also if path.parent.name == "magi")):
        with contextlib.suppress(OSError):
            folder.rmdir()  # only when nothing else is in it
    return result


def _removing(manager: ServiceManager, job: Job, also: Iterable[Path]) -> tuple[Applied, Survey]:
    survey = read_instances(manager, job.home)
    home = Path(job.home)
    state = any(path.exists() for path in (home / "generation.json", home / "lock", claims_file(job.home), *also))
    state = state or bool(generations(job.home))
    ours = _files_of((manager, *others(manager, job.home)))
    actions = tuple(Action(item.name, ActionKind.REMOVE, "teardown") for item in survey.instances)
    diff = _files_diff(ours) + _actions_diff(actions)
    return _foreseen(bool(ours or state or actions), actions, Generation(), diff, survey), survey


def _foreseen(
    changed: bool, actions: Iterable[Action], generation: Generation, diff: Iterable[dict[str, str]], survey: Survey
) -> Applied:
    names = tuple(item.name for item in survey.instances)
    return Applied(changed, tuple(map(ActionResult, actions)), generation, tuple(diff), instances=names)
