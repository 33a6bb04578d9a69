"""A run of a playbook: the one place that starts processes. Keeps no secret, leaves no worker."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from magi.errors import MagiError
from magi.events import Event, Run, event
from magi.project import Project
from magi.runner.options import Options, command_line, environment
from magi.runner.processes import Ending
from magi.state.folder import unwritable
from magi.state.runs import OUTPUT, run_folder


class _Withheld(dict[str, str]):
    """An environment for a process and no file: ansible-runner writes it into its artifacts as JSON, in which this is
    an empty object."""

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
    on_event: Callable[[Event], bool | None] = lambda event: None,
    stop: threading.Event | None = None,
) -> Run:
    """Run a playbook of the project to its end and return what happened; ``stop`` ends it early.

    ``on_event`` is called in this thread with each event as it comes; one for which it returns True is kept nowhere. An
    exception from it ends the run and is raised here. Raises UsageError if the run can't begin, and MagiError if its
    output can't be kept.
    """
    path = project.playbook(playbook)
    if stop and stop.is_set():
        return Run(None, (), interrupted=True)
    from ansible_runner.config.runner import RunnerConfig  # slow to import, and not needed for --help
    from ansible_runner.runner import Runner

    events: list[Event] = []
    raised: list[BaseException] = []
    stop = stop or threading.Event()

    def handle(raw: dict[str, Any], log: TextIO) -> bool:
        """Never raises, since that would end the run without a result; False: don't write the event to a file."""
        try:
            text = raw["stdout"] = _GIVEN.sub(r"\1…", raw.get("stdout") or "")
            found = event(raw)
            if found and not raised and on_event(found):
                return False
            if text:
                try:
                    log.write(text + "\n")
                except OSError as error:
                    raise MagiError(unwritable(error, output)) from None
            if found:
                events.append(found)
        except BaseException as error:  # said at the end
            raised.append(error)
            stop.set()
        return False

    with run_folder(playbook) as (folder, log, killed):
        output, ident = folder / OUTPUT, folder.name
        ending = Ending(ident, stop)
        for left in killed:  # its Ansible may be at work still
            Ending(left, stop).kill_rest()
        config = RunnerConfig(
            private_data_dir=str(folder),
            playbook=path,
            ident=ident,
            suppress_output_file=True,
        )
        config.prepare()
        # In place of env/settings: nothing on our standard output, and a look at `stop` every 0.1 s.
        config.suppress_ansible_output, config.pexpect_timeout = True, 0.1
        config.command = []
        config.cwd = os.getcwd()  # relative paths, also in the environment, mean the same as in ansible-playbook
        config.env = _Withheld(environment(project, options, config.env, ident))
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
    return Run(rc, tuple(events), stop.is_set(), str(output))


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# What Ansible prints of its own command line with -vvvv: a user may have given secrets by -e.
_GIVEN = re.compile(r"^((?:\x1b\[[\d;]*m)?extra_vars: )\(.*\)", re.MULTILINE)


def _give_command(command: list[str], arguments: Sequence[str]) -> Callable[..., None]:
    """Return a status handler that fills in the command line right before the start, once ansible-runner has written
    its version into a file: a value of -e may be a secret."""

    def handle(status: Mapping[str, Any], **_more: Any) -> None:
        if status.get("status") == "running":
            command.extend(arguments)

    return handle
