"""Running a playbook by ansible-runner: the one place that starts processes. Keeps no secret, leaves no worker."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from magi.errors import MagiError, UsageError
from magi.events import Event, Run, event
from magi.project import Project

KEEP = 20
"""Run folders that are kept of each playbook, besides those of runs at work: many looks push out no deployment."""
OUTPUT = "output.log"
"""The file of a run folder with all that Ansible printed."""
QUESTIONS = "questions"
"""The folder beside those of the runs for what may be in no variable (workbench.passed_by_file)."""
GRACE = 10
"""Seconds that Ansible has to end by itself when a run is stopped."""
CALLBACK = ("ANSIBLE_CALLBACK_PLUGINS", "ANSIBLE_STDOUT_CALLBACK", "ORIGINAL_STDOUT_CALLBACK", "AWX_ISOLATED_DATA_DIR")
"""Environment variables of ansible-runner by which its callback is found and tells it what happens. It sets more that
is ours or the user's to decide: a cache of facts, and that SSH takes any host key (ansible_runner/config/_base.py)."""
MARK = "MAGI_RUN"
"""Environment variable by which the processes of a run are known, wherever they went: workers leave their group."""


@dataclass(frozen=True)
class Options:
    """What is passed through to ansible-playbook."""

    inventory: tuple[str, ...] = ()
    limit: str | None = None
    extra_vars: tuple[str, ...] = ()
    """As -e takes them: ``key=value``, JSON, or ``@file``."""
    tags: str | None = None
    check: bool = False
    diff: bool = False
    verbosity: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    """What .env gave, under the real environment."""


def command_line(playbook: str, options: Options, variables: Mapping[str, Any]) -> list[str]:
    """Return the arguments of ansible-playbook. ``variables`` are ours, and go in as one JSON document."""
    arguments = ["ansible-playbook"]
    for inventory in options.inventory:
        arguments += ["-i", inventory]
    arguments += ["--limit", options.limit] if options.limit else []
    arguments += ["--tags", options.tags] if options.tags else []
    for given in options.extra_vars:
        arguments += ["-e", given]
    arguments += ["-e", json.dumps(variables, sort_keys=True)] if variables else []
    arguments += ["--check"] if options.check else []
    arguments += ["--diff"] if options.diff else []
    arguments += ["-" + "v" * options.verbosity] if options.verbosity else []
    return [*arguments, playbook]


def state_folder() -> Path:
    """Return where magi keeps what it remembers (XDG base directories), made for its user alone. Raises OSError."""
    given = os.environ.get("XDG_STATE_HOME")
    try:
        folder = Path(given or Path.home() / ".local" / "state") / "magi"
    except RuntimeError:  # neither HOME nor an entry among the users of this machine
        raise FileNotFoundError(errno.ENOENT, "this user has no home folder", "~/.local/state") from None
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def unwritable(error: OSError, path: Path | None = None) -> str:
    """Return the sentence on what magi can't keep, at ``path`` where the error names none."""
    return f"{error.filename or path} can't be written ({error.strerror}): free it, or set XDG_STATE_HOME."


def _new_folder(name: str) -> Path:
    """Make the folder of a run, for its user alone, and remove what the runs before left: of each playbook all but the
    last folders, and what only a magi that was killed leaves. Raises UsageError."""
    try:
        state = state_folder()
        runs = state / "runs"
        runs.mkdir(mode=0o700, exist_ok=True)
        folder = runs / f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{name}-{uuid.uuid4().hex[:6]}"
        folder.mkdir(mode=0o700)
        # Not ours, however clocks go: its output is not held yet.
        finished = sorted(path for path in runs.iterdir() if path != folder and not is_held(path / OUTPUT))
        same = [path for path in finished if path.name.partition("-")[2].rpartition("-")[0] == name]
        for old in same[: 1 - KEEP]:
            shutil.rmtree(old, ignore_errors=True)
        for left in (path / part for path in finished for part in ("artifacts", "project")):
            shutil.rmtree(left, ignore_errors=True)
        for question in (state / QUESTIONS).glob("*"):
            if not is_held(question):
                question.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(unwritable(error)) from None
    return folder


def is_held(path: Path) -> bool:
    """Whether a process at work holds the file: its lock ends with the process, however that ends."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


class _Withheld(dict):
    """An environment that a process gets and no file: ansible-runner writes it into its artifacts as JSON, where this
    is an empty object."""

    def __init__(self, environment: Mapping[str, str]):
        super().__init__()
        self.environment = environment

    def items(self) -> Any:
        return self.environment.items()


def run(
    project: Project,
    playbook: str,
    options: Options,
    variables: Mapping[str, Any] | None = None,
    *,
    on_event: Callable[[Event], None] = lambda event: None,
    stop: threading.Event | None = None,
) -> Run:
    """Run a playbook of the project to its end and return what happened; ``stop`` ends it early.

    ``on_event`` is called in this thread with each event as it comes; what it raises ends the run and is raised here.
    Raises UsageError when the run can't begin, and MagiError when what it prints can't be kept.
    """
    path = project.playbook(playbook)
    if stop and stop.is_set():
        return Run(None, (), interrupted=True)
    from ansible_runner.config.runner import RunnerConfig  # slow to import, and not needed for --help
    from ansible_runner.runner import Runner

    folder = _new_folder(playbook)
    ident = uuid.uuid4().hex
    events: list[Event] = []
    raised: list[BaseException] = []
    output = folder / OUTPUT
    ending = _Ending(ident, stop or threading.Event())

    def handle(raw: dict[str, Any], log: TextIO) -> bool:
        """Never raises, which would end the run without a result; False: the event is not written to a file."""
        try:
            text = raw["stdout"] = _GIVEN.sub(r"\1…", raw.get("stdout") or "")
            if text:
                try:
                    log.write(text + "\n")
                except OSError as error:
                    raise MagiError(unwritable(error, output)) from None
            found = event(raw)
            if found and not raised:
                events.append(found)
                on_event(found)
        except BaseException as error:  # told at the end
            raised.append(error)
            ending.stop.set()
        return False

    with _opened(output) as log:
        config = RunnerConfig(
            private_data_dir=str(folder),
            playbook=path,
            ident=ident,
            suppress_output_file=True,
        )
        config.prepare()
        # What env/settings would say: nothing on our standard output, and a look at `stop` every 0.1 s.
        config.suppress_ansible_output, config.pexpect_timeout = True, 0.1
        config.command = []
        config.cwd = os.getcwd()  # relative paths, in the environment too, mean what they mean to ansible-playbook
        config.env = _Withheld(_environment(project, options, config.env, ident))
        try:
            runner = Runner(
                config,
                event_handler=lambda raw: handle(raw, log),
                cancel_callback=ending.is_due,
                status_handler=_give_command(config.command, command_line(path, options, variables or {})),
            )
            runner.run()
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise MagiError(unwritable(error, folder)) from None
        finally:
            ending.kill_rest()
            shutil.rmtree(config.artifact_dir, ignore_errors=True)
            for name in ("artifacts", "project"):
                with contextlib.suppress(OSError):
                    (folder / name).rmdir()
    if raised:
        raise raised[0]
    rc = runner.rc if isinstance(runner.rc, int) else None
    return Run(rc, tuple(events), ending.stop.is_set(), str(output))


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# What Ansible prints of its own command line with -vvvv: a user may have given secrets by -e.
_GIVEN = re.compile(r"^((?:\x1b\[[\d;]*m)?extra_vars: )\(.*\)", re.MULTILINE)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """Yield the file of a run's output, held and for its user alone, each line written at once."""
    log = open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w", 1, encoding="utf-8", errors="replace")  # noqa: SIM115
    try:
        fcntl.flock(log, fcntl.LOCK_EX)
        yield log
    finally:
        with contextlib.suppress(OSError):  # told when it was written
            log.close()


def _give_command(command: list[str], arguments: Sequence[str]) -> Callable[..., None]:
    """Return a status handler that fills in the command line once ansible-runner has written what it knows of it into
    a file, right before the start: what a user gave by -e may be secret."""

    def handle(status: Mapping[str, Any], **_more: Any) -> None:
        if status.get("status") == "running":
            command.extend(arguments)

    return handle


def _environment(project: Project, options: Options, runner: Mapping[str, str], ident: str) -> dict[str, str]:
    """Return the environment of ansible-playbook: .env, over it the real one, over it what a run needs."""
    given = {key: runner[key] for key in CALLBACK if key in runner}
    environment = {**options.environment, **os.environ, **given}
    return {
        **environment,
        # Without an activated virtual environment, its programs are still the ones that belong to us.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]),
        **project.environment(environment),
        "ANSIBLE_RETRY_FILES_ENABLED": "False",
        # As in the project's ansible.cfg: half of the hosts that were asked for are not a success.
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "True",
        "ANSIBLE_HOST_PATTERN_MISMATCH": "error",
        MARK: ident,
    }


class _Ending:
    """Ends a run: Ansible by an interrupt, so that it ends its workers; what is left after a while by force."""

    def __init__(self, ident: str, stop: threading.Event):
        self.ident = ident
        self.stop = stop
        self.deadline: float | None = None

    def is_due(self) -> bool:
        """Whether ansible-runner shall kill what is left. Called by it every 0.1 s."""
        if not self.stop.is_set():
            return False
        if self.deadline is None:
            self.deadline = time.monotonic() + GRACE
            for pid in self._processes(children=True):
                _signal(pid, signal.SIGINT)
        return time.monotonic() > self.deadline

    def kill_rest(self) -> None:
        """Kill what is left of the run on this machine, and wait until it is gone."""
        deadline = time.monotonic() + GRACE
        while (pids := self._processes()) and time.monotonic() < deadline:
            for pid in pids:
                _signal(pid, signal.SIGKILL)
            time.sleep(0.02)

    def _processes(self, *, children: bool = False) -> list[int]:
        """Return the processes of the run; only ``children`` of ours, or all. SSH's shared connections are left: other
        runs use them too."""
        mark = f"{MARK}={self.ident}".encode()
        found = []
        for entry in Path("/proc").iterdir() if Path("/proc").is_dir() else ():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if mark not in (entry / "environ").read_bytes().split(b"\0"):
                    continue
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                shared = (entry / "cmdline").read_bytes().startswith(b"ssh: ")
                if state != "Z" and not shared and (not children or int(parent) == os.getpid()):
                    found.append(int(entry.name))
        return found


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
