"""Two deployments at once: one goes on, the other refuses for all its hosts, and no host ends with another profile."""

from __future__ import annotations

import json
import re
import signal
from typing import Any

import pytest

from ..playbook import Playing, Run
from ..waiting import until
from .conftest import LIMIT, Q2, Q3, Q4, Fleet, bare

pytestmark = pytest.mark.fleet

REFUSED = (
    r"Host {host}: another deployment is at work: \w+@\S+, process {pid}, with profile {profile} since \S+Z; this one "
    r"changes nothing: wait for the other, then run again \(if it was killed, its claim ends at \S+Z\)\."
)


@pytest.fixture
def profiles(fleet: Fleet) -> dict[str, set[str]]:
    """The instances of each profile."""
    fleet.profile("one", Q2, Q3)
    fleet.profile("two", Q3, Q4)
    return {"one": {Q2, Q3}, "two": {Q3, Q4}}


def begin(fleet: Fleet, profile: str, *arguments: str, **extra: object) -> Playing:
    report = str(fleet.folder / f"report-{profile}.json")
    return fleet.start("site", *arguments, profile=profile, model_server_report_path=report, **extra)


def deployed(fleet: Fleet, host: str) -> set[str]:
    """The instances of a host, which all run."""
    names = fleet.sh(host, "ls /etc/magi/instances").split()
    instances = {name.removesuffix(".env") for name in names}
    assert {fleet.state(host, name) for name in instances} == {"active"}
    return instances


def generation(fleet: Fleet, host: str) -> dict[str, Any]:
    return json.loads(fleet.sh(host, "cat /etc/magi/generation.json 2>/dev/null || echo {}"))


def assert_refused(fleet: Fleet, run: Run, other: Playing, profile: str) -> None:
    """``run`` was refused on all hosts, since ``other`` deploys ``profile``, and has changed nothing."""
    assert run.code == 2, run.output
    assert run.changed == 0 or "There is no registry at" in run.text  # on a bare host, it has made the registry
    for host in fleet.hosts:
        assert re.search(REFUSED.format(host=host, pid=other.process.pid, profile=profile), run.text), run.output


def test_of_two_that_begin_together_one_deploys_all_hosts_and_the_other_none(fleet: Fleet, profiles):
    """On bare hosts, and where one of both is deployed; tests/chaos repeats it at random."""
    bare(fleet, *fleet.hosts)
    for _start in ("bare", "deployed"):
        before = {host: generation(fleet, host) for host in fleet.hosts}
        playing = {name: begin(fleet, name) for name in profiles}
        runs = {name: each.finish() for name, each in playing.items()}
        (winner,) = (name for name, run in runs.items() if run.code == 0)
        (loser,) = profiles.keys() - {winner}
        assert_refused(fleet, runs[loser], playing[winner], winner)
        for host in fleet.hosts:
            assert deployed(fleet, host) == profiles[winner]
            same = before[host].get("profile") == winner
            assert generation(fleet, host).get("number") == before[host].get("number", 0) + (not same)
            assert generation(fleet, host)["profile"] == winner
    # whoever was refused waits, and runs again
    again = begin(fleet, loser).finish()
    assert again.code == 0, again.output
    for host in fleet.hosts:
        assert deployed(fleet, host) == profiles[loser]


def test_one_that_goes_from_batch_to_batch_has_all_its_hosts_until_its_end(fleet: Fleet, profiles):
    """Also those that it has done, and those that it has not begun with."""
    assert begin(fleet, "one").finish().code == 0
    first = begin(fleet, "two", model_server_serial=1)
    until(lambda: Q4 in fleet.sh("host1", "ls /etc/magi/instances"), 60, "the first batch is begun", pause=0.02)
    second = begin(fleet, "one").finish()
    assert_refused(fleet, second, first, "two")
    run = first.finish()
    assert run.code == 0, run.output
    for host in fleet.hosts:
        assert deployed(fleet, host) == profiles["two"]


def test_one_that_was_overtaken_while_it_waited_says_by_whom(fleet: Fleet, profiles):
    bare(fleet, "host1")
    path = fleet.drop_in("host1", Q2, "CPUQuota=2%")  # so that the first one waits
    try:
        first = begin(fleet, "one", *LIMIT)
        until(lambda: "[5/5] Health check]" in first.output, 60, "the first one waits")
        second = begin(fleet, "two", *LIMIT).finish()
        assert second.code == 0, second.output
        run = first.finish()
    finally:
        fleet.sh("host1", f"rm -r {path.rpartition('/')[0]}; systemctl daemon-reload")
    (failed,) = json.loads((fleet.folder / "report-one.json").read_text())["summary"]["failed"]
    assert (failed["instance"], failed["cause"]) == (Q2, "changed_meanwhile"), run.output
    said = r"another deployment changed the host while this one waited: \w+@\S+, process {pid} applied profile two at \S+Z; "
    assert re.search(said.format(pid=r"\d+") + "run again", failed["detail"])
    assert deployed(fleet, "host1") == profiles["two"]


def test_those_without_a_host_in_common_both_go_on(fleet: Fleet, profiles):
    hosts = {"one": "host1", "two": "host2"}
    playing = {name: begin(fleet, name, "--limit", host) for name, host in hosts.items()}
    for run in [each.finish() for each in playing.values()]:
        assert run.code == 0, run.output
    for name, host in hosts.items():
        assert deployed(fleet, host) == profiles[name]


CLAIMS = "cat /run/magi/*.claims 2>/dev/null"
MOVED = r"sed -i -E 's/\"controller\": \"[0-9a-f]+\"/\"controller\": \"elsewhere\"/g' /run/magi/*.claims"
PASSED = r"sed -i -E 's/\"at\": [0-9.]+/\"at\": 1/g' /run/magi/*.claims"


def killed(fleet: Fleet, profile: str) -> Playing:
    """A deployment whose controller is killed once it has claimed each host."""
    playing = begin(fleet, profile)
    claimed = f'process {playing.process.pid}", "'
    for host in fleet.hosts:
        until(lambda host=host: claimed in fleet.sh(host, CLAIMS, check=False), 60, f"{host} is claimed", pause=0.02)
    playing.send(signal.SIGKILL)
    playing.process.wait()
    return playing


def test_one_that_was_killed_here_is_in_nobodys_way(fleet: Fleet, profiles):
    bare(fleet, *fleet.hosts)
    killed(fleet, "one")
    run = begin(fleet, "two").finish()
    assert run.code == 0, run.output
    for host in fleet.hosts:
        assert deployed(fleet, host) == profiles["two"]


def test_one_that_was_killed_elsewhere_is_in_the_way_until_its_claim_ends(fleet: Fleet, profiles):
    """Nobody here can know that it was killed."""
    bare(fleet, *fleet.hosts)
    gone = killed(fleet, "one")
    for host in fleet.hosts:
        fleet.sh(host, MOVED)

    def there() -> dict[str, list[str]]:  # what a look keeps for the next look is no change
        return {host: [line for line in fleet.snapshot(host) if ".needs.json" not in line] for host in fleet.hosts}

    before = there()
    assert_refused(fleet, begin(fleet, "two").finish(), gone, "one")
    assert there() == before
    for host in fleet.hosts:
        fleet.sh(host, PASSED)
    run = begin(fleet, "two").finish()
    assert run.code == 0, run.output


def test_a_host_that_lost_the_claim_is_not_changed(fleet: Fleet, profiles):
    """By a restart, say: the claim is in /run."""
    assert begin(fleet, "one").finish().code == 0
    playing = begin(fleet, "two", model_server_serial=1)
    until(lambda: Q4 in fleet.sh("host1", "ls /etc/magi/instances"), 60, "the first batch is begun", pause=0.02)
    fleet.sh("host2", "rm /run/magi/*.claims")
    run = playing.finish()
    assert run.code == 2
    assert "Host host2: this deployment has lost its claim to the host" in run.text
    assert [deployed(fleet, host) for host in ("host1", "host2")] == [profiles["two"], profiles["one"]]
    run = begin(fleet, "two").finish()
    assert run.code == 0, run.output


def test_one_that_had_no_plan_and_one_that_was_refused_are_in_nobodys_way(fleet: Fleet, profiles):
    """Though nobody here knows that they have ended."""
    fleet.profile("none", "no-such-model")
    assert begin(fleet, "one").finish().code == 0
    assert begin(fleet, "none").finish().code == 2
    first = begin(fleet, "two", model_server_serial=1)
    until(lambda: Q4 in fleet.sh("host1", "ls /etc/magi/instances"), 60, "the first batch is begun", pause=0.02)
    assert_refused(fleet, begin(fleet, "one").finish(), first, "two")
    assert first.finish().code == 0
    for host in fleet.hosts:
        fleet.sh(host, MOVED)
    run = begin(fleet, "one").finish()
    assert run.code == 0, run.output
