"""What a fleet survives: each test deploys what it needs, and leaves the hosts deployed or bare."""

from __future__ import annotations

import os
import subprocess

import pytest

from ..waiting import until
from .conftest import LIMIT, Q2, Q3, Q4, Fleet, bare

pytestmark = pytest.mark.fleet


def test_a_switch_of_profiles_keeps_what_stays_and_a_changed_option_restarts_what_it_concerns(fleet: Fleet):
    bare(fleet, "host1")
    fleet.profile("one", Q2, Q3)
    fleet.profile("two", Q3, Q4)
    assert fleet.deploy("one", *LIMIT).code == 0
    first = fleet.pids()
    run = fleet.deploy("two", *LIMIT)
    assert run.code == 0, run.output
    second = fleet.pids()
    assert second["host1", Q3] == first["host1", Q3]
    assert fleet.sh("host1", "ls /etc/magi/instances").split() == [f"{Q3}.env", f"{Q4}.env"]
    assert Q2 not in "".join(fleet.snapshot("host1"))
    assert fleet.ask("host1", 8080)[0] == Q4  # Q2's port, free again, went to Q4
    assert fleet.ask("host1", 8081)[0] == Q3
    fleet.profile("two", Q3, {"model": Q4, "options": {"ctx_size": 1024}})
    run = fleet.deploy("two", *LIMIT)
    assert f"restart {Q4}: ctx_size unset → 1024" in run.text
    third = fleet.pids()
    assert third["host1", Q3] == second["host1", Q3]
    assert third["host1", Q4] != second["host1", Q4]
    status = fleet.play("status", *LIMIT)
    assert "Profile two: 2/2 ready" in status.text


RELEASE = """
set -e; cd $(mktemp -d); mkdir llama-TAG; cp PROGRAM llama-TAG/llama-server
printf TAG >>llama-TAG/llama-server; tar -cf /root/TAG.tar llama-TAG; rm -r $PWD; sha256sum /root/TAG.tar
"""


def test_an_upgrade_restarts_exactly_what_runs_the_old_build(fleet: Fleet):
    """One of two hosts gets another build, by playbooks/prepare.yml, whose check mode predicts it."""
    bare(fleet, "host1", "host2")
    fleet.profile("one", Q2, Q3)
    program = fleet.group_vars["model_server_llama_server_path"]
    path = "/usr/local/bin/llama-server"
    hosts = {"host1": {**fleet.hosts["host1"], "model_server_llama_server_path": path}, "host2": fleet.hosts["host2"]}

    def prepare(tag: str) -> None:
        digest = fleet.sh("host1", RELEASE.replace("TAG", tag).replace("PROGRAM", program)).split()[0]
        release = {
            "llama_server_install_method": "release",
            "llama_server_release_tag": tag,
            "llama_server_release_url": f"file:///root/{tag}.tar",
            "llama_server_release_sha256": digest,
        }
        there = "find /opt/magi /usr/local/bin -printf '%p %T@ %l\n' 2>/dev/null"
        before = fleet.sh("host1", there, check=False)
        checked = fleet.play("prepare", *LIMIT, "--check", "--diff", hosts=hosts, **release)
        assert checked.code == 0, checked.output
        assert fleet.sh("host1", there, check=False) == before
        real = fleet.play("prepare", *LIMIT, "--diff", hosts=hosts, **release)
        assert (real.code, real.changed) == (0, 1), real.output
        name = "Install the release of llama.cpp"
        assert real.task(name) == checked.task(name)

    try:
        prepare("b1")
        run = fleet.play("site", profile="one", hosts=hosts)
        assert run.code == 0, run.output
        before = fleet.pids()
        prepare("b2")
        run = fleet.play("site", profile="one", hosts=hosts)
        assert run.code == 0, run.output
        after = fleet.pids()
        assert before.keys() == after.keys() == {(host, name) for host in ("host1", "host2") for name in (Q2, Q3)}
        for name in (Q2, Q3):
            assert after["host2", name] == before["host2", name]
            assert after["host1", name] != before["host1", name]
            assert "/b2-" in fleet.sh("host1", f"readlink /proc/{after['host1', name]}/exe")
            assert f"restart {name}: its model file, arguments or llama-server changed" in run.text
    finally:
        bare(fleet, "host1", "host2")
        fleet.sh("host1", f"rm -rf /opt/magi {path} /root/b?.tar")


def test_a_host_that_is_not_reached_is_named_and_the_others_are_deployed(fleet: Fleet):
    """It can't be reached from the start, and the exit status says so."""
    fleet.profile("one", Q2)
    hosts = {**fleet.hosts, "host3": {**fleet.hosts["host3"], "ansible_port": 1}}
    run = fleet.play("site", profile="one", hosts=hosts)
    assert run.code != 0
    assert "host_unreachable: Host host3: it can't be reached" in run.text
    assert {host for host, _instance in fleet.pids()} == {"host1", "host2"}
    (failed,) = fleet.report()["summary"]["failed"]
    assert (failed["host"], failed["cause"]) == ("host3", "host_unreachable")


# When host3 is lost: while its models are read, and while its servers are launched.
MOMENTS = {"plan": "ls -d /var/lib/magi", "launch": "ls /etc/magi/instances | grep env"}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_host_that_vanishes_during_the_rollout_is_named_and_the_others_are_deployed(fleet: Fleet, moment: str):
    """A stopped container answers nothing and closes nothing, like a machine without power."""
    bare(fleet, *fleet.hosts)
    # A host that does not answer is given up after 6 seconds, instead of the 30 of ansible.cfg.
    fleet.variables["ansible_ssh_args"] = "-o ControlMaster=no -o ServerAliveInterval=2 -o ServerAliveCountMax=3"
    fleet.profile("one", Q2)
    running = fleet.start("site", profile="one")
    until(lambda: fleet.sh("host3", MOMENTS[moment], check=False), 60, f"host3 is at its {moment}", pause=0.02)
    container = fleet.hosts["host3"]["testbed_container"]
    subprocess.run(["docker", "pause", container], check=True, stdout=subprocess.DEVNULL)
    try:
        run = running.finish()
    finally:
        subprocess.run(["docker", "unpause", container], check=True, stdout=subprocess.DEVNULL)
        fleet.variables.clear()
    assert run.code != 0
    assert "host_unreachable: Host host3: it can't be reached" in run.text
    assert {host for host, _instance in fleet.pids()} == {"host1", "host2"}
    # Once it is back, the next run completes it and leaves the others alone.
    before = fleet.pids()
    until(lambda: (run := fleet.deploy("one")).code == 0 or "another deployment" not in run.text, 60, "a run ends")
    assert len(fleet.pids()) == 3
    assert before.items() <= fleet.pids().items()


def test_teardown_removes_ours_alone(fleet: Fleet):
    """A unit, its process and files that are not ours stay."""
    fleet.profile("one", Q2)
    assert fleet.deploy("one", "--limit", "host2").code == 0
    unit = "[Service]\nExecStart=/usr/bin/python3 -m http.server --directory /srv 8095\nDynamicUser=yes\n"
    fleet.sh("host2", "cat >/etc/systemd/system/llama-other.service", stdin=unit)
    foreign = f"/etc/systemd/system/magi-llama@{Q2}.service.d/override.conf"
    fleet.sh("host2", f"mkdir -p {os.path.dirname(foreign)}; cat >{foreign}", stdin="[Service]\nNice=5\n")
    fleet.sh("host2", "echo x | tee /etc/magi/theirs /etc/magi/instances/theirs >/var/lib/magi/theirs")
    fleet.sh("host2", "systemctl daemon-reload; systemctl start llama-other.service")
    pid = fleet.sh("host2", "systemctl show --property=MainPID --value llama-other.service")
    try:
        run = fleet.play("teardown", "--limit", "host2")
        assert run.code == 0, run.output
        assert fleet.sh("host2", "systemctl show --property=MainPID --value llama-other.service") == pid
        files = [line.split()[0] for line in fleet.snapshot("host2") if "magi" in line or "llama" in line]
        assert files == [
            "/etc/magi",
            "/etc/magi/instances",
            "/etc/magi/instances/theirs",
            "/etc/magi/theirs",
            "/etc/systemd/system/llama-other.service",
            os.path.dirname(foreign),
            foreign,
            "/var/lib/magi",
            "/var/lib/magi/theirs",
        ]
        assert fleet.get("host2", 8080, "/health")[0] == 0
        again = fleet.play("teardown", "--limit", "host2")
        assert (again.code, again.changed) == (0, 0), again.output
    finally:
        fleet.sh(
            "host2",
            "systemctl stop llama-other.service; rm -r /etc/systemd/system/llama-other.service /etc/magi/theirs"
            f" /etc/magi/instances /var/lib/magi/theirs {os.path.dirname(foreign)}; rmdir /etc/magi /var/lib/magi; systemctl daemon-reload",
            check=False,
        )
