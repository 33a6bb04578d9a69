#!/usr/bin/env python3
"""Hosts to test on: containers that boot systemd and are reached over SSH, each on its own loopback address.

    hosts.py up [N]          brings up N hosts (1 to 16; default: those that exist, else 3), and keeps those that are up
    hosts.py engine          starts a docker daemon if none answers, and no host
    hosts.py base            does that, and gets the image debian:12 if it is not there
    hosts.py podman          makes sure that there is podman, and no host
    hosts.py inventory       prints the path of their Ansible inventory
    hosts.py down [--engine] removes them, and with --engine stops the docker daemon that `up` started

`up` starts a docker daemon, too. With --install these get docker.io, `up` and `base` debootstrap, and `podman` podman,
where that is missing (Debian, root). Exit status 3: docker, or podman, is not available here.

The state (SSH key, known_hosts, inventory) is in MAGI_TESTBED (default: ~/.cache/magi/testbed/run). Containers have
that folder's digest as a label, so two test beds on one machine never touch each other (give the second one
--network 127.0.2).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "magi"
RUN = Path(os.environ.get("MAGI_TESTBED") or CACHE / "testbed" / "run").resolve()
LABEL = "magi.testbed"
BED = hashlib.sha256(str(RUN).encode()).hexdigest()[:8]
NETWORK = f"magi-{BED}"
BASE_IMAGE = "debian:12"
DOCKERFILE = Path(__file__).with_name("Dockerfile")
PORTS = "8080-8099"
SSH_PORTS = (22, 2222)  # the second if the first is taken or not permitted
MAX_HOSTS = 16
BOOT_SECONDS = 90
ENGINE_PID = CACHE / "testbed" / "dockerd.pid"

# Run on the host: install the key given on stdin, wait until systemd has booted, print the host's SSH key.
# $1: the states to accept. A unit that failed later makes a host "degraded"; a new host boots without one.
BOOTED = """
umask 077; cat >/root/.ssh/authorized_keys
until [ -S /run/systemd/private ] && systemctl is-active -q dbus.service; do sleep 0.1; done
state=$(systemctl is-system-running --wait)
case " $1 " in
  *" $state "*) cat /etc/ssh/ssh_host_ed25519_key.pub ;;
  *) echo "systemd is $state"; systemctl --failed --no-legend --plain; exit 1 ;;
esac
"""


class Trouble(Exception):
    """Something that the user must know, in one sentence."""


class NoDockerError(Trouble):
    """This machine can't have hosts; the tests are not to blame."""


def run(*argv: str | Path, stdin: str | None = None, timeout: float | None = None) -> str:
    """Run a command; return its standard output, or raise Trouble with its complaint."""
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout)
    except FileNotFoundError:
        raise Trouble(f"{argv[0]} is not installed here") from None
    except subprocess.TimeoutExpired:
        raise Trouble(f"no end after {timeout:.0f} s: {' '.join(map(str, argv[:3]))}") from None
    if done.returncode:
        raise Trouble(f"{' '.join(map(str, argv[:3]))}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def succeeds(*argv: str) -> bool:
    """Whether a command can be run and exits with 0."""
    with contextlib.suppress(Trouble):
        run(*argv, timeout=30)
        return True
    return False


def install(*packages: str) -> None:
    """Install Debian packages; raise NoDockerError if that can't be done."""
    package = " ".join(packages)
    if os.geteuid() or not shutil.which("apt-get"):
        raise NoDockerError(
            f"{package} can't be installed here, which takes root and apt-get: install it and try again"
        )
    say(f"installing {package}")
    apt_get = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet")
    try:
        run(*apt_get, "update", timeout=300)
        run(*apt_get, "install", "--yes", "--no-install-recommends", *packages, timeout=900)
    except Trouble as trouble:
        raise NoDockerError(f"{package} can't be installed: {trouble}") from None


def engine_up(installs: bool) -> None:
    """Make sure that a docker daemon answers; start one if we may. A client alone (docker without dockerd)
    does not count. Raises NoDockerError."""
    if succeeds("docker", "info"):
        return
    if installs and platform.system() == "Linux" and not shutil.which("dockerd"):
        install("docker.io")
    if not shutil.which("docker"):
        raise NoDockerError("docker is not installed: install it (Debian: apt-get install docker.io) and try again")
    if platform.system() != "Linux" or os.geteuid() or not shutil.which("dockerd"):
        raise NoDockerError("no docker daemon answers, and only root on Linux can start one here: start docker")
    log = ENGINE_PID.with_suffix(".log")
    with log.open("ab") as out:
        daemon = subprocess.Popen([shutil.which("dockerd")], stdout=out, stderr=out, start_new_session=True)
    ENGINE_PID.write_text(f"{daemon.pid} {started(daemon.pid)}\n")
    deadline = time.monotonic() + 60
    while not succeeds("docker", "info"):
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise NoDockerError(f"the docker daemon does not come up: see {log}")
        time.sleep(0.1)


def started(pid: int) -> int:
    """When a process was started (field 22 of /proc/PID/stat): this tells a recycled pid from ours."""
    with contextlib.suppress(OSError):
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if state == "Z" else int(fields[18])
    return 0


def engine_down() -> None:
    """Stop the docker daemon that `up` started, if it is still the same and runs nobody else's containers."""
    if not ENGINE_PID.exists():
        return
    if succeeds("docker", "info") and run("docker", "ps", "--quiet"):
        say("the docker daemon is left running: others have containers on it")
        return
    pid, start = map(int, ENGINE_PID.read_text().split())
    if started(pid) == start:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 60
        while started(pid) == start:
            if time.monotonic() > deadline:
                raise Trouble(f"the docker daemon (pid {pid}) does not stop")
            time.sleep(0.1)
    ENGINE_PID.unlink()


def base_image(installs: bool) -> None:
    """Get debian:12 if it is not there: pull it, or make it with debootstrap and keep it as a tarball."""
    if succeeds("docker", "image", "inspect", BASE_IMAGE):
        return
    tarball = CACHE / "testbed" / "debian-12.tar.gz"
    if not tarball.exists():
        try:
            run("docker", "pull", "--quiet", BASE_IMAGE, timeout=300)
            return
        except Trouble as pull:
            say(f"{BASE_IMAGE} can't be pulled, making it with debootstrap")
            if installs and not shutil.which("debootstrap"):
                install("debootstrap")
            if os.geteuid() or not shutil.which("debootstrap"):
                raise NoDockerError(f"{pull}; the other way is debootstrap, installed and run by root") from None
        mirrors = run(
            "apt-get", "indextargets", "--format", "$(REPO_URI)",
            "Identifier: Packages", "Origin: Debian", "Codename: bookworm", "Component: main",
        ).split()  # fmt: skip
        if not mirrors:
            raise Trouble("apt's sources name no mirror of Debian 12 (bookworm) for debootstrap to use")
        with tempfile.TemporaryDirectory(prefix="magi-debian-") as root:
            run("debootstrap", "--variant=minbase", "bookworm", root, mirrors[0], timeout=900)
            # As Debian's own image has it: a layer that is lost is made again, so dpkg need not wait for the disk.
            Path(root, "etc/dpkg/dpkg.cfg.d/docker-apt-speedup").write_text("force-unsafe-io\n")
            part = tarball.with_suffix(".part")
            run("tar", "-C", root, "--exclude=./var/cache/apt/archives/*.deb", "-czf", part, ".")
            part.rename(tarball)
    run("docker", "import", tarball, BASE_IMAGE)


def host_image(installs: bool) -> str:
    """Build the image of a host, once per content of the Dockerfile."""
    tag = f"magi-testbed:{hashlib.sha256(DOCKERFILE.read_bytes()).hexdigest()[:12]}"
    if not succeeds("docker", "image", "inspect", tag):
        base_image(installs)
        say(f"building {tag}")
        run("docker", "build", "--quiet", "--tag", tag, "-", stdin=DOCKERFILE.read_text(), timeout=900)
    return tag


def containers() -> dict[str, dict]:
    """Our containers by host name, as docker describes them."""
    ids = run("docker", "ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={LABEL}={BED}").split()
    found = json.loads(run("docker", "inspect", *ids)) if ids else []
    return {container["Config"]["Hostname"]: container for container in found}


def create(name: str, address: str, arguments: list[str], digest: str) -> None:
    """Start a host's container, on the second SSH port if the first fails."""
    for port in SSH_PORTS:
        argv = ["docker", "run", "--detach", "--name", f"magi-{BED}-{name}", "--hostname", name]
        argv += ["--label", f"{LABEL}={BED}", "--label", f"{LABEL}.digest={digest}"]
        argv += ["--publish", f"{address}:{port}:22", "--publish", f"{address}:{PORTS}:{PORTS}"]
        try:
            run(*argv, *arguments)
            return
        except Trouble:
            remove([f"magi-{BED}-{name}"])
            if port == SSH_PORTS[-1]:
                raise


def remove(names: list[str]) -> None:
    """Remove containers and their anonymous volumes."""
    if names:
        run("docker", "rm", "--force", "--volumes", *names)


def ssh_port(container: dict) -> tuple[str, int]:
    """Where a container's SSH is published."""
    binding = container["HostConfig"]["PortBindings"]["22/tcp"][0]
    return binding["HostIp"], int(binding["HostPort"])


def wait_until_up(name: str, container: dict, public_key: str, states: str) -> str:
    """Wait until a host has booted and its SSH answers; return its line for known_hosts."""
    try:
        inside = ["docker", "exec", "--interactive", container["Id"], "timeout", str(BOOT_SECONDS)]
        key = run(*inside, "sh", "-c", BOOTED, "sh", states, stdin=public_key, timeout=BOOT_SECONDS + 10)
    except Trouble as trouble:
        raise Trouble(f"{name} ({container['Name'].strip('/')}) does not boot: {trouble}") from None
    address, port = ssh_port(container)
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=5) as connection:
            if connection.recv(4) == b"SSH-":
                break
        if time.monotonic() > deadline:
            raise Trouble(f"{name} has booted, but no SSH server answers on {address}:{port}")
        time.sleep(0.1)
    return f"{address if port == 22 else f'[{address}]:{port}'} {' '.join(key.split()[:2])}\n"


def mounts(models: Path, llama: Path) -> list[str]:
    """The arguments that mount the models and the builds of llama.cpp, read-only."""
    arguments = []
    for source, target in ((models, "/models"), (llama, "/opt/llama.cpp")):
        source.mkdir(parents=True, exist_ok=True)  # docker would make it, as root
        arguments += ["--volume", f"{source.resolve()}:{target}:ro"]
    return arguments


def systemd_arguments() -> list[str]:
    """What systemd needs as PID 1 of a container, without --privileged."""
    arguments = ["--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined", "--tmpfs", "/run:exec"]
    arguments += ["--tmpfs", "/run/lock", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup"]
    # Without SYS_PTRACE, ProtectProc= hides processes, and PrivateUsers= then finds none to map.
    arguments += ["--cap-add", "SYS_PTRACE"]
    # In docker's containers everybody may bind ports below 1024, on a host root alone.
    arguments += ["--sysctl", "net.ipv4.ip_unprivileged_port_start=1024"]
    # `systemctl reboot` on the host ends PID 1 with a signal, and docker boots it again.
    arguments += ["--cap-add", "SYS_BOOT", "--restart", "on-failure"]
    engine = json.loads(run("docker", "info", "--format", "{{json .}}"))
    if engine["CgroupVersion"] == "2":
        arguments += ["--cgroupns", "host"]
    if any("apparmor" in option for option in engine["SecurityOptions"]):
        arguments += ["--security-opt", "apparmor=unconfined"]  # docker's profile forbids systemd's mounts
    return arguments


def inventory(hosts: dict[str, dict]) -> str:
    """The Ansible inventory (YAML, which JSON is) of these hosts."""
    # BatchMode: a wrong key is an error, not a question that nobody answers.
    ssh = f"-o IdentitiesOnly=yes -o BatchMode=yes -o UserKnownHostsFile={shlex.quote(f'{RUN}/known_hosts')}"
    group = {
        "hosts": {
            name: {
                "ansible_host": ssh_port(host)[0],
                "ansible_port": ssh_port(host)[1],
                "testbed_container": host["Name"].strip("/"),
            }
            for name, host in hosts.items()
        },
        "vars": {
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_ssh_private_key_file": str(RUN / "key"),
            "ansible_ssh_common_args": ssh,
        },
    }
    return json.dumps({"model_servers": group}, indent=2) + "\n"


def up(count: int | None, network: str, models: Path, llama: Path, installs: bool) -> None:
    """Bring up exactly `count` hosts; leave alone those that already match."""
    engine_up(installs)
    image = host_image(installs)
    have = containers()
    count = count or len(have) or 3
    if not 1 <= count <= MAX_HOSTS:
        raise Trouble(f"{count} hosts were asked for: 1 to {MAX_HOSTS} are possible")
    if not (RUN / "key").exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "magi-testbed", "-f", RUN / "key")
    public_key = (RUN / "key.pub").read_text()
    # On a network of their own, nobody takes a host's address while it reboots.
    if not succeeds("docker", "network", "inspect", NETWORK):
        run("docker", "network", "create", "--label", f"{LABEL}={BED}", NETWORK)
    arguments = [*systemd_arguments(), *mounts(models, llama), f"--network={NETWORK}", image]
    addresses = {f"host{i}": f"{network}.{i}" for i in range(1, count + 1)}
    digests = {
        name: hashlib.sha256(json.dumps([address, arguments]).encode()).hexdigest()
        for name, address in addresses.items()
    }
    keep = {
        name
        for name, host in have.items()
        if host["State"]["Running"] and host["Config"]["Labels"][f"{LABEL}.digest"] == digests.get(name)
    }
    remove([have[name]["Id"] for name in have.keys() - keep])
    missing = [name for name in addresses if name not in keep]
    with ThreadPoolExecutor(MAX_HOSTS) as pool:
        list(pool.map(lambda name: create(name, addresses[name], arguments, digests[name]), missing))
        have = containers()
        hosts = {name: have[name] for name in addresses}
        known = list(
            pool.map(
                lambda name: wait_until_up(
                    name, hosts[name], public_key, "running degraded" if name in keep else "running"
                ),
                hosts,
            )
        )
    (RUN / "known_hosts").write_text("".join(known))
    (RUN / "inventory.yml").write_text(inventory(hosts))


def say(text: str) -> None:
    """Tell the user what is going on; standard output is kept for results."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Parse the command line and run the verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("up", help="bring the hosts up")
    verb.add_argument("count", nargs="?", type=int, metavar="N")
    verb.add_argument("--install", action="store_true", help="install docker.io and debootstrap where missing")
    verb.add_argument("--network", default="127.0.1", help="the hosts are NETWORK.1, .2 … (%(default)s)")
    verb.add_argument("--models", type=Path, default=CACHE / "models", help="as /models (%(default)s)")
    verb.add_argument("--llama", type=Path, default=CACHE / "llama.cpp", help="as /opt/llama.cpp (%(default)s)")
    verb = verbs.add_parser("engine", help="start a docker daemon if none answers")
    verb.add_argument("--install", action="store_true", help="install docker.io where missing")
    verb = verbs.add_parser("base", help=f"get the image {BASE_IMAGE}")
    verb.add_argument("--install", action="store_true", help="install docker.io and debootstrap where missing")
    verb = verbs.add_parser("podman", help="make sure that there is podman")
    verb.add_argument("--install", action="store_true", help="install it where missing")
    verbs.add_parser("inventory", help="print the path of the inventory")
    verb = verbs.add_parser("down", help="remove the hosts")
    verb.add_argument("--engine", action="store_true", help="stop the docker daemon too, if `up` started it")
    options = parser.parse_args()

    RUN.mkdir(parents=True, exist_ok=True, mode=0o700)
    ENGINE_PID.parent.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    try:
        with (RUN / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two at once would take the same addresses
            if options.verb == "up":
                up(options.count, options.network, options.models, options.llama, options.install)
                say(f"hosts are up after {time.monotonic() - begin:.1f} s: {RUN / 'inventory.yml'}")
            elif options.verb == "engine":
                engine_up(options.install)
            elif options.verb == "base":
                engine_up(options.install)
                base_image(options.install)
            elif options.verb == "podman":
                if options.install and not shutil.which("podman"):
                    install("podman", "netavark")  # its network is only recommended
                if not succeeds("podman", "info"):
                    raise NoDockerError("podman does not run here: see podman info")
            elif options.verb == "down":
                if succeeds("docker", "info"):
                    remove([container["Id"] for container in containers().values()])
                    if succeeds("docker", "network", "inspect", NETWORK):
                        run("docker", "network", "rm", NETWORK)
                for name in ("inventory.yml", "known_hosts", "key", "key.pub"):
                    (RUN / name).unlink(missing_ok=True)
                if options.engine:
                    engine_down()
            elif not (RUN / "inventory.yml").exists():
                raise Trouble("no hosts are up: run `hosts.py up` first")
            else:
                print(RUN / "inventory.yml")
    except Trouble as trouble:
        say(f"hosts.py: {trouble}")
        return 3 if isinstance(trouble, NoDockerError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
