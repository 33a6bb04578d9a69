# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reading a host: the one place that looks at /proc, the binary, the sockets and the servers. Decides nothing."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import re
import socket
import stat
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.cores import cores
from ansible_collections.magi.models.plugins.module_utils._base.text import SECRET
from ansible_collections.magi.models.plugins.module_utils._host.lock import read_generation, read_worker
from ansible_collections.magi.models.plugins.module_utils._host.values import (
    Binary,
    Host,
    Listener,
    Option,
    Running,
    Unreadable,
    parse_devices,
    parse_help,
    parse_listeners,
    reachable,
)
from ansible_collections.magi.models.plugins.module_utils._services.manager import Services, Status, chosen, detected

PROC = Path("/proc")


def read_binary(path: str) -> tuple[Binary | None, str]:
    """Return the llama-server at ``path`` with its options, or None and a sentence that says why not.

    Runs it three times (``--version``, ``--help``, ``--list-devices``; 5 to 10 ms each, the last longer where a GPU's
    driver starts) with an empty environment, 20 seconds each at most.
    """
    path = os.path.expanduser(path)
    try:
        status = os.stat(path)
        version = _run(path, "--version")
        options: tuple[Option, ...] = parse_help(_run(path, "--help"))
    except FileNotFoundError:
        return None, f"there is no llama-server at {path}; install it (role llama_server) or set LLAMA_SERVER_PATH."
    except (OSError, subprocess.SubprocessError) as error:
        return None, f"llama-server at {path} does not run ({error}); reinstall it, or set LLAMA_SERVER_PATH."
    if not any(option.environment == "LLAMA_ARG_MODEL" for option in options):
        return None, f"{path} does not list llama-server's options; is it llama-server?"
    found = re.search(r"version:\s*(.+)", version)
    line = found.group(1).strip() if found else "unknown version"
    return Binary(path, line, f"{line} {status.st_size} {status.st_mtime_ns}", options, _devices(path)), ""


def _devices(path: str) -> tuple[str, ...] | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):  # an older build, or a driver that hangs
        return parse_devices(_run(path, "--list-devices"))
    return None


def _run(*command: str) -> str:
    result = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=20,
        check=True,
        env={"PATH": os.defpath},
    )
    return result.stdout.decode("utf-8", "replace")


def process_environment(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with ({} where it ended or is not ours to see), proc(5)."""
    try:
        raw = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.decode("utf-8", "surrogateescape").partition("=") for item in raw.split(b"\0") if item)
    return {key: value for key, _equals, value in pairs}


def _pids() -> Iterable[int]:
    with contextlib.suppress(OSError):
        for entry in os.listdir(PROC):
            if entry.isdigit():
                yield int(entry)


def command_of(pid: int) -> str | None:
    """Return the command line of a process, shortened and with control characters shown, without what follows an
    option that looks like a secret."""
    try:
        words = (PROC / str(pid) / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return None
    shown = []
    hide = False
    for word in words[:-1]:
        shown.append("…" if hide else word)
        hide = word.startswith("-") and bool(SECRET.search(word)) and "=" not in word
        if word.startswith("-") and "=" in word and SECRET.search(word.split("=")[0]):
            shown[-1] = word.split("=")[0] + "=…"
    return re.sub(r"[\x00-\x1f\x7f]", "?", " ".join(shown))[:200]


def listening_sockets() -> dict[str, tuple[str, int]]:
    """Return address and port of each listening TCP socket by its inode; {} where no /proc tells."""
    found = {}
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for address, port, inode in parse_listeners((PROC / "net" / table).read_text()):
                found[inode] = (address, port)
    return found


def _sockets(pid: int) -> set[str]:
    """Return the inodes of the sockets that a process has open, as far as we may see them."""
    found = set()
    with contextlib.suppress(OSError):
        for descriptor in os.listdir(PROC / str(pid) / "fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(PROC / str(pid) / "fd" / descriptor)
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found


def read_listeners(wanted: Iterable[int], instances: Mapping[int, str]) -> tuple[Listener, ...]:
    """Return the listeners on the ports ``wanted``; ``instances`` maps the pids of our instances to their names."""
    ports = set(wanted)
    sockets = {inode: at for inode, at in listening_sockets().items() if at[1] in ports}
    owners: dict[str, int] = {}
    for pid in _pids() if sockets else ():
        owners |= dict.fromkeys(_sockets(pid) & sockets.keys(), pid)
    found = []
    for inode, (address, port) in sockets.items():
        pid = owners.get(inode)
        instance = instances.get(pid) if pid else None
        found.append(Listener(address, port, pid, command_of(pid) if pid else None, instance))
    return tuple(sorted(found, key=lambda item: (item.port, item.address)))


def orphans(home: str, managed: Iterable[int]) -> dict[str, int]:
    """Return by name the pids of instances of ``home`` that live on without their service manager.

    Anybody can give a process our variables, so one counts only if it runs as our own user, and if its program is
    llama-server (the file, which a setuid program can't be made to pretend; not its argv[0]). Those that supervisord
    started are found so. systemd's run as users of their own, and none lives on unknown: it tells of each unit that
    has processes, also without its files. What an instance has started, such as its tools, inherits its variables and
    is none either.
    """
    found = {}
    for pid in _pids():
        with contextlib.suppress(OSError):
            program = os.path.basename(os.readlink(PROC / str(pid) / "exe"))  # "… (deleted)" behind an update
            if "llama-server" in program and (PROC / str(pid)).stat().st_uid == os.geteuid():
                environment = process_environment(pid)
                name = environment.get("MAGI_INSTANCE", "")
                if environment.get("MAGI_HOME") == home and re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
                    found[pid] = name
    known = {*managed, *found}
    return {name: pid for pid, name in found.items() if known & _line(pid) == {pid} - set(managed)}


def _line(pid: int) -> set[int]:
    """Return a process and those that it descends from."""
    found: set[int] = set()
    with contextlib.suppress(OSError, IndexError, ValueError):
        while pid not in found:  # the first process has the parent 0, and that none
            found.add(pid)
            pid = int((PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    return found


class _Bounded(io.RawIOBase):
    """What comes over a connection until one moment: were only each wait bounded, a byte now and then would hold us."""

    def __init__(self, connected: socket.socket, deadline: float):
        self.connected = connected
        self.deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self.connected.settimeout(left)
        return self.connected.recv_into(buffer)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)


def request(
    environment: Mapping[str, str], path: str, timeout: float = 2, key: bytes | None = None
) -> tuple[int, bytes]:
    """Return status and at most 1 MiB of body of a GET to the server of ``environment`` (asked_at).

    ``timeout`` seconds are for connecting, and again for all of the answer. Raises OSError where there is none, a
    time-out among them; HTTPException or ValueError for what is no HTTP.
    """
    address = reachable(environment.get("LLAMA_ARG_HOST", "127.0.0.1"))
    connection = http.client.HTTPConnection(address, port_of(environment) or 0, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Authorization": b"Bearer " + key} if key else {})
        response = http.client.HTTPResponse(_Bounded(connection.sock, time.monotonic() + timeout), method="GET")
        response.begin()
        return response.status, response.read(1 << 20)
    finally:
        connection.close()


def get(environment: Mapping[str, str], path: str, key: bytes | None = None) -> tuple[int, bytes]:
    """Return what ``request`` does; status 0: no answer in two seconds, or one that is no HTTP."""
    try:
        return request(environment, path, key=key)
    except (OSError, http.client.HTTPException, ValueError):
        return 0, b""


def port_of(environment: Mapping[str, str]) -> int | None:
    """Return the port that an environment names, None where it names none that there can be."""
    port = environment.get("LLAMA_ARG_PORT", "")
    return int(port) if port.isdecimal() and len(port) <= 5 and 0 < int(port) <= 65535 else None


def api_key(environment: Mapping[str, str]) -> bytes | None:
    """Return the first key of the instance's key file, as llama-server reads it: a line each, # starts a comment.

    First is looked at what its service manager handed to the server when it started: there, a key that was changed
    since is still the old one, as it is for the server.
    """
    for variable in ("LLAMA_ARG_API_KEY_FILE", "MAGI_API_KEY_FILE"):
        with contextlib.suppress(OSError, KeyError, ValueError):
            for line in Path(environment[variable]).read_bytes().split(b"\n"):
                if line and not line.startswith(b"#"):
                    return line
    return None


def ask_health(environment: Mapping[str, str]) -> int:
    """Return what the server of this environment answers at /health: 200 ready, 503 loading; 0: no answer in time."""
    return get(environment, "/health")[0]


def ask_models(environment: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the ids that the server of this environment answers to at /v1/models; None without a good answer."""
    status, body = get(environment, "/v1/models", api_key(environment))
    if status == 200:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            return tuple(str(item["id"]) for item in json.loads(body)["data"])
    return None


def environment_file(home: str, name: str) -> dict[str, str]:
    """Return what the file of an instance sets, which we wrote (_services.environment_value); {} where it can't be
    read."""
    with contextlib.suppress(OSError):
        text = (Path(home) / "instances" / f"{name}.env").read_bytes().decode("utf-8", "surrogateescape")
        values = re.findall(r'^(\w+)="((?:[^"\\]|\\.)*)"$', text, re.MULTILINE | re.DOTALL)
        return {key: re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL) for key, value in values}
    return {}


def asked_at(home: str, name: str, pid: int | None, sockets: Mapping[str, tuple[str, int]]) -> dict[str, str]:
    """Return the environment by which an instance is asked: where it listens, and the files of its keys.

    ``sockets`` are all that listen on this host (``listening_sockets``).

    What a server has in its own memory it can rewrite, and we may be root: its environment names no file that we read
    and no address that we talk to. All comes from the file that we wrote. That one may be newer than the process, whose
    restart a killed deployment has lost; so where the kernel tells what the process ``pid`` listens on, that counts.
    """
    own = environment_file(home, name)
    heard = [sockets[inode] for inode in _sockets(pid) & sockets.keys()] if pid else []
    if not heard:
        return own
    address, port = min(heard, key=lambda at: (at[1] != port_of(own), at[1], at[0]))
    return {**own, "LLAMA_ARG_HOST": address, "LLAMA_ARG_PORT": str(port)}


def _as_written(home: str, name: str, status: Status) -> bool:
    """Whether an instance that failed, or runs where no process shows its environment, was last started from its file
    as it is now, and not from an older one. Managers tell whole seconds: doubt starts one that failed again, and lets
    one that runs be."""
    with contextlib.suppress(OSError):
        written = (Path(home) / "instances" / f"{name}.env").stat().st_mtime
        if status.started_at is not None and (status.pid or status.state == "failed"):
            return written < status.started_at + (1 if status.pid else 0)
    return False


def _keys_changed(environment: Mapping[str, str], status: Status) -> bool:
    with contextlib.suppress(OSError, KeyError, ValueError):
        file = os.stat(environment["MAGI_API_KEY_FILE"])
        written = max(file.st_mtime, file.st_ctime)  # one that was put in place (mv, cp -p) may have an older mtime
        return bool(status.pid and status.started_at and written > status.started_at)
    return False


LOG_LINES = 40
"""Lines of log that are read of an instance that failed or does not answer: they tell the cause."""


def read_instances(
    services: Services, home: str, *, ask: bool = False
) -> tuple[tuple[Running, ...], dict[str, dict[str, str]]]:
    """Return the instances of ``home`` as they are, and by name the environments by which they are asked (asked_at).

    With ``ask``, each that runs is asked whether it is ready, and if so, which models it serves.
    """
    status = services.status()
    managed = {item.pid for item in status.values() if item.pid}
    for name, pid in orphans(home, managed).items():
        if name not in status or not status[name].pid:
            status[name] = Status("orphaned", pid)
    sockets = listening_sockets()
    asked = {name: asked_at(home, name, item.pid, sockets) for name, item in status.items()}

    def read(name: str) -> Running:
        item, where = status[name], asked[name]
        told = process_environment(item.pid) if item.pid else {}
        health = ask_health(where) if ask and item.pid and port_of(where) else None
        silent = item.state == "failed" or health not in (None, 200)
        written = environment_file(home, name) if not told and _as_written(home, name, item) else {}
        return Running(
            name,
            item.state,
            item.pid,
            port_of(where),
            (told or written).get("MAGI_CONFIG_HASH"),
            item.started_at,
            _keys_changed(where, item),
            item.exit_status,
            {
                key: value
                for key, value in (told or where).items()
                if key.startswith(("LLAMA_ARG_", "MAGI_")) and not SECRET.search(key.replace("API_KEY_FILE", ""))
            },
            tuple(services.logs(name, LOG_LINES)) if silent else (),
            health,
            ask_models(where) if health == 200 else None,
        )

    with ThreadPoolExecutor(8) as pool:
        return tuple(pool.map(read, sorted(status))), asked


def await_ready(
    services: Services, home: str, names: Iterable[str], seconds: float, interval: float
) -> dict[str, tuple[Status, int]]:
    """Wait up to ``seconds`` until each of the instances is ready, or has failed for good; return by name what its
    manager says and what it answered at /health (0: it does not listen, or gave no answer).

    Asked is only what listens in a process of its own, which llama-server does before it loads the model; while all
    answer, nothing else is asked. The manager tries a failed start again up to its limit, so only its verdict counts.
    Looks at once, then ever more seldom, at least every ``interval`` seconds.
    """
    waiting = {name: environment_file(home, name) for name in names}
    told = (PROC / "net" / "tcp").exists()  # else the port's answer has to do, with its manager's word that it runs
    listening: set[str] = set()
    found = {name: (Status("stopped"), 0) for name in waiting}
    begun, pause = time.monotonic(), 0.2

    with ThreadPoolExecutor(max(1, len(waiting))) as pool:
        while waiting:
            if not all(found[name][1] for name in waiting):
                status = services.status()
                found.update({name: (status.get(name, Status("stopped")), 0) for name in waiting})
                if not told:
                    listening = {name for name in waiting if found[name][0].pid}
                silent = {port_of(waiting[name]): name for name in waiting.keys() - listening}
                for item in read_listeners(silent, {}) if silent else ():
                    if item.pid and item.pid == found[silent[item.port]][0].pid:
                        listening.add(silent[item.port])
                pause = min(pause * 1.5, interval)
            asked = sorted(listening & waiting.keys())
            for name, health in zip(asked, pool.map(ask_health, (waiting[name] for name in asked))):
                found[name] = found[name][0], health
            waiting = {
                name: environment
                for name, environment in waiting.items()
                if found[name][1] != 200 and found[name][0].state not in ("failed", "stopped")
            }
            elapsed = time.monotonic() - begun
            if elapsed >= seconds:
                break
            answer = all(found[name][1] for name in waiting)
            again = min(max(0.1, elapsed / 20), interval) if answer else pause  # an answer costs next to nothing
            time.sleep(min(again, seconds - elapsed) if waiting else 0)
    return found


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def gpus() -> tuple[str, ...]:
    """Return the device nodes of GPUs: NVIDIA's, AMD's compute node, or a render node; () on a host without."""
    found = sorted(str(path) for pattern in ("nvidia[0-9]*", "kfd") for path in Path("/dev").glob(pattern))
    return tuple(found or sorted(str(path) for path in Path("/dev/dri").glob("renderD*")))


def silent_configs() -> tuple[str, ...]:
    """Return the configuration files that llama-server reads without being told (llama.cpp common/arg.cpp).

    Only the machine's: an instance has a home folder of its own, so a user's file does not reach it.
    """
    path = Path("/etc/llama.cpp/config.ini")
    return (str(path),) if path.exists() else ()


# What the unit's ProtectHome= replaces by empty folders, of which only those it binds are put back (systemd.exec(5)).
_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))


def unreadable(paths: Iterable[str], folders: Iterable[str], manager: str) -> tuple[Unreadable, ...]:
    """Return what keeps the servers of ``manager`` from reading files that are there.

    Under supervisor they run as our own user. Under systemd they run as a user of their own in no group, so the bits
    for others count (systemd.exec(5), DynamicUser=), and of home folders they see only ``folders``. A llama-server is
    to be executed, and is one of ``paths`` too.
    """
    bound = [Path(folder) for folder in folders]
    found: dict[tuple[str, str], list[str]] = {}
    for path in paths:
        with contextlib.suppress(OSError):  # what is gone, or leads nowhere, is somebody else's finding
            obstacle = _obstacle(Path(path), bound, manager)
            if obstacle:
                found.setdefault(obstacle, []).append(path)
    return tuple(Unreadable(at, mode, tuple(blocked)) for (at, mode), blocked in sorted(found.items()))


def _obstacle(path: Path, bound: Sequence[Path], manager: str) -> tuple[str, str] | None:
    """Return what stands in the way to ``path``, or to the file that it links to, with its mode; None: nothing."""
    path = path.absolute()
    real = path.resolve(strict=True)
    for way, parts in ((path, path.parents), (real, (real, *real.parents))):
        at_home = manager == "systemd" and any(home in way.parents for home in _HOMES)
        if at_home and not any(folder in way.parents for folder in bound):
            return str(way), "hidden"
        for part in reversed(parts):
            mode = part.stat().st_mode
            needed = 0o1 if stat.S_ISDIR(mode) else 0o4
            if manager != "systemd":
                allowed = os.access(part, needed)
            else:  # folders above a bound one are made anew, for all to enter
                remade = any(home == part or home in part.parents for home in _HOMES)
                allowed = bool(mode & needed) or (remade and any(part in folder.parents for folder in bound))
            if not allowed:
                return str(part), stat.filemode(mode)
    return None


def read_host(
    services: Services,
    manager: str,
    home: str,
    *,
    llama_server_path: str | None = None,
    ports: Iterable[int] = (),
    ask: bool = False,
    must_read: Iterable[str] = (),
    model_folders: Iterable[str] = (),
) -> Host:
    """Read what a plan or a report needs to know of this host, where ``services`` are those of ``manager``.

    The binary is read where its path is given; listeners are those on ``ports`` and on the ports of instances.
    ``must_read`` are files that the servers need, found in ``model_folders``.
    Raises ServiceError when the service manager can't be asked.
    """
    binary, binary_error = read_binary(llama_server_path) if llama_server_path else (None, "")
    instances, _environments = read_instances(services, home, ask=ask)
    leases = {item.port for item in instances if item.port}
    return Host(
        manager=manager,
        home=home,
        cores=cores(),
        memory_bytes=memory_bytes(),
        binary=binary,
        binary_error=binary_error,
        gpus=gpus(),
        listeners=read_listeners({*ports, *leases}, {item.pid: item.name for item in instances if item.pid}),
        instances=instances,
        generation=read_generation(home),
        silent_configs=silent_configs(),
        at_work=read_worker(home),
        unreadable=unreadable(
            [*must_read, *([binary.path] if binary and must_read else [])],
            [*model_folders, *([os.path.dirname(binary.path)] if binary else [])],
            manager,
        ),
    )


LOOK_OPTIONS = {
    "home": {"type": "path", "required": True},
    "manager": {"type": "str", "choices": ["auto", "systemd", "supervisor"], "default": "auto"},
    "supervisord_path": {"type": "path", "default": "supervisord"},
    "llama_server_path": {"type": "path"},
    "port_range": {"type": "list", "elements": "int", "default": [8080, 8099]},
    "ports": {"type": "list", "elements": "int", "default": []},
}
"""The options of a module that looks at its host, as its argument specification has them; ``look`` takes them."""


def look(
    *,
    home: str,
    manager: str,
    supervisord_path: str,
    llama_server_path: str | None,
    port_range: Sequence[int],
    ports: Sequence[int],
    identify: bool = False,
    must_read: Sequence[str] = (),
    model_folders: Sequence[str] = (),
) -> Host:
    """Return the host as a module looks at it. Raises ServiceError; ValueError for a bad port_range."""
    if len(port_range) != 2:
        raise ValueError(f"port_range takes the first and the last port, not {list(port_range)}.")
    manager = detected(manager)
    return read_host(
        chosen(manager, home, supervisord_path),
        manager,
        home,
        llama_server_path=llama_server_path,
        ports=[*range(port_range[0], port_range[1] + 1), *ports],
        ask=identify,
        must_read=must_read,
        model_folders=model_folders,
    )
