# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Supervisor (the PyPI package): one supervisord of our own per home folder, one program file per instance.

For machines, containers and Macs where systemd is not PID 1. We speak XML-RPC with it over a Unix socket.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import time
import xmlrpc.client
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.magi.models.plugins.module_utils._base.states import State
from ansible_collections.magi.models.plugins.module_utils._services.manager import (
    HostProgram,
    clear,
    environment_value,
    instance_files,
    names,
    needed,
    tail,
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


def setting(text: str) -> str:
    """Escape ``text`` as a setting's value: supervisor expands % (supervisor/options.py, ``expand``), and takes a ;
    or # behind white space for a comment."""
    if re.search(r"[\r\n]|\s[;#]", text):
        raise ValueError(f"supervisor's configuration can't hold {text!a}: it has a line break or a ; behind a space")
    return text.replace("%", "%%")


def word(text: str) -> str:
    """Quote ``text`` as one word of a command, which supervisor splits like a shell (shlex)."""
    quoted = shlex.quote(text)
    # A quote closed and opened before ; and # keeps supervisor's parser from seeing a comment after a space.
    for comment in ";#":
        quoted = quoted.replace(comment, "''" + comment)
    return setting(quoted)


# supervisor/states.py
_STATES = {
    "STOPPED": State.STOPPED,
    "STARTING": State.STARTING,
    "RUNNING": State.RUNNING,
    "BACKOFF": State.BACKOFF,
    "STOPPING": State.RUNNING,
    "EXITED": State.FAILED,
    "FATAL": State.FAILED,
    "UNKNOWN": State.FAILED,
}
_NOT_RUNNING, _BAD_NAME = 70, 10  # supervisor/xmlrpc.py, Faults


def parse_ends(log: Iterable[str]) -> dict[str, str]:
    """Return by program how its last process ended, from supervisord's log (supervisor/process.py, finish). If it ended
    within startsecs, supervisord says only "too quickly" elsewhere."""
    pattern = re.compile(r"exited: (\S+) \((.+); (?:not )?expected\)$")
    return {match[1]: match[2] for line in log if (match := pattern.search(line))}


def socket_path(home: str) -> str:
    """Return where supervisord of ``home`` listens: there, or in /tmp if the path of a Unix socket (108 bytes, unix(7))
    would be too long. Controller and host agree, whatever their user and environment."""
    path = os.path.normpath(f"{home}/supervisor/supervisord.sock")
    if len(os.fsencode(path)) < 100:  # supervisord binds it with its process id at the end, and renames it
        return path
    return f"/tmp/magi-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.sock"  # noqa: S108 - see _foreign


STARTS = "magi: starts"
"""Printed by run-instance before each run (templates/run-instance.sh.j2)."""


def _last_run(printed: Sequence[str]) -> list[str]:
    begun = max((number for number, line in enumerate(printed, 1) if line == STARTS), default=0)
    return list(printed[begun:])


def _command(pid: int) -> list[str]:
    """Return the words of a process's command line; [] if it has ended."""
    if Path("/proc/self").exists():
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "surrogateescape").split("\0")[:-1]
        return []
    done = subprocess.run(
        ["ps", "-o", "command=", "-p", str(pid)], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return done.stdout.split()


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: str, timeout: float):
        super().__init__()
        self.path = path
        self.timeout = timeout

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return _Connection(self.path, self.timeout)


class Supervisor(HostProgram):
    name: ClassVar[str] = "supervisor"
    capabilities: ClassVar[Capabilities] = Capabilities(pools=True, workers=True)
    templates: ClassVar[Sequence[Template]] = (
        Template("supervisord.conf.j2", "{home}/supervisor/supervisord.conf", 0o600),
        Template("run-instance.sh.j2", "{home}/supervisor/run-instance", 0o755),
        Template("instance.env.j2", "{home}/instances/{name}.env", 0o600, per_instance=True),
        Template("pool.ini.j2", "{home}/instances/{name}.ini", 0o600, per_instance=True),
        Template("program.conf.j2", "{home}/supervisor/programs/{name}.conf", 0o600, per_instance=True),
    )
    filters: ClassVar[Filters] = {
        "environment_value": environment_value,
        "preset": preset,
        "setting": setting,
        "word": word,
    }

    def __init__(self, home: Path, supervisord_path: str):
        self.home = home
        self.folder = home / "supervisor"
        self.supervisord = supervisord_path
        self.socket = socket_path(str(home))

    def values(self) -> Mapping[str, Any]:
        return {"socket_path": self.socket}

    def environment(self, name: str, wanted: Mapping[str, str]) -> Mapping[str, str]:
        return wanted

    def obstacle(self, path: Path, folders: Sequence[Path], *, program: bool = False) -> tuple[str, str] | None:
        """The servers run as our own user."""
        for _way, parts in ways(path):
            for part in parts:
                mode = part.stat().st_mode
                if not os.access(part, needed(mode, program)):
                    return str(part), stat.filemode(mode)
        return None

    def owned(self) -> list[Path]:
        return sorted([*instance_files(self.home), *(self.folder / "programs").glob("*.conf")])

    def discard(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def common(self) -> list[Path]:
        return [path for path in (self.folder / "supervisord.conf", self.folder / "run-instance") if path.exists()]

    def _foreign(self) -> bool:
        """Whether the socket in /tmp belongs to another user, who could answer anything: all may write there."""
        path = Path(self.socket)
        if path.parent == self.folder or not os.path.lexists(path):
            return False
        owner = path.lstat().st_uid
        return owner != os.geteuid() and not (self.folder.exists() and owner == self.folder.stat().st_uid)

    def _call(self, method: str, *arguments: Any, timeout: float = 5) -> Any:
        """Call a method of supervisord. It answers at once unless it waits for a process to end."""
        if self._foreign():
            raise ConnectionRefusedError(f"{self.socket} is another user's")
        # A proxy for each call: several threads call, and a connection is cheap.
        proxy = xmlrpc.client.ServerProxy("http://localhost", transport=_Transport(self.socket, timeout))
        return getattr(proxy.supervisor, method)(*arguments)

    def _ask(
        self, purpose: str, method: str, *arguments: Any, faults: Sequence[int] = (), absent: bool = False
    ) -> None:
        """Call supervisord for a ``purpose``; ``faults`` count as done, and with ``absent`` a missing supervisord does,
        too. Raises ServiceError."""
        try:
            self._call(method, *arguments, timeout=120)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode not in faults:
                raise ServiceError(
                    f"supervisord of {self.folder} did not {purpose} ({fault.faultString}); its log there, "
                    "supervisord.log, says why."
                ) from None
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            if not (absent and isinstance(error, (ConnectionError, FileNotFoundError))):
                raise ServiceError(
                    f"supervisord of {self.folder} did not {purpose}: it does not answer ({error}); end its process, "
                    "if there is one, and run again."
                ) from None

    def _daemon(self) -> tuple[int, Path] | None:
        """Return process and configuration of this folder's supervisord, by its pid file, whether it answers or not.
        Another process may have the pid by now, and the folder may have been moved with all its files, or be a copy."""
        with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
            pid = int((self.folder / "supervisord.pid").read_text())
            words = _command(pid)
            place = Path(words[words.index("-c") + 1])
            if any("supervisord" in word for word in words[:3]) and (self._ours(place) or not place.exists()):
                return pid, place
        return None

    def _ours(self, configuration: Path) -> bool:
        own = self.folder / "supervisord.conf"
        return configuration == own or (configuration.exists() and own.exists() and own.samefile(configuration))

    def needs(self) -> list[Path]:
        return [self.folder / "supervisord.conf"]

    def outdated(self) -> bool:
        daemon = self._daemon()
        if daemon is None or self._ours(daemon[1]) or not self._answers():
            return False
        self._program()  # before anything ends, make sure that another one can start
        return True

    def regain(self) -> None:
        """A supervisord whose socket is gone, or that hangs, would restart whatever ends. Its processes go on as
        orphans of ours. If its folder was moved, it runs none that this folder knows, and so ends them itself."""
        daemon = self._daemon()
        if daemon is None or self._answers():
            return
        pid, configuration = daemon
        for number in (signal.SIGKILL,) if self._ours(configuration) else (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            if self._gone(pid, 20):
                return
        raise ServiceError(f"supervisord of {self.folder} (process {pid}) can't be ended; end it and run again.")

    def _gone(self, pid: int, seconds: float) -> bool:
        """Wait until a process has ended; return whether it has."""
        deadline = time.monotonic() + seconds
        while _command(pid):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def _shut_down(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, xmlrpc.client.Error):
            pid = self._call("getPID")
            self._call("shutdown")
            self._gone(pid, 20)

    def _answers(self) -> bool:
        try:
            return self._call("getState")["statename"] in ("RUNNING", "RESTARTING")
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return False

    def _program(self) -> str:
        """Return the path of supervisord. Raises ServiceError."""
        program = shutil.which(os.path.expanduser(self.supervisord))
        if program is None:
            raise ServiceError(
                f"supervisord is not at {self.supervisord}; install it (pip install supervisor) "
                "or set model_server_supervisord_path."
            )
        return program

    def prepare(self) -> None:
        if self.outdated():
            self._shut_down()
        if self._answers():
            return
        self.regain()
        program = self._program()
        if self._foreign():
            raise ServiceError(
                f"supervisord can't listen at {self.socket}, which belongs to another user: remove it, or set "
                "model_server_home to a shorter path."
            )
        # supervisord starts what it finds; nothing of ours runs now, so the definitions are written anew behind this.
        for path in (self.folder / "programs").glob("*.conf"):
            path.unlink()
        for folder in ("programs", "../instances", "../logs"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        result = subprocess.run(
            [program, "-c", str(self.folder / "supervisord.conf")],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            # The caller's environment may hold secrets, and LLAMA_ARG_* that would reach every instance.
            env={"PATH": os.defpath, "HOME": str(self.home), "LANG": "C.UTF-8"},
        )
        deadline = time.monotonic() + 20
        while not self._answers():
            if result.returncode or time.monotonic() > deadline:
                said = (result.stderr or result.stdout).strip().splitlines()[-1:]
                log = tail(self.folder / "supervisord.log", 1)
                raise ServiceError(
                    f"supervisord did not start with {self.folder / 'supervisord.conf'}: "
                    f"{''.join(said or log) or 'it said nothing'}"
                )
            time.sleep(0.02)

    def status(self) -> dict[str, Status]:
        found = {name: Status(State.STOPPED) for name in names((self.folder / "programs").glob("*.conf"), ".conf")}
        with contextlib.suppress(OSError, http.client.HTTPException, xmlrpc.client.Error):
            processes = self._call("getAllProcessInfo")
            ends = parse_ends(tail(self.folder / "supervisord.log", 1000))
            for info in processes:
                state = _STATES.get(info["statename"], State.FAILED)
                ended = info["statename"] in ("BACKOFF", "EXITED", "FATAL")
                said = info["spawnerr"] or f"exit status {info['exitstatus']}"
                if said.startswith(("Exited too quickly", "Bad exit code")):  # supervisor/process.py, finish
                    said = ends.get(info["name"], said)
                found[info["name"]] = Status(
                    state,
                    info["pid"] or None,
                    float(info["start"]) if info["start"] and (info["pid"] or ended) else None,
                    said if ended else None,
                )
        return found

    def reload(self) -> None:
        self._ask("read its programs", "reloadConfig")

    def start(self, names: Sequence[str]) -> dict[str, str]:
        """Add the programs again, with their present definitions; supervisord starts them."""
        refused = {}
        for name in names:
            try:
                self.stop(name)  # one that is about to start again, or does so just now, can't be dropped
                self._drop(name)
                self._ask(f"start {name}", "addProcessGroup", name)
            except ServiceError as error:
                refused[name] = str(error)
        return refused

    def stop(self, name: str) -> None:
        self._ask(f"stop {name}", "stopProcess", name, True, faults=(_NOT_RUNNING, _BAD_NAME), absent=True)

    def forget(self, name: str) -> None:
        self._drop(name)
        clear(self._printed(name), ())

    def _drop(self, name: str) -> None:
        self._ask(f"drop {name}", "removeProcessGroup", name, faults=(_BAD_NAME,), absent=True)

    def _printed(self, name: str) -> tuple[Path, Path]:
        """Return an instance's log and the one before it (stdout_logfile_backups of its program)."""
        return self.home / "logs" / f"{name}.log", self.home / "logs" / f"{name}.log.1"

    def logs(self, name: str, lines: int) -> list[str]:
        """Return what the last run printed: run-instance says when it starts one."""
        return _last_run(tail(self._printed(name)[0], 1 << 16))[-lines:] if lines else []

    def beginning(self, name: str, lines: int) -> list[str]:
        return _last_run(tail(self._printed(name)[0], 1 << 24, 1 << 24))[:lines]  # more than stdout_logfile_maxbytes

    def remove(self) -> None:
        self._shut_down()
        self.regain()
        shutil.rmtree(self.folder / "home", ignore_errors=True)
        own = (self.folder / f"supervisord.{end}" for end in ("pid", "log", "log.1"))
        listens = () if self._foreign() else (Path(self.socket),)
        defined = names(self.owned(), ".env")
        clear(
            [
                *self.owned(),
                *self.common(),
                *own,
                *listens,
                *(path for name in defined for path in self._printed(name)),
            ],
            [self.folder / "programs", self.folder, self.home / "instances", self.home / "logs"],
        )
