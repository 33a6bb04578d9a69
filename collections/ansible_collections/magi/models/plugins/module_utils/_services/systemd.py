# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""systemd: one hardened template unit for all instances, and an environment file for each."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.magi.models.plugins.module_utils._base.states import State
from ansible_collections.magi.models.plugins.module_utils._base.text import is_utf8
from ansible_collections.magi.models.plugins.module_utils._services.manager import (
    HostProgram,
    clear,
    environment_value,
    instance_files,
    names,
    needed,
    ways,
)
from ansible_collections.magi.models.plugins.module_utils._services.preset import preset
from ansible_collections.magi.models.plugins.module_utils._services.values import (
    Capabilities,
    Filters,
    ServiceError,
    Status,
    Template,
)

HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
"""The folders that the unit's ProtectHome= replaces by empty ones; only those that it binds are put back
(systemd.exec(5))."""
UNITS = Path("/etc/systemd/system")
FOLDERS = tuple(
    Path(base, "magi-llama") for base in ("/var/lib", "/var/lib/private", "/var/cache", "/var/cache/private")
)
"""Made by StateDirectory= and CacheDirectory= of a dynamic user (systemd.exec(5))."""


def systemd_value(text: str) -> str:
    """Return ``text`` as a value that is taken up to the end of its line: specifiers (%) doubled (systemd.unit(5)).

    Raises ValueError for what a unit file can't hold.
    """
    if re.search(r"[\x00-\x1f\x7f]|[ \\]$", text) or not is_utf8(text):
        raise ValueError(
            f"systemd's unit files can't hold {text!a}: it has control characters, is not UTF-8, or ends in a space "
            "or a backslash"
        )
    return text.replace("%", "%%")


def systemd_path(text: str) -> str:
    """Return ``text`` as one word of a list of paths, or the program of ExecStart=.

    In double quotes, a backslash doubled; a double quote outside of them in single quotes. This one form is read back
    the same by all of systemd's ways to split words (docs/systemd.md).
    """
    escaped = systemd_value(text).replace("\\", "\\\\").replace('"', '"\'"\'"')
    return f'"{escaped}"'


def systemd_argument(text: str) -> str:
    """Return ``text`` as one argument of ExecStart=, where $ also starts a variable (systemd.service(5))."""
    return systemd_path(text).replace("$", "$$")


def systemd_program(text: str) -> str:
    """Return ``text`` as the program of ExecStart=, where systemd itself refuses quotes and backslashes ("Executable
    name contains special characters", src/core/load-fragment.c). Raises ValueError for these."""
    if re.search(r"['\"\\\\]", text):
        raise ValueError(
            f"systemd runs no program with a quote or a backslash in its path, as {text!a} has: move or link it to "
            "another path and set model_server_llama_server_path"
        )
    return systemd_path(text)


_BOOKKEEPING = re.compile(
    r"^(?:Start|Stopp)(?:ing|ed) magi-llama@|^Failed to start magi-llama@"
    r"|^magi-llama@\S+: (?:Scheduled restart job|Start request repeated|Failed with result|Deactivated|Consumed )"
)
"""What systemd prints around each run (src/core/unit.c, service.c), beside how it ended and the OOM killer's word."""

PROPERTIES = "Id,ActiveState,SubState,MainPID,ExecMainPID,ExecMainStatus,ExecMainStartTimestamp,Result,Job,InvocationID"
OLDEST = 247
"""The first version that knows LoadCredential= and ProtectProc= (systemd's NEWS)."""
STOP_GRACE = 5
"""Seconds after each signal."""
PATIENCE = 10
"""Seconds in which systemd is asked again while it does not answer."""
_LOST = re.compile(
    r"Transport endpoint is not connected|[Dd]isconnected from message bus|Failed to connect to bus"
    r"|(?:Message recipient|Remote peer) disconnected|Connection (?:refused|reset by peer|terminated|timed out)"
    r"|Broken pipe"
)
"""What systemctl says while systemd re-executes itself (daemon-reexec, as in an upgrade of its package), which ends all
connections (systemd(1))."""


def unit(name: str) -> str:
    return f"magi-llama@{name}.service"


def systemctl(*arguments: str) -> str:
    """Run a verb that may be repeated, and repeat it while systemd is away for a moment. Raises ServiceError."""
    begun, tries = time.monotonic(), 0
    while True:
        tries += 1
        result = subprocess.run(
            ["systemctl", "--no-ask-password", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env={**os.environ, "TZ": "UTC"},  # in which timestamps are printed; --timestamp=unix came with 251
        )
        if not result.returncode:
            return result.stdout
        said = " ".join(result.stderr.split())
        # A call may wait for its answer until the bus gives up (25 s), and is still repeated.
        if not _LOST.search(said) or (tries > 2 and time.monotonic() > begun + PATIENCE):
            raise ServiceError(f"systemctl {' '.join(arguments)}: {said or f'exit status {result.returncode}'}")
        time.sleep(0.2)


def _blocks(text: str) -> Iterable[tuple[str, dict[str, str]]]:
    """Yield instance and properties from ``systemctl show`` of our units: blocks with an empty line between."""
    for block in text.strip().split("\n\n"):
        properties = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        match = re.fullmatch(r"magi-llama@(.+)\.service", properties.get("Id", ""))
        if match:
            yield match.group(1), properties


def parse_runs(text: str) -> dict[str, list[str]]:
    """Return by instance what its last run is found by in the journal (journalctl(1)), from ``systemctl show``.

    That is the run's id. But where journald reads what a server printed only after systemd has forgotten the failed run
    (it is busy, or slow), it stores no id with it, only the unit and the process.
    """
    return {
        name: [
            f"_SYSTEMD_INVOCATION_ID={run}",
            "+",
            f"INVOCATION_ID={run}",
            "+",
            f"_SYSTEMD_UNIT={unit(name)}",
            f"_PID={properties['ExecMainPID']}",
        ]
        for name, properties in _blocks(text)
        if (run := properties.get("InvocationID"))
    }


_STATES = {
    "active": State.RUNNING,
    "activating": State.STARTING,
    "deactivating": State.RUNNING,
    "failed": State.FAILED,
}


def parse_status(text: str) -> dict[str, Status]:
    """Return the status by instance from ``systemctl show`` of our units, asked for where the time zone is UTC."""
    found = {}
    for name, properties in _blocks(text):
        active, sub = properties.get("ActiveState", ""), properties.get("SubState", "")
        state = _STATES.get(active, State.STOPPED)
        if sub.startswith("auto-restart"):
            state = State.BACKOFF
        if state is State.STOPPED and properties.get("Job"):
            state = State.STARTING  # asked for, and not begun
        # "Thu 2026-11-26 14:24:24 UTC" in all versions (src/basic/time-util.c, format_timestamp).
        started = re.search(r"(\S+ \S+) UTC$", properties.get("ExecMainStartTimestamp", ""))
        code = properties.get("ExecMainStatus", "0")
        ended = state in (State.FAILED, State.BACKOFF)
        found[name] = Status(
            state,
            int(properties.get("MainPID", "0")) or None,
            datetime.fromisoformat(f"{started[1]}+00:00").timestamp()
            if started and state in (State.RUNNING, State.STARTING, State.FAILED)
            else None,
            f"{properties.get('Result', 'failed')}, exit status {code}" if ended else None,
        )
    return found


class Systemd(HostProgram):
    name: ClassVar[str] = "systemd"
    capabilities: ClassVar[Capabilities] = Capabilities(
        limits=True, own_user=True, needs_root=True, pools=True, workers=True
    )
    templates: ClassVar[Sequence[Template]] = (
        Template("magi-llama@.service.j2", "/etc/systemd/system/magi-llama@.service", 0o644),
        Template("instance.env.j2", "{home}/instances/{name}.env", 0o600, per_instance=True),
        Template("pool.ini.j2", "{home}/instances/{name}.ini", 0o600, per_instance=True),
        Template(
            "magi-llama@instance.conf.j2",
            "/etc/systemd/system/magi-llama@{name}.service.d/magi.conf",
            0o644,
            per_instance=True,
        ),
    )
    filters: ClassVar[Filters] = {
        "dirname": lambda path: path.rpartition("/")[0] or "/",
        "environment_value": environment_value,
        "preset": preset,
        "systemd_argument": systemd_argument,
        "systemd_path": systemd_path,
        "systemd_program": systemd_program,
        "systemd_value": systemd_value,
    }

    def __init__(self, home: Path):
        self.home = home
        self.runs: dict[str, list[str]] = {}

    def values(self) -> Mapping[str, Any]:
        return {}

    def environment(self, name: str, wanted: Mapping[str, str]) -> Mapping[str, str]:
        """Its user may read neither the API key file nor that of a pool's models, so systemd hands them over as
        credentials (systemd.exec(5), LoadCredential=)."""
        handed = {"MAGI_API_KEY_FILE": ("LLAMA_ARG_API_KEY_FILE", "api-keys")}
        handed["LLAMA_ARG_MODELS_PRESET"] = ("LLAMA_ARG_MODELS_PRESET", "models.ini")
        paths = {
            variable: f"/run/credentials/{unit(name)}/{file}"
            for given, (variable, file) in handed.items()
            if given in wanted
        }
        return {**wanted, **paths}

    def obstacle(self, path: Path, folders: Sequence[Path], *, program: bool = False) -> tuple[str, str] | None:
        """The servers run as a user of their own in no group, so the bits for others count (systemd.exec(5),
        DynamicUser=), and of home folders they see only ``folders``; those above them are made anew, for all to enter.
        """
        for way, parts in ways(path):
            if any(home in way.parents for home in HOMES) and not any(folder in way.parents for folder in folders):
                return str(way), "hidden"
            for part in parts:
                mode = part.stat().st_mode
                remade = any(home == part or home in part.parents for home in HOMES)
                if not (mode & needed(mode, program) or (remade and any(part in folder.parents for folder in folders))):
                    return str(part), stat.filemode(mode)
        return None

    def owned(self) -> list[Path]:
        return sorted([*instance_files(self.home), *UNITS.glob("magi-llama@*.service.d/magi.conf")])

    def discard(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        if path.parent.name.endswith(".service.d"):
            with contextlib.suppress(OSError):  # a folder of drop-ins that held only ours
                path.parent.rmdir()

    def common(self) -> list[Path]:
        path = UNITS / "magi-llama@.service"
        return [path] if path.exists() else []

    def needs(self) -> list[Path]:
        return [UNITS / "multi-user.target.wants"]

    def outdated(self) -> bool:
        return False

    def regain(self) -> None:
        """systemd itself is never ours to end."""

    def prepare(self) -> None:
        """systemd is there already; refuse one that is too old to hand over an API key file as a credential."""
        found = re.match(r"systemd (\d+)", self._systemctl("--version"))
        if found and int(found[1]) < OLDEST:
            raise ServiceError(
                f"systemd {found[1]} is too old for the units, which need {OLDEST}: upgrade the host, or set "
                "model_server_manager to supervisor."
            )

    def _systemctl(self, *arguments: str) -> str:
        return systemctl(*arguments)

    def _show(self, *units: str) -> str:
        return self._systemctl("show", "--all", f"--property={PROPERTIES}", *units)

    def status(self) -> dict[str, Status]:
        defined = names((self.home / "instances").glob("*.env"), ".env")
        text = self._show("magi-llama@*.service", *map(unit, defined))
        self.runs.update(parse_runs(text))
        return {**{name: Status(State.STOPPED) for name in defined}, **parse_status(text)}

    def reload(self) -> None:
        """Let systemd read our units again; those that it has never loaded it reads at their start."""
        if parse_status(self._show("magi-llama@*.service")):
            self._systemctl("daemon-reload")

    def start(self, names: Sequence[str]) -> dict[str, str]:
        """Start them with one command; if that fails, one by one, since it gives up for all of them.

        One that had crashed may run again by now, with the definition of before, so it is a restart.
        """
        self._reset(*names)
        units = [*map(unit, names)]
        try:
            self._systemctl("enable", "--no-reload", *units)
            self._systemctl("restart", "--no-block", *units)
        except ServiceError as error:
            if len(names) == 1:
                return {names[0]: str(error)}
            return {name: said for each in names for name, said in self.start([each]).items()}
        return {}

    def _reset(self, *names: str) -> None:
        """Let failed units start again at once. A unit that was never loaded has nothing to reset, and complains."""
        with contextlib.suppress(ServiceError):
            self._systemctl("reset-failed", *map(unit, names))

    def stop(self, name: str) -> None:
        """End it: TimeoutStopSec= of the unit is for a shutdown of the host; here, requests were waited for before.

        A second SIGTERM ends a llama-server that a client holds (tools/server/server.cpp, signal_handler). One that is
        not loaded, since its template is gone, has nothing to stop, and systemctl complains.
        """
        with contextlib.suppress(ServiceError):
            self._systemctl("stop", "--no-block", unit(name))
        for signal in ("SIGTERM", "SIGKILL"):
            if self._ends(name, STOP_GRACE):
                break
            with contextlib.suppress(ServiceError):  # it ended in between
                self._systemctl("kill", f"--signal={signal}", unit(name))
        try:
            self._systemctl("stop", unit(name))
        except ServiceError:
            if not self._ends(name, 0):
                raise
        self._reset(name)

    def _ends(self, name: str, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while parse_status(self._show(unit(name)))[name].pid:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def forget(self, name: str) -> None:
        try:
            self._systemctl("disable", "--no-reload", unit(name))
        except ServiceError:  # somebody removed the template, and systemctl can't tell which links were made for it
            (UNITS / "multi-user.target.wants" / unit(name)).unlink(missing_ok=True)
        self._reset(name)
        for base in FOLDERS:
            path = base / name
            if path.is_symlink():
                path.unlink()
            else:
                shutil.rmtree(path, ignore_errors=True)

    def logs(self, name: str, lines: int) -> list[str]:
        """Return what the last run of the unit printed, and what systemd said of its end: an earlier failure is not the
        cause of this one, and systemd's count of tries would hide what the server said."""
        which = self.runs.get(name, [f"--unit={unit(name)}"])
        with contextlib.suppress(subprocess.SubprocessError):  # even if journald hangs, what it wrote is there
            self._journalctl("--sync", timeout=5)
        text = self._journalctl("--lines", str(lines), "--output", "cat", "--no-pager", "--quiet", *which)
        return [line for line in text.splitlines() if not _BOOKKEEPING.search(line)]

    def beginning(self, name: str, lines: int) -> list[str]:
        which = self.runs.get(name, [f"--unit={unit(name)}"])
        command = ["journalctl", "--output", "cat", "--no-pager", "--quiet", *which]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, errors="replace") as process:
            found = [line.rstrip("\n") for line in islice(process.stdout or (), lines)]
            process.kill()  # it would read all that a server has ever printed
        return found

    def _journalctl(self, *arguments: str, timeout: float | None = None) -> str:
        return subprocess.run(
            ["journalctl", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout,
        ).stdout

    def remove(self) -> None:
        drop_ins = UNITS.glob("magi-llama@*.service.d")
        clear([*self.owned(), *self.common()], [*drop_ins, self.home / "instances", *FOLDERS])
        self.reload()
