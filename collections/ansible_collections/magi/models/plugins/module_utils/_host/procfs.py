# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the kernel knows about this host: processes and their environments, listeners (proc(5)), memory, GPUs."""

from __future__ import annotations

import contextlib
import grp
import ipaddress
import os
import re
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from ansible_collections.magi.models.plugins.module_utils._base.text import SECRET
from ansible_collections.magi.models.plugins.module_utils._host.values import Listener

PROC = Path("/proc")


def process_environment(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with; {} if it has ended, or we may not see it (proc(5))."""
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
    """Return the command line of a process, shortened, with control characters escaped, and without the values of
    options that look like secrets."""
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


def parse_listeners(table: str) -> tuple[tuple[str, int, str], ...]:
    """Return (address, port, socket inode) of every listening socket of a /proc/net/tcp or tcp6 table (proc(5)).

    Addresses there are hexadecimal words in the machine's byte order.
    """
    found = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 10 or fields[3] != "0A":  # 0A: TCP_LISTEN
            continue
        raw, port = fields[1].split(":")
        words = [int(raw[i : i + 8], 16) for i in range(0, len(raw), 8)]
        packed = struct.pack(f"={len(words)}I", *words)
        address = ipaddress.ip_address(packed)
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        found.append((str(mapped or address), int(port, 16), fields[9]))
    return tuple(found)


def listening_sockets() -> dict[str, tuple[str, int]]:
    """Return address and port of each listening TCP socket by its inode; {} without /proc."""
    found = {}
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for address, port, inode in parse_listeners((PROC / "net" / table).read_text()):
                found[inode] = (address, port)
    return found


def sockets_of(pid: int) -> set[str]:
    """Return the inodes of the sockets that a process has open, as far as we may see them."""
    found = set()
    with contextlib.suppress(OSError):
        for descriptor in os.listdir(PROC / str(pid) / "fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(PROC / str(pid) / "fd" / descriptor)
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found


def listens(pid: int) -> bool:
    """Whether a process listens at a TCP port; True where no kernel tells, without /proc."""
    if not (PROC / "net" / "tcp").exists():
        return True
    return bool(sockets_of(pid) & listening_sockets().keys())


def read_listeners(wanted: Iterable[int], instances: Mapping[int, str]) -> tuple[Listener, ...]:
    """Return the listeners on the ports ``wanted``; ``instances`` maps the pids of our instances to their names."""
    ports = set(wanted)
    sockets = {inode: at for inode, at in listening_sockets().items() if at[1] in ports}
    owners: dict[str, int] = {}
    for pid in _pids() if sockets else ():
        owners |= dict.fromkeys(sockets_of(pid) & sockets.keys(), pid)
    found = []
    for inode, (address, port) in sockets.items():
        owner = owners.get(inode)
        instance = instances.get(owner) if owner else None
        found.append(Listener(address, port, owner, command_of(owner) if owner else None, instance))
    return tuple(sorted(found, key=lambda item: (item.port, item.address)))


def orphans(home: str, managed: Iterable[int]) -> dict[str, int]:
    """Return by name the pids of instances of ``home`` that outlived their service manager.

    Anybody can give a process our variables, so it counts only if it runs as our own user and its program is
    llama-server (the file, which no setuid program can fake; not its argv[0]). This finds the instances of supervisord.
    Those of systemd run as other users, and systemd knows of each unit that has processes, even without its files.
    What an instance starts, such as its tools, inherits its variables but is not an instance.
    """
    found = {}
    for pid in _pids():
        with contextlib.suppress(OSError):
            program = os.path.basename(os.readlink(PROC / str(pid) / "exe"))  # "… (deleted)" after an update
            if "llama-server" in program and (PROC / str(pid)).stat().st_uid == os.geteuid():
                environment = process_environment(pid)
                name = environment.get("MAGI_INSTANCE", "")
                if environment.get("MAGI_HOME") == home and re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
                    found[pid] = name
    known = {*managed, *found}
    return {name: pid for pid, name in found.items() if known & _ancestry(pid) == {pid} - set(managed)}


def _ancestry(pid: int) -> set[int]:
    """Return a process and its ancestors."""
    found: set[int] = set()
    with contextlib.suppress(OSError, IndexError, ValueError):
        while pid not in found:  # the first process has the parent 0, which does not exist
            found.add(pid)
            pid = int((PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    return found


def start_time(pid: int) -> int:
    """Return when a process was started, in clock ticks since boot (proc(5), stat); 0 if it has ended (also where its
    parent has not asked for that yet, a zombie), or we may not see it."""
    with contextlib.suppress(OSError):
        state, *fields = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return 0 if state in "ZX" else int(fields[18])
    return 0


CGROUPS = Path("/sys/fs/cgroup")


def memory_bytes(apart: bool = True) -> int:
    """Return the memory that processes of this host can have: the machine's, or less where a cgroup limits it.

    ``apart``: they run outside our own cgroup, so only the limit of the whole host (a container's) counts.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(limit for limit, _left in _limits(apart))])


def available_bytes(apart: bool = True) -> int | None:
    """Return the memory that new processes can have without swapping (proc(5), MemAvailable), and without reaching the
    limit of a cgroup; None if unknown."""
    with contextlib.suppress(OSError):
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", (PROC / "meminfo").read_text(), re.MULTILINE)
        return min([int(found[1]) * 1024, *(left for _limit, left in _limits(apart))]) if found else None
    return None


def _limits(apart: bool) -> list[tuple[int, int]]:
    """Return the limit of each cgroup that counts, and what is left of it: cgroup v2's, or v1's (cgroups(7)). The file
    cache is given back where memory is short."""
    found = []
    for folder in _cgroups(apart):
        with contextlib.suppress(OSError, ValueError, KeyError):
            old = not (folder / "memory.max").exists()
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if old else ("memory.max", "memory.current")
            limit, used = (int((folder / name).read_text()) for name in names)
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            cache = sum(int(stat[f"{'total_' if old else ''}{name}"]) for name in ("active_file", "inactive_file"))
            found.append((limit, max(limit - used + cache, 0)))
    return found


def _cgroups(apart: bool) -> Iterable[Path]:
    """Yield the folders of our own memory cgroup and of those above it, up to the host's; that alone if ``apart``."""
    try:
        lines = (PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _number, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root = CGROUPS / controllers
            own = root / path.strip("/")
            yield from (root,) if apart else (each for each in (own, *own.parents) if root in (each, *each.parents))


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, and that run (proc(5), /proc/pid/task/tid/children)."""
    found: list[int] = []
    for path in (PROC / str(pid) / "task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def own_memory(pid: int) -> int | None:
    """Return the bytes that a process alone has in memory: neither files that it maps nor what was swapped out; None if
    unknown (proc(5), status)."""
    with contextlib.suppress(OSError):
        found = re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB$", (PROC / str(pid) / "status").read_text(), re.MULTILINE)
        return sum(map(int, found)) * 1024 if found else None
    return None


def used_memory(pid: int) -> int | None:
    """Return the bytes that a process has in memory, of what it shares its part (proc(5), smaps_rollup, Pss); None if
    unknown."""
    with contextlib.suppress(OSError):
        found = re.search(r"^Pss:\s+(\d+) kB$", (PROC / str(pid) / "smaps_rollup").read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else None
    return None


def gpu_groups() -> tuple[str, ...]:
    """Return the existing groups to which distributions give the nodes of GPUs."""
    return tuple(sorted({"render", "video"} & {group.gr_name for group in grp.getgrall()}))
