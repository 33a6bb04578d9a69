"""Break deployments at random, and check that the promises hold: python -m tests.chaos.chaos (make chaos).

Each round does one thing to a deployment of a random profile on real systemd hosts: it kills or pauses it, makes systemd
re-execute itself, starts a second deployment at the same time, swaps or removes model files, kills servers, or restarts a
host. Then it repairs the damage and deploys once more. It prints the seed; the same seed makes the same choices, though
not at the same moments.

What must hold (the invariants):

1. **One clean run converges**: it exits with 0, all that its profile enables is ready, and a run in check mode after it
   finds nothing to change.
2. **Nothing foreign is touched**: a foreign unit, its process and its file stay as they are.
3. **No cause is false**: a server is reported as not ready only for a cause that the round's fault explains.
4. **No healthy server is stopped without a reason in the plan**: if a server that ran has another process than before, or
   none, a plan of that round said stop or restart, or the round's fault killed it; and what the plan stops as "not
   enabled" is not enabled.
5. **Two deployments at once leave no mixture**: if one of them ended well, all hosts have the same profile.

Exit status 1 at the first finding, which names seed, round, fault and host.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fleet.conftest import HOSTS, Fleet, build
from tests.playbook import Playing, Run
from tests.waiting import until

MODELS = "/srv/models"
"""A folder on each host in which we may swap files."""
QUANTIZATIONS = ("Q2_K", "Q3_K_M", "Q4_K_M")
FILES = {f"smollm2-135m-instruct.{q.lower()}": f"SmolLM2-135M-Instruct.{q}.gguf" for q in QUANTIZATIONS}
PROFILES = {
    "all": {"enabled_models": ["*"]},
    "small": {"enabled_models": [{"tier": "Q2"}]},
    "large": {"enabled_models": [{"tier": "Q3"}, {"tier": "Q4"}]},
    "wide": {"enabled_models": ["*"], "options": {"ctx_size": 1024}},
}
ENABLED = {
    name: {model for model in FILES if name in ("all", "wide") or ("q2" in model) == (name == "small")}
    for name in PROFILES
}
FOREIGN = """
cat >/etc/systemd/system/foreign.service <<'UNIT'
[Service]
ExecStart=/usr/bin/python3 -m http.server 8099 --bind 127.0.0.1
UNIT
systemctl daemon-reload; systemctl start foreign.service
"""
SEEN = "systemctl show --property=MainPID,ExecMainStartTimestamp foreign.service; sha256sum /etc/systemd/system/foreign.service"


class Finding(AssertionError):
    """An invariant did not hold; the message says which, where and in which round."""


@dataclass
class Round:
    """What a round did, and what may follow from it."""

    name: str
    runs: list[Run] = field(default_factory=list)
    killed: set[str] = field(default_factory=set)
    """Hosts on which the fault itself may have ended servers."""
    causes: set[str] = field(default_factory=set)
    """Causes that the fault explains."""
    reports: list[dict] = field(default_factory=list)


@dataclass
class Bed:
    fleet: Fleet
    dice: random.Random

    @property
    def hosts(self) -> list[str]:
        return list(self.fleet.hosts)

    def some_host(self) -> str:
        return self.dice.choice(self.hosts)

    def begin(self, profile: str, report: str = "report.json") -> Playing:
        path = self.fleet.folder / report
        path.unlink(missing_ok=True)
        return self.fleet.start("site", profile=profile, model_server_report_path=str(path))

    def end(self, happened: Round, playing: Playing, report: str = "report.json") -> Run:
        run = playing.finish()
        happened.runs.append(run)
        path = self.fleet.folder / report
        if path.exists():
            happened.reports.append(json.loads(path.read_text()))
        return run

    def pids(self) -> dict[tuple[str, str], int]:
        """The processes of our servers by host and instance."""
        found = {}
        for host in self.hosts:
            script = "for u in $(systemctl list-units --plain --no-legend 'magi-llama@*' | cut -d' ' -f1); do "
            script += 'echo "$u $(systemctl show --property=MainPID --value $u)"; done'
            for line in self.fleet.sh(host, script).splitlines():
                unit, pid = line.split()
                if pid != "0":
                    found[host, unit.removeprefix("magi-llama@").removesuffix(".service")] = int(pid)
        return found

    def profile_of(self, host: str) -> str:
        """The profile that a deployment last changed a host to."""
        return json.loads(self.fleet.sh(host, "cat /etc/magi/generation.json"))["profile"]

    def foreign(self) -> list[str]:
        return [self.fleet.sh(host, SEEN) for host in self.hosts]


# ---- faults: each deploys a profile, and does something to it ----------------------------------------


def killed(bed: Bed, profile: str) -> Round:
    """The controller is killed at some moment; the next run must end what it left running."""
    number = bed.dice.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    happened = Round(f"{number.name} to a deployment of {profile}")
    playing = bed.begin(profile)
    _wait(playing, bed.dice.uniform(0.5, 7))
    with _gone():
        playing.send(number)
    bed.end(happened, playing)
    return happened


def paused(bed: Bed, profile: str) -> Round:
    """The controller stands still for a while."""
    happened = Round(f"pause of a deployment of {profile}")
    playing = bed.begin(profile)
    _wait(playing, bed.dice.uniform(0.5, 6))
    with _gone():
        playing.send(signal.SIGSTOP)
        _wait(playing, bed.dice.uniform(1, 4))
        playing.send(signal.SIGCONT)
    bed.end(happened, playing)
    return happened


def reexecuted(bed: Bed, profile: str) -> Round:
    """systemd re-executes itself several times, as in the upgrade of a package."""
    host = bed.some_host()
    happened = Round(f"daemon-reexec on {host} during a deployment of {profile}")
    playing = bed.begin(profile)
    for _ in range(bed.dice.randint(2, 5)):
        _wait(playing, bed.dice.uniform(0.2, 1.5))
        bed.fleet.sh(host, "systemctl daemon-reexec", check=False)
    run = bed.end(happened, playing)
    if run.code:
        raise Finding(f"{happened.name} failed: {run.output[-2000:]}")
    return happened


def together(bed: Bed, profile: str) -> Round:
    """Two deployments at once: at least one is refused, or both want the same."""
    other = bed.dice.choice(sorted(PROFILES))
    happened = Round(f"deployments of {profile} and {other} at once")
    first = bed.begin(profile)
    _wait(first, bed.dice.uniform(0, 3))
    second = bed.begin(other, "second.json")
    bed.end(happened, first)
    bed.end(happened, second, "second.json")
    happened.causes |= {"host_failed", "changed_meanwhile"}
    if any(run.code == 0 for run in happened.runs):
        found = {host: bed.profile_of(host) for host in bed.hosts}
        if len({*found.values()}) > 1:
            raise Finding(f"{happened.name}: hosts of both: {found}")
    return happened


def swapped(bed: Bed, profile: str) -> Round:
    """A model file is cut short, gone or replaced for a moment; the server that has it open goes on."""
    host, name = bed.some_host(), bed.dice.choice(sorted(FILES))
    how = bed.dice.choice(["cut", "gone", "unmounted"])
    happened = Round(f"{FILES[name]} {how} on {host} during a deployment of {profile}")
    path = f"{MODELS}/{FILES[name]}"
    script = {
        "cut": f"cp -p {path} /srv/kept && rm {path} && head -c 40000000 /srv/kept >{path}",
        "gone": f"mv {path} /srv/kept",
        "unmounted": f"mv {MODELS} /srv/kept && mkdir {MODELS}",
    }[how]
    bed.fleet.sh(host, script)
    try:
        bed.end(happened, bed.begin(profile))
    finally:
        mended = (
            f"rm -f {path}; mv /srv/kept {path}" if how != "unmounted" else f"rmdir {MODELS}; mv /srv/kept {MODELS}"
        )
        bed.fleet.sh(host, mended)
    happened.causes |= {"file_missing", "file_corrupt", "load_failed", "host_failed"}
    return happened


def crashed(bed: Bed, profile: str) -> Round:
    """A server is killed while others are deployed."""
    host = bed.some_host()
    happened = Round(f"a server killed on {host} during a deployment of {profile}", killed={host})
    playing = bed.begin(profile)
    _wait(playing, bed.dice.uniform(0, 5))
    bed.fleet.sh(host, "pid=$(pgrep -o llama-server) && kill -9 $pid", check=False)
    bed.end(happened, playing)
    happened.causes |= {"crashed", "out_of_memory", "timeout"}
    return happened


def rebooted(bed: Bed, profile: str) -> Round:
    """A host restarts in the middle of a deployment."""
    host = bed.some_host()
    happened = Round(f"restart of {host} during a deployment of {profile}", killed={host})
    playing = bed.begin(profile)
    _wait(playing, bed.dice.uniform(0, 5))
    container = bed.fleet.hosts[host]["testbed_container"]
    subprocess.run(["docker", "restart", "--time", "5", container], check=True, capture_output=True, timeout=120)
    bed.end(happened, playing)
    up = (
        "systemctl is-system-running 2>/dev/null | grep -qE 'running|degraded' && systemctl is-active -q ssh && echo up"
    )
    until(lambda: bed.fleet.sh(host, up, check=False).strip() == "up", 60, f"{host} is up again")
    bed.fleet.sh(host, "systemctl start foreign.service")
    happened.causes |= {"host_unreachable", "host_failed", "timeout", "crashed", "out_of_memory"}
    return happened


FAULTS: dict[str, Callable[[Bed, str], Round]] = {
    fault.__name__: fault for fault in (killed, paused, reexecuted, together, swapped, crashed, rebooted)
}


def _wait(playing: Playing, seconds: float) -> None:
    """Wait for ``seconds``, a random time, or until the run has ended."""
    try:
        playing.process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return


class _gone:
    """In this block, the run may have ended already."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, *_rest: object) -> bool:
        return kind is ProcessLookupError


# ---- what must hold ----------------------------------------------------------------------------------


def planned(run: Run) -> Iterator[tuple[str, str, str, str]]:
    """Yield host, action, instance and reason from the plan that a run printed."""
    host = ""
    for line in run.output.splitlines():
        head = re.match(r"(\S+): \d+ models? discovered", line)
        act = re.match(r"  (start|restart|stop) (\S+): (.+)", line)
        if head:
            host = head[1]
        elif act and host:
            yield host, act[1], act[2], act[3]


def check_causes(happened: Round) -> None:
    for report in happened.reports:
        for item in report["summary"]["failed"]:
            if item["cause"] not in happened.causes:
                raise Finding(f"{happened.name}: a cause that nothing explains: {json.dumps(item)}")


def check_pids(happened: Round, profile: str, before: dict, after: dict) -> None:
    said = {(host, name) for run in happened.runs for host, _action, name, _reason in planned(run)}
    for key, pid in before.items():
        if after.get(key) != pid and key not in said and key[0] not in happened.killed:
            raise Finding(f"{happened.name}: {key[1]} on {key[0]} lost process {pid}, and no plan says why")
    for run in happened.runs:
        for host, action, name, reason in planned(run):
            if action == "stop" and name in ENABLED.get(reason.removeprefix("not enabled by profile "), ()):
                raise Finding(f"{happened.name}: the plan of {host} stops {name} ({reason}), which is enabled")


def check_clean(bed: Bed, happened: Round, profile: str) -> None:
    playing = bed.begin(profile)
    run = bed.end(happened, playing)
    report = happened.reports[-1] if happened.reports else {}
    ready = {(server["host"], server["instance"]) for server in report.get("servers", ()) if server["is_ready"]}
    wanted = {(host, name) for host in bed.hosts for name in ENABLED[profile]}
    if run.code or ready != wanted:
        raise Finding(f"after {happened.name}: a clean run of {profile} has {run.code}: {run.output[-3000:]}")
    again = bed.fleet.deploy(profile, "--check")
    if again.code or again.changed:
        raise Finding(f"after {happened.name}: the clean run of {profile} left something: {again.output[-3000:]}")


def play(bed: Bed, faults: Sequence[str], number: int, say: Callable[[str], None]) -> None:
    fault = FAULTS[bed.dice.choice(faults)]
    profile, clean = (bed.dice.choice(sorted(PROFILES)) for _ in range(2))
    before, foreign, begun = bed.pids(), bed.foreign(), time.monotonic()
    happened = fault(bed, profile)
    check_causes(happened)
    explained, happened.causes = happened.causes, set()
    check_clean(bed, happened, clean)
    happened.causes = explained
    check_pids(happened, clean, before, bed.pids())
    if fault is not rebooted and bed.foreign() != foreign:
        raise Finding(f"{happened.name}: what is not ours was touched: {foreign} → {bed.foreign()}")
    say(f"round {number}: {happened.name}, then {clean}: {time.monotonic() - begun:.0f} s")


def _hosts(count: int) -> dict[str, Any]:
    """Return the group of the test bed's hosts; bring up hosts if there are fewer than ``count``, and remove none."""
    there = subprocess.run([HOSTS, "inventory"], capture_output=True, text=True, check=False)
    if there.returncode or len(json.loads(Path(there.stdout.strip()).read_text())["model_servers"]["hosts"]) < count:
        subprocess.run([HOSTS, "up", "--install", str(count)], check=True)
        there = subprocess.run([HOSTS, "inventory"], capture_output=True, text=True, check=True)
    return json.loads(Path(there.stdout.strip()).read_text())["model_servers"]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    given = parser.parse_args()
    say = functools.partial(print, flush=True)
    say(f"seed {given.seed}, {given.minutes:g} minutes, {given.hosts} hosts")
    group = _hosts(given.hosts)
    folder = Path(tempfile.mkdtemp(prefix="magi-chaos-"))
    (folder / "profiles").mkdir()
    fleet = Fleet(
        folder,
        dict(list(group["hosts"].items())[: given.hosts]),
        {
            **group["vars"],
            "model_server_profiles_dir": str(folder / "profiles"),
            "model_server_report_path": str(folder / "report.json"),
            "model_server_registry_path": "/var/lib/magi/model_registry.json",
            "model_server_llama_server_path": f"/opt/llama.cpp/{build()}/bin/llama-server",
            "model_server_scan_paths": [MODELS],
            "model_server_readiness_check_interval": 1,
            "model_server_stop_timeout": 5,
        },
    )
    for name, content in PROFILES.items():
        (folder / "profiles" / f"{name}.yml").write_text(json.dumps({"name": name, **content}))
    bed = Bed(fleet, random.Random(given.seed))
    number = 0
    try:
        for host in bed.hosts:
            names = " ".join(f"/models/{file}" for file in FILES.values())
            fleet.sh(host, f"mkdir -p {MODELS}; cp -p {names} {MODELS}; {FOREIGN}")
        ends = time.monotonic() + given.minutes * 60
        while not number or time.monotonic() < ends:
            number += 1
            play(bed, given.faults, number, say)
    except (Finding, AssertionError) as finding:
        say(f"FINDING, seed {given.seed}, round {number}: {finding}")
        return 1
    finally:
        fleet.play("teardown")
        for host in bed.hosts:
            fleet.sh(
                host, f"systemctl stop foreign.service; rm -rf /etc/systemd/system/foreign.service {MODELS} /srv/kept"
            )
    say(f"no finding; rounds: {number}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
