# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Docker and Podman: one container for each instance, by the engine's own command line (docs/docker.md)."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import ipaddress
import json
import os
import pwd
import re
import resource
import shlex
import shutil
import signal
import stat
import subprocess
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.magi.models.plugins.module_utils._base.files import make_folder, write_atomic, writing
from ansible_collections.magi.models.plugins.module_utils._base.gpus import gpus
from ansible_collections.magi.models.plugins.module_utils._base.states import NOT_STARTED, State
from ansible_collections.magi.models.plugins.module_utils._base.text import SECRET
from ansible_collections.magi.models.plugins.module_utils._services.manager import (
    asked,
    clear,
    environment_file,
    environment_value,
    names,
    needed,
)
from ansible_collections.magi.models.plugins.module_utils._services.values import (
    Capabilities,
    Filters,
    ServiceError,
    Status,
    Template,
)

KEYS = "/run/magi/api-keys"
"""Where a server finds its API keys, in its container."""
USER = "65534:65534"
"""nobody, by number: an image need not know the name."""
HARDENED = (
    "--read-only",
    "--tmpfs=/tmp:rw,noexec,nosuid,nodev,size=64m",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--pids-limit=4096",
    "--ulimit=core=0",
    f"--user={USER}",
    "--pull=never",
)
"""What every container of ours is run with."""
PID_MAX = Path("/proc/sys/kernel/pid_max")
BOOTED = Path("/run/systemd/system")
"""There where systemd runs the machine (sd_booted(3))."""
UNITS = Path("/etc/systemd/system")
LINGERS = Path("/var/lib/systemd/linger")
"""A file for each user whose processes last."""
STOP_GRACE = 5
"""Seconds between SIGTERM and SIGKILL."""
ANSWER = 120
"""Seconds that a command of the engine may take."""
PULL = 2 * 3600
"""Seconds that it may pull an image for: tens of GB over a slow line."""
_LOGGING = {
    "docker": ("--log-driver=json-file", "--log-opt=max-size=10m", "--log-opt=max-file=2"),
    "podman": ("--log-driver=k8s-file", "--log-opt=max-size=10mb"),
}
_ELSEWHERE = re.compile("bind source path does not exist: (.+)")
_GONE = re.compile(r"[Nn]o such (?:container|object|image)|no container with name or ID|image not known")


def in_file(name: str, value: str) -> bool:
    """Whether every version of both engines reads this variable back from an environment file as it is (docker/cli
    opts/file.go; podman pkg/env): some take quotes, comments and spaces at the ends for their own."""
    plain = re.fullmatch(r"[\w./:,=+@%-]+(?: +[\w./:,=+@%-]+)*|", value, re.ASCII)
    return bool(plain) and len(name) + len(value) < 60000  # they read lines of 64 KiB at most


def carried(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that may reach a container through the environment of the engine's command, and so are in
    no argument: llama-server's, ours, and secrets. Others, such as PATH or DOCKER_HOST, would change that command."""
    return {
        name: value
        for name, value in variables.items()
        if name.startswith(("LLAMA_", "GGML_", "MAGI_")) or SECRET.search(name)
    }


def variable_options(variables: Mapping[str, str]) -> list[str]:
    """Return the options that give a container ``variables``: those that are ``carried`` by name alone."""
    by_name = carried(variables)
    return [
        f"--env={name}" if name in by_name else f"--env={name}={value}" for name, value in sorted(variables.items())
    ]


def publications(address: str, port: int) -> list[str]:
    """Return how ``port`` of a container is published at ``address``: one, or several with commas, each once. Raises
    ValueError for a name, a socket's path or an address with a scope (``fe80::1%eth0``), which no engine publishes."""
    found = {}
    for given in address.split(","):
        bound = {"localhost": "127.0.0.1"}.get(given.strip(), given.strip())
        try:
            at = ipaddress.ip_address("" if "%" in bound else bound)
        except ValueError:
            raise ValueError(
                f"a container's port is published at IP addresses alone, and {bound!a} is none; correct "
                "model_server_host"
            ) from None
        found[at] = f"[{at}]:{port}:{port}" if at.version == 6 else f"{at}:{port}:{port}"
    everywhere = {at.version for at in found if at.is_unspecified}
    return [said for at, said in found.items() if at.is_unspecified or at.version not in everywhere]


def container_name(home: str, name: str) -> str:
    """Return the name of an instance's container: each home folder on a host has its own."""
    return f"magi-{hashlib.sha256(os.fsencode(home)).hexdigest()[:8]}-{name}"


def create_arguments(
    engine: str, home: str, image: str, name: str, environment: Mapping[str, str], extra_args: Sequence[str] = ()
) -> list[str]:
    """Return what an instance's container is created with, as far as the controller can tell: options, image, and the
    arguments of llama-server. Raises ValueError for an address that can't be published."""
    home_label = f"--label=magi.home={home}"
    apart = {variable: value for variable, value in environment.items() if not in_file(variable, value)}
    mlock = "mlock" in environment.get("LLAMA_ARG_LOAD_MODE", "")
    return [
        f"--name={container_name(home, name)}",
        home_label,
        f"--label=magi.instance={name}",
        f"--label=magi.config_hash={environment['MAGI_CONFIG_HASH']}",
        f"--env-file={home}/{engine}/{name}.env",
        *variable_options(apart),
        *("--env=HOME=/tmp", "--env=XDG_CACHE_HOME=/tmp"),
        *(
            f"--publish={where}"
            for where in publications(environment["LLAMA_ARG_HOST"], int(environment["LLAMA_ARG_PORT"]))
        ),
        *HARDENED,
        *(["--ulimit=memlock=-1"] if mlock else []),
        "--restart=on-failure:3",
        # When the machine or the engine goes down, a server that ends in order would have ended for good, and not come
        # back at boot: one that was killed has failed. We stop it ourselves (stop).
        "--stop-signal=SIGKILL",
        "--no-healthcheck",
        *_LOGGING[engine],
        image,
        # It beats LLAMA_ARG_HOST, which says where clients find it.
        *("--host", "0.0.0.0"),  # noqa: S104 - inside; published at LLAMA_ARG_HOST alone
        *extra_args,
    ]


def limits(resources: str, memory: int, cores: int) -> list[str]:
    """Return the options for the limits of an instance (MAGI_RESOURCES); ``memory`` is the host's, in bytes, as are
    ``cores``: an engine refuses a quota of more than it has."""
    found = []
    for name, value in (item.split("=", 1) for item in resources.split()):
        if name == "memory_max":
            found.append(f"--memory={memory * int(value[:-1]) // 100 if value.endswith('%') else value.lower()}")
        elif name == "cpu_quota":
            found.append(f"--cpus={min(int(value[:-1]) / 100, cores):g}")
        elif name == "nice":  # the kernel's weight of a nice level (kernel/sched/core.c, sched_prio_to_weight)
            found.append(f"--cpu-shares={max(2, round(1024 / 1.25 ** int(value)))}")
    return found


def mount(source: str, target: str) -> str:
    """Return the option that shows a file or folder in a container, read-only. It is a line of CSV."""
    fields = (f"{key}={value}" for key, value in (("source", source), ("target", target)))
    return ",".join(["--mount=type=bind", *('"' + field.replace('"', '""') + '"' for field in fields), "readonly"])


_LISTS = frozenset({"--lora", "--lora-scaled", "--control-vector", "--control-vector-scaled"})
"""The options that llama-server reads as a list of files, a line of CSV, some with a scale (``path:0.5``). None has a
variable (llama.cpp common/arg.cpp)."""


def named_files(environment: Mapping[str, str], arguments: Sequence[str]) -> list[str]:
    """Return the absolute paths that options name, in variables and arguments. What they name may not exist.

    A name of a model may have commas and colons, and names no other file by them: all but lists are taken whole.
    """
    values = [value for name, value in environment.items() if name.startswith("LLAMA_ARG_")]
    for option, value in zip(("", *arguments), arguments):
        items = next(csv.reader([value]), []) if option in _LISTS else ()
        values += [value, *items, *(item.rpartition(":")[0] for item in items)]
    return [*dict.fromkeys(path for path in values if path.startswith("/") and path != KEYS)]


def steps(path: Path) -> list[tuple[Path, Path]]:
    """Return the file at ``path`` and, where it is a link, each that this leads to: on the host, and where a container
    looks for it, in which the folders on the way are no links. Raises OSError without a file."""
    here = there = path.absolute()
    found = [(here, there)]
    while here.is_symlink() and len(found) < 40:  # as many as Linux follows
        link = os.readlink(here)
        here = Path(os.path.normpath(here.parent.resolve() / link))
        there = Path(os.path.normpath(there.parent / link))
        found.append((here, there))
    here.stat()
    return found


def with_shards(path: str) -> list[str]:
    """Return the paths of all shards of which that at ``path`` is one, as llama-server finds them (llama.cpp
    src/llama.cpp, llama_split_path); else ``path`` alone. Raises OSError."""
    folder, name = os.path.split(path)
    shard = re.fullmatch(r"(.*)-\d{5}(-of-\d{5}\.gguf)", name, re.ASCII | re.DOTALL)
    if shard is None:
        return [path]
    wanted = re.compile(rf"{re.escape(shard[1])}-\d{{5}}{re.escape(shard[2])}", re.ASCII)
    return [os.path.join(folder, each) for each in sorted(os.listdir(folder)) if wanted.fullmatch(each)]


_OF_IMAGES = re.compile(
    r"/(app|dev(/shm)?|etc|opt|run|tmp|usr(/(local|share))?|var"
    r"|(bin|lib(32|64)?|proc|run/magi|sbin|sys|usr/(local/)?(bin|lib(32|64)?|sbin))(/.*)?)",
    re.DOTALL,
)
"""The folders in which an image has its own files, or the engine and we put some in a container."""


def shown(paths: Iterable[str]) -> list[tuple[str, str]]:
    """Return what a container must see of the host for files at ``paths``, as far as they exist, as pairs of what is
    there and its place in the container: of a model its folder, since its shards are found by name, and of all others
    the file alone; never a folder that an option names."""
    found: dict[str, str] = {}
    for given in paths:
        with contextlib.suppress(OSError):
            for here, there in (step for path in with_shards(given) for step in steps(Path(path))):
                whole = given.lower().endswith(".gguf") and str(there.parent) != "/"
                if whole or here.is_file():
                    found[str(there.parent if whole else there)] = str(here.parent if whole else here)

    def inside(target: str) -> bool:
        """Whether it is there by the folder above, and not by a link that leads out of that."""
        above = found.get(os.path.dirname(target))
        real = above and os.path.join(os.path.realpath(above), os.path.basename(target))
        return real == os.path.realpath(found[target])

    return [(source, target) for target, source in sorted(found.items()) if not inside(target)]


def gpu_options(engine: str, nodes: Sequence[str], groups: Iterable[int], *, rootless: bool = False) -> list[str]:
    """Return the options that give a container the GPUs whose device ``nodes`` the host has; ``groups`` own them. A
    ``rootless`` engine can't name these: its user's come along."""
    if any(node.startswith("/dev/nvidia") for node in nodes):
        return ["--gpus=all"] if engine == "docker" else ["--device=nvidia.com/gpu=all"]
    added: Iterable[Any] = ["keep-groups"] if nodes and rootless else sorted({*groups})
    return [*(f"--device={node}" for node in nodes), *(f"--group-add={group}" for group in added)]


# State.Status of docker inspect and podman inspect
_STATES = {
    "running": State.RUNNING,
    "paused": State.RUNNING,
    "stopping": State.RUNNING,
    "restarting": State.BACKOFF,
    "dead": State.FAILED,
}
_RESTARTED = 10
"""Seconds after its end in which podman starts a container again. It has no state for that."""


def parse_status(said: str, now: float) -> dict[str, Status]:
    """Return the status by instance from ``docker inspect`` or ``podman inspect`` of our containers; ``now`` is in
    seconds since the epoch, and ends what waits to be started again."""
    found = {}
    for item in json.loads(said or "[]"):
        name = (item["Config"].get("Labels") or {}).get("magi.instance")
        if not name:  # one that asks llama-server for its options
            continue
        of = item["State"]
        code, pid, error = of.get("ExitCode", 0), of.get("Pid") or None, " ".join((of.get("Error") or "").split())
        ended = f"{NOT_STARTED}{error[-300:]}" if error else _exit(code, bool(of.get("OOMKilled")))
        state = _STATES.get(of["Status"], State.STOPPED)
        if of["Status"] in ("exited", "stopped") and (code or error):
            policy = item.get("HostConfig", {}).get("RestartPolicy", {})
            again = item.get("RestartCount", 0) < policy.get("MaximumRetryCount", 0)
            late = now - (_seconds(of.get("FinishedAt", "")) or 0) > _RESTARTED
            state = State.FAILED if error or late or not again else State.BACKOFF
        pairs = (pair.partition("=") for pair in item["Config"].get("Env") or ())
        found[name] = Status(
            state,
            pid if state is State.RUNNING else None,
            _seconds(of.get("StartedAt", "")),
            ended if state in (State.FAILED, State.BACKOFF) else None,
            {key: value for key, _equals, value in pairs},
        )
    return found


def _exit(code: int, oom: bool) -> str:
    if oom:
        return f"oom-kill, exit status {code}"
    with contextlib.suppress(ValueError):
        return f"terminated by {signal.Signals(code - 128).name}"
    return f"exit status {code}"


def _seconds(text: str) -> float | None:
    """Return a time of the engine (RFC 3339, with nanoseconds) in seconds since the epoch; None for never."""
    match = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,6})?\d*(Z|[+-]\d\d:\d\d)$", text)
    if match is None or text.startswith("0001"):
        return None
    whole, part, zone = match.groups()
    return datetime.fromisoformat(whole + ("+00:00" if zone == "Z" else zone)).timestamp() + float(part or 0)


def last_run(state: Mapping[str, Any]) -> float:
    """Return from when on what a container printed is its last run's, in seconds since the epoch: from the end of the
    run before. Where only the end of the last one is known, a moment before its start, which the engine notes when the
    server has printed its first lines; it pauses a tenth of a second between runs, and needs longer for a start."""
    begun, ended = _seconds(state.get("StartedAt", "")) or 0, _seconds(state.get("FinishedAt", "")) or 0
    return ended if ended < begun else max(0, begun - 0.25)


def last_sentence(said: str) -> str:
    """Return what an engine's command said when it failed, on one line: without advice on usage and notes on
    the way."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and not re.match(r"See '|Run '|time=", line)]
    lines = [line for line in lines if line.startswith("Error: ")][-1:] or lines
    return " ".join(lines)[-500:].rstrip(".") or "it said nothing"


def _templates(engine: str) -> tuple[Template, ...]:
    return (
        Template("instance.env.j2", "{home}/instances/{name}.env", 0o600, per_instance=True),
        Template("container.env.j2", f"{{home}}/{engine}/{{name}}.env", 0o600, per_instance=True),
        Template("container.args.j2", f"{{home}}/{engine}/{{name}}.args", 0o600, per_instance=True),
    )


class Containers:
    """The containers of one home folder; the two engines are told apart by a class each, below."""

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities] = Capabilities(limits=True, own_user=True, image=True)
    templates: ClassVar[Sequence[Template]]
    filters: ClassVar[Filters] = {"environment_value": environment_value, "argument": shlex.quote}

    def __init__(self, home: Path, *, left: bool = False):
        """``left``: another manager is chosen now. If the engine is not even installed any more, it has no containers,
        and its files alone are left."""
        self.home = home
        self.folder = home / self.name
        self.uninstalled = left and shutil.which(self.name) is None
        self._usable_gpus: list[str] | None = None

    def values(self) -> Mapping[str, Any]:
        def arguments(plan: Any, instance: Any) -> list[str]:
            return create_arguments(
                *(self.name, plan.home, plan.llama_server_path),
                *(instance.name, instance.environment, instance.extra_args),
            )

        return {"create_arguments": arguments, "in_file": in_file}

    def environment(self, name: str, wanted: Mapping[str, str]) -> Mapping[str, str]:
        """Its user may not read the API key file, so it gets a copy."""
        return {**wanted, "LLAMA_ARG_API_KEY_FILE": KEYS} if "MAGI_API_KEY_FILE" in wanted else wanted

    def obstacle(self, path: Path, folders: Sequence[Path], *, program: bool = False) -> tuple[str, str] | None:
        """The servers run as nobody, so the bits for others count. Of the folders on the way, they see only the one
        that the file lies in; those above it are made anew. Their program is in the image."""
        for here, there in () if program else steps(path):
            if _OF_IMAGES.fullmatch(str(there.parent)):
                return str(there.parent), "covered"
            for part in (here.parent, here):
                mode = part.stat().st_mode
                if not mode & needed(mode, program=False):
                    return str(part), stat.filemode(mode)
        return None

    def owned(self) -> list[Path]:
        ours = (path for pattern in ("*.env", "*.args") for path in self.folder.glob(pattern))
        return sorted([*(self.home / "instances").glob("*.env"), *ours])

    def discard(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def common(self) -> list[Path]:
        return [path for path in (self._pulled(),) if path.exists()]

    def needs(self) -> list[Path]:
        return [self._pulled()]

    def outdated(self) -> bool:
        return False

    def regain(self) -> None:
        """The engine is never ours to end."""

    def prepare(self) -> None:
        """The engine is there already; find out before anything ends."""
        self._containers()

    def _pulled(self) -> Path:
        """The file with the images that we pulled, one a line, which teardown removes."""
        return self.folder / "pulled"

    def _program(self) -> str:
        program = shutil.which(self.name)
        if program is None:
            raise ServiceError(
                f"there is no {self.name} on the host; install it, or set model_server_manager to systemd or "
                "supervisor."
            )
        return program

    def _run(
        self, *arguments: str, variables: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the engine, ``timeout`` seconds at most (ANSWER). Raises ServiceError."""
        seconds = ANSWER if timeout is None else timeout
        try:
            return subprocess.run(
                [self._program(), *arguments],
                env={**os.environ, **(variables or {})},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="surrogateescape",
                check=False,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            raise ServiceError(
                f"{self.name} {arguments[0]} does not end within {seconds:g} s: see what holds {self.name} up on the "
                "host, restart it, and run again."
            ) from None

    def _engine(self, *arguments: str, gone: bool = False, variables: Mapping[str, str] | None = None) -> str:
        """Run a command of the engine; with ``gone``, what it names may be gone. Raises ServiceError."""
        done = self._run(*arguments, variables=variables)
        if done.returncode and not (gone and _GONE.search(done.stderr)):
            said = last_sentence(done.stderr)
            if re.search(r"Cannot connect to|failed to connect to the docker API|permission denied while trying", said):
                raise ServiceError(
                    f"{self.name} does not answer ({said}): start it (systemctl start {self.name}), and connect as "
                    "root or as a user who may use it."
                )
            elsewhere = _ELSEWHERE.search(said)
            if elsewhere and os.path.exists(elsewhere[1]):
                raise ServiceError(
                    f"{self.name} finds no {elsewhere[1]}, which is here, so this is a container: mount that folder of "
                    "the machine into it at the same path (docs/docker.md)."
                )
            raise ServiceError(f"{self.name} {arguments[0]}: {said}.")
        return done.stdout

    # llama-server in its image

    def fetch(self, program: str) -> None:
        """Pull the image unless it is there. Raises ServiceError."""
        if self._engine("image", "inspect", "--format={{.Id}}", program, gone=True).strip():
            return
        done = self._run("pull", "--quiet", program, timeout=PULL)
        if done.returncode:
            raise ServiceError(
                f"{self.name} can't pull the image {program} ({last_sentence(done.stderr)}): correct "
                f"model_server_image, or bring the image there ({self.name} load) and run again."
            )
        make_folder(self.folder)
        with writing(self._pulled()):
            # Deployments plan without the host's lock: a line that is added at once can lose no other.
            descriptor = os.open(self._pulled(), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, f"{program}\n".encode())
            finally:
                os.close(descriptor)

    def tidy(self, programs: Collection[str]) -> None:
        images = self._images()
        kept = [image for image in images if image in programs or not self._drop(image)]
        if kept != images:
            write_atomic(self._pulled(), "".join(f"{image}\n" for image in kept).encode(), 0o600)

    def _drop(self, image: str) -> bool:
        """Remove an image; return whether it is gone: while a container needs it, also somebody else's, it stays."""
        with contextlib.suppress(ServiceError):
            done = self._run("image", "rm", image)
            return done.returncode == 0 or bool(_GONE.search(done.stderr))
        return False

    def _images(self) -> list[str]:
        with contextlib.suppress(OSError):
            return [*dict.fromkeys(self._pulled().read_text().split())]
        return []

    def identity(self, program: str) -> str:
        found = self._engine("image", "inspect", "--format={{.Id}}", program, gone=True).strip()
        if not found:
            raise ServiceError(
                f"the image {program} is not on the host: a deployment pulls it, or do it there "
                f"({self.name} pull {program})."
            )
        return found

    def ask(
        self, program: str, arguments: Sequence[str], variables: Mapping[str, str]
    ) -> subprocess.CompletedProcess[bytes]:
        mounts = [mount(*pair) for pair in shown(named_files(variables, arguments))]
        return self._once(program, arguments, [*mounts, *self._gpus_for(program)], variables)

    def _once(
        self, image: str, arguments: Sequence[str], options: Sequence[str], variables: Mapping[str, str]
    ) -> subprocess.CompletedProcess[bytes]:
        """Run llama-server in a container without a network, which is gone afterwards. Raises TimeoutExpired."""
        name = container_name(str(self.home), f"_{uuid.uuid4().hex}")  # no instance's name begins so
        own = [f"--name={name}", f"--label=magi.home={self.home}", "--rm", "--network=none", "--no-healthcheck"]
        given = [*own, *self._own_limits(), *HARDENED, *variable_options(variables), *options, image, *arguments]
        try:
            return asked([self._program(), "run", *given], {**os.environ, **carried(variables)})
        except subprocess.TimeoutExpired:
            self._run("rm", "--force", "--volumes", name)  # it runs on without the command that began it
            raise

    def _own_limits(self) -> list[str]:
        """Return the options for the limits of processes that the engine would set otherwise, and may not."""
        return []

    def _gpus(self) -> list[str]:
        """Return the options that give a container all GPUs of the host; none where it has none."""
        nodes = list(gpus())
        if nodes and not nodes[0].startswith("/dev/nvidia"):
            nodes = sorted({*nodes, *map(str, Path("/dev/dri").glob("renderD*"))})
        rootless = self.name == "podman" and os.geteuid() != 0
        return gpu_options(self.name, nodes, (os.stat(node).st_gid for node in nodes), rootless=rootless)

    def _gpus_for(self, image: str) -> list[str]:
        """Return these options where the engine takes them: without the driver's toolkit for containers it does not."""
        if self._usable_gpus is None:
            options = self._gpus()
            if options:
                tried = self._once(image, ["--version"], options, {}).returncode
                if tried in (126, 127) and self._once(image, ["--version"], [], {}).returncode not in (126, 127):
                    tried = 125  # its runtime failed, and did not say that of the image's program
                options = [] if tried == 125 else options  # the engine itself failed (docker-run(1))
            self._usable_gpus = options
        return self._usable_gpus

    # instances

    def status(self) -> dict[str, Status]:
        found = {name: Status(State.STOPPED) for name in names((self.home / "instances").glob("*.env"), ".env")}
        containers = self._containers()
        if containers:
            # One may go in between: what is said of the others counts.
            found.update(parse_status(self._engine("inspect", "--type=container", *containers, gone=True), time.time()))
        return found

    def _containers(self) -> list[str]:
        if self.uninstalled:
            return []
        return self._engine("ps", "--all", "--no-trunc", "--quiet", f"--filter=label=magi.home={self.home}").split()

    def reload(self) -> None:
        """Each container has its definition from its creation."""

    def start(self, names: Sequence[str]) -> dict[str, str]:
        """Create the containers anew, with their present definitions."""

        def begin(name: str) -> str:
            try:
                self._begin(name)
            except (ServiceError, OSError, ValueError) as error:
                return str(error)
            return ""

        with ThreadPoolExecutor(4) as pool:
            return {name: said for name, said in zip(names, pool.map(begin, names)) if said}

    def _begin(self, name: str) -> None:
        self.stop(name)
        environment = environment_file(self.home, name)
        written = (self.folder / f"{name}.args").read_bytes().decode("utf-8", "surrogateescape")
        given = shlex.split(written, comments=True)
        files = named_files(environment, given)
        own = [*self._own_limits(), *(mount(*pair) for pair in shown(files))]
        if "MAGI_API_KEY_FILE" in environment:
            own.append(mount(str(self._keys(name, environment["MAGI_API_KEY_FILE"])), KEYS))
        memory, cores = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_NPROCESSORS_ONLN")
        own += limits(environment.get("MAGI_RESOURCES", ""), memory, cores)
        own += self._gpus() if "MAGI_GPU" in environment else []
        apart = {key: value for key, value in environment.items() if not in_file(key, value)}
        self._engine("run", "--detach", *own, *given, variables=carried(apart))

    def _keys(self, name: str, source: str) -> Path:
        """Return a copy of an API key file, in a folder that only we and the engine may enter. It lasts as long as the
        container: one that the engine starts again can't find the file without keys, which would let everybody in."""
        copy = self._copy(name)
        make_folder(copy.parent)
        copy.parent.chmod(0o700)
        write_atomic(copy, Path(source).read_bytes(), 0o444)
        return copy

    def _copy(self, name: str) -> Path:
        return self.folder / "keys" / name

    def stop(self, name: str) -> None:
        """Its container goes with it, and so does its log: nothing else tells both engines and all their versions not
        to start it at boot."""
        if self.uninstalled:
            return
        container = container_name(str(self.home), name)
        if self._run("kill", "--signal=TERM", container).returncode == 0:  # else it does not run
            with contextlib.suppress(ServiceError):  # it still runs
                self._run("wait", container, timeout=STOP_GRACE)
        self._engine("rm", "--force", "--volumes", container, gone=True)

    def forget(self, name: str) -> None:
        self.stop(name)
        clear([self._copy(name)], [self.folder / "keys"])

    def logs(self, name: str, lines: int) -> list[str]:
        """Return what the last run printed: the engine keeps that of the earlier ones, too."""
        return self._printed(name, lambda said: deque(said, lines), *self._tail(lines)) if lines else []

    def _tail(self, lines: int) -> Sequence[str]:
        """Return the options by which the engine itself says the last lines alone."""
        return (f"--tail={lines}",)

    def beginning(self, name: str, lines: int) -> list[str]:
        return self._printed(name, lambda said: islice(said, lines))

    def _printed(self, name: str, wanted: Callable[[Iterable[str]], Iterable[str]], *options: str) -> list[str]:
        container = container_name(str(self.home), name)
        said = self._run("inspect", "--type=container", "--format={{json .State}}", container).stdout.strip()
        if not said:
            return []
        command = [self._program(), "logs", f"--since={last_run(json.loads(said)):.3f}", *options, container]
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as process:
            late = threading.Timer(ANSWER, process.kill)
            late.start()
            found = [line.rstrip("\n") for line in wanted(process.stdout or ())]
            late.cancel()
            process.kill()  # it would read all that a server has ever printed
        return found

    def remove(self) -> None:
        for container in self._containers():
            self._engine("rm", "--force", "--volumes", container, gone=True)
        for image in () if self.uninstalled else self._images():
            self._drop(image)
        clear(
            [*self.owned(), *self.common(), *(self.folder / "keys").glob("*")],
            [self.folder / "keys", self.folder, self.home / "instances"],
        )


class Docker(Containers):
    name: ClassVar[str] = "docker"
    templates: ClassVar[Sequence[Template]] = _templates("docker")


class Podman(Containers):
    """Podman has no process that would start containers at boot: systemd does, where that runs the machine."""

    name: ClassVar[str] = "podman"
    templates: ClassVar[Sequence[Template]] = (
        *_templates("podman"),
        Template("podman-boot.service.j2", "{home}/podman/boot.service", 0o644),
    )

    def values(self) -> Mapping[str, Any]:
        # Imported here: only the controller needs it, see choice.chosen.
        from ansible_collections.magi.models.plugins.module_utils._services import systemd

        quoting = (systemd.systemd_argument, systemd.systemd_path, systemd.systemd_value)
        return {**super().values(), **{function.__name__: function for function in quoting}}

    def common(self) -> list[Path]:
        return [*super().common(), *(path for path in (self._boot(),) if path.exists())]

    def needs(self) -> list[Path]:
        return [*super().needs(), *(self._units() if BOOTED.is_dir() else ())]

    def prepare(self) -> None:
        self._lasts()
        super().prepare()
        if BOOTED.is_dir() and self._boot().exists():
            unit, wanted = self._units()
            make_folder(wanted.parent)
            write_atomic(unit, self._boot().read_bytes(), 0o644)
            with writing(wanted):
                wanted.unlink(missing_ok=True)
                wanted.symlink_to(unit)

    def remove(self) -> None:
        unit, wanted = self._units()
        clear([unit, wanted], [wanted.parent])
        super().remove()

    def _boot(self) -> Path:
        return self.folder / "boot.service"

    def _units(self) -> tuple[Path, Path]:
        """Return where systemd, or that of its user, finds the unit that starts our containers at boot, and the link by
        which it does (systemctl(1), enable). It reads both at boot alone."""
        user = Path(pwd.getpwuid(os.geteuid()).pw_dir, ".config", "systemd", "user")
        folder = user if os.geteuid() else UNITS
        name = container_name(str(self.home), "boot.service")
        return folder / name, folder / "default.target.wants" / name

    def identity(self, program: str) -> str:
        self._lasts()  # before anything ends
        return super().identity(program)

    def _lasts(self) -> None:
        """Raise ServiceError where its containers would end with the last session of its user (loginctl(1))."""
        if os.geteuid() and BOOTED.is_dir():
            user = pwd.getpwuid(os.geteuid()).pw_name
            if not (LINGERS / user).exists():
                raise ServiceError(
                    f"podman's containers of user {user} would end with that user's last session: run loginctl "
                    f"enable-linger {user} on the host as root, and run again."
                )

    def _tail(self, lines: int) -> Sequence[str]:
        """With --tail, it turns round the parts of a line that was written in several (containers/podman, pull request
        19562); all that it keeps is 10 MB at most."""
        return ()

    def _own_limits(self) -> list[str]:
        """By itself, it raises both beyond those of its own process, which only root may; ``--ulimit=host`` would
        undo the limits that we give. Where its own are higher than these, it lowers them first, and can't raise them
        again (podman cmd/podman/early_init_linux.go; containers/common pkg/config, getDefaultProcessLimits)."""
        found = []
        for name, number, most in (
            ("nofile", resource.RLIMIT_NOFILE, 1 << 20),
            ("nproc", resource.RLIMIT_NPROC, int(PID_MAX.read_text())),
        ):
            soft, hard = (most if each == resource.RLIM_INFINITY else each for each in resource.getrlimit(number))
            found.append(f"--ulimit={name}={min(soft, most)}:{min(hard, most)}")
        return found
