"""What a fleet survives: each test leaves the hosts deployed or bare, and says what it needs by deploying it."""

from __future__ import annotations

import os
import re
import signal
import subprocess

import pytest

from .conftest import Fleet, finished, until

pytestmark = pytest.mark.fleet

Q2, Q3, Q41, Q4 = (f"smollm2-135m-instruct.{q}" for q in ("q2_k", "q3_k_m", "q4_1", "q4_k_m"))
CANARY = "canary-4b1d"


def bare(fleet: Fleet, *hosts: str) -> None:
    run = fleet.play("teardown", "--limit", ",".join(hosts))
    assert run.code == 0, run.output


def steps(run, *names: str) -> str:
    """What the tasks printed, without the order in which hosts answered: these tests look at one host."""
    return "\n".join(run.task(name) for name in names)


def test_check_mode_writes_nothing_and_foretells_the_real_diff(fleet: Fleet):
    """Row 26: on a bare host and on a deployed one, for deploying and for removing; and what was removed is gone."""
    bare(fleet, "host1")
    fleet.profile("one", Q2, Q3)
    fleet.profile("two", {"model": Q2, "options": {"ctx_size": 1024}}, Q4)
    limit = ("--limit", "host1", "--diff")
    empty = fleet.snapshot("host1")
    assert not [line for line in empty if "magi" in line]

    before = empty
    for profile in ("one", "two"):
        checked = fleet.deploy(profile, "--check", *limit)
        assert checked.code == 0, checked.output
        assert fleet.snapshot("host1") == before
        real = fleet.deploy(profile, *limit)
        assert real.code == 0, real.output
        tasks = ("[1/5]", "[3/5] Filtering enabled models: plan", "[4/5]")
        assert steps(checked, *tasks) == steps(real, *tasks)
        assert "+LLAMA_ARG_MODEL=" in real.output
        before = fleet.snapshot("host1")
        again = fleet.deploy(profile, *limit)
        assert (again.code, again.changed) == (0, 0), again.output
        after = fleet.snapshot("host1")
        assert set(after) ^ set(before) <= {line for line in before + after if line.startswith("/etc/magi/lock ")}
        before = after

    checked = fleet.play("teardown", "--check", *limit)
    assert checked.code == 0, checked.output
    assert fleet.snapshot("host1") == before
    real = fleet.play("teardown", *limit)
    name = "Stop and remove everything"
    assert real.task(name) == checked.task(name)
    assert fleet.snapshot("host1") == empty
    assert fleet.sh("host1", "systemctl list-units --all --no-legend 'magi-llama@*'") == ""
    again = fleet.play("teardown", *limit)
    assert (again.code, again.changed) == (0, 0), again.output


def test_a_switch_of_profiles_keeps_what_stays_and_a_changed_option_restarts_what_it_concerns(fleet: Fleet):
    fleet.profile("one", Q2, Q3)
    fleet.profile("two", Q3, Q4)
    assert fleet.deploy("one").code == 0
    first = fleet.pids()
    assert len(first) == 6
    run = fleet.deploy("two")
    assert run.code == 0, run.output
    second = fleet.pids()
    for host in fleet.hosts:
        assert second[host, Q3] == first[host, Q3]
        assert fleet.sh(host, "ls /etc/magi/instances").split() == [f"{Q3}.env", f"{Q4}.env"]
        assert Q2 not in "".join(fleet.snapshot(host))
        assert fleet.ask(host, 8080)[0] == Q4  # Q2's port, free again, went to Q4
        assert fleet.ask(host, 8081)[0] == Q3
    fleet.profile("two", Q3, {"model": Q4, "options": {"ctx_size": 1024}})
    run = fleet.deploy("two")
    assert run.text.count(f"restart {Q4}: ctx_size unset → 1024") == 3
    third = fleet.pids()
    for host in fleet.hosts:
        assert third[host, Q3] == second[host, Q3]
        assert third[host, Q4] != second[host, Q4]
    status = fleet.play("status")
    assert "Profile two: 6/6 ready" in status.text


def test_the_installed_unit_is_hardened(fleet: Fleet):
    """Row 27."""
    fleet.profile("one", Q2)
    assert fleet.deploy("one", "--limit", "host1").code == 0
    said = fleet.sh("host1", f"systemd-analyze security --no-pager magi-llama@{Q2}.service | tail -1")
    score = re.search(r"Overall exposure level for magi-llama@\S+: (\d+\.\d+)", said)
    assert score, said
    assert float(score[1]) <= 1.2


def test_an_instance_serves_again_after_a_reboot(fleet: Fleet):
    fleet.profile("one", Q2)
    assert fleet.deploy("one", "--limit", "host1").code == 0
    booted = "cat /proc/sys/kernel/random/boot_id; stat -c %Y /proc/1"
    before = fleet.sh("host1", booted)
    fleet.sh("host1", "systemctl reboot", check=False)
    until(lambda: fleet.sh("host1", booted, check=False) not in ("", before), 60, "host1 reboots")
    until(lambda: fleet.get("host1", 8080, "/health")[0] == 200, 60, f"{Q2} serves after the reboot")
    assert "Paris" in fleet.ask("host1", 8080)[1]
    again = fleet.deploy("one", "--limit", "host1")
    assert (again.code, again.changed) == (0, 0), again.output


def test_a_crash_loop_ends_and_is_explained_while_others_serve(fleet: Fleet):
    """Row 17."""
    bare(fleet, "host1")
    fleet.profile("one", Q2, {"model": Q3, "options": {"cache_type_k": "madeup"}})
    run = fleet.deploy("one", "--limit", "host1")
    assert run.code == 0, run.output
    (failed,) = fleet.report()["summary"]["failed"]
    assert (failed["instance"], failed["host"], failed["cause"]) == (Q3, "host1", "bad_option")
    assert "LLAMA_ARG_CACHE_TYPE_K" in failed["detail"]
    assert any("madeup" in line for line in failed["log"])
    assert "Paris" in fleet.ask("host1", 8080)[1]
    state = fleet.sh("host1", f"systemctl show --property=ActiveState,NRestarts magi-llama@{Q3}.service").split()
    assert "ActiveState=failed" in state
    assert int(next(s for s in state if s.startswith("NRestarts")).split("=")[1]) <= 4

    # The cause of another failure is not that of the last one.
    fleet.profile("one", Q2, {"model": Q3, "options": {"ctx_size": "many"}})
    run = fleet.deploy("one", "--limit", "host1", model_server_strict=True)
    assert run.code != 0
    (failed,) = fleet.report()["summary"]["failed"]
    assert "LLAMA_ARG_CTX_SIZE" in failed["detail"]
    assert not any("madeup" in line for line in failed["log"])

    fleet.profile("one", Q2, Q3)
    assert fleet.deploy("one", "--limit", "host1").code == 0
    assert fleet.report()["ready_servers"] == 2


def test_a_killed_controller_leaves_nothing_that_the_next_run_does_not_repair(fleet: Fleet):
    """Row 14."""
    bare(fleet, "host1")
    fleet.profile("one", Q2, Q3)
    process = fleet.start("site", "--limit", "host1", profile="one")
    until(lambda: any(".env" in line for line in fleet.snapshot("host1")), 60, "the rollout writes", pause=0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()

    # What still works on the host is ended, and can't overwrite what this run does.
    again = fleet.deploy("one", "--limit", "host1")
    assert again.code == 0, again.output
    assert fleet.report()["ready_servers"] == 2
    last = fleet.deploy("one", "--limit", "host1")
    assert (last.code, last.changed) == (0, 0), last.output


def test_of_two_deployments_at_once_one_proceeds_and_the_other_names_it(fleet: Fleet):
    """Row 13. Both take some seconds, as one of their servers can't start: so they meet."""
    bare(fleet, "host1")
    for name, model in (("one", Q2), ("two", Q4)):
        fleet.profile(name, model, {"model": Q3, "options": {"cache_type_k": "madeup"}})
    runs = {name: fleet.start("site", "--limit", "host1", profile=name) for name in ("one", "two")}
    ended = {name: finished(process) for name, process in runs.items()}
    (winner,) = [name for name, run in ended.items() if run.code == 0]
    (loser,) = [run for run in ended.values() if run.code != 0]
    assert re.search(r"Host host1: another deployment (is at work: \S+@\S+, process \d+|got in between)", loser.text)
    served = {"one": Q2, "two": Q4}[winner]
    assert fleet.get("host1", 8080, "/v1/models")[1]["data"][0]["id"] == served


def test_a_host_that_is_not_reached_is_named_and_the_others_are_deployed(fleet: Fleet):
    """Row 19."""
    fleet.profile("one", Q2)
    hosts = {**fleet.hosts, "host3": {**fleet.hosts["host3"], "ansible_port": 1}}
    run = fleet.play("site", profile="one", hosts=hosts)
    assert run.code != 0
    assert "host_unreachable: Host host3: it can't be reached" in run.text
    assert {host for host, _instance in fleet.pids()} == {"host1", "host2"}
    (failed,) = fleet.report()["summary"]["failed"]
    assert (failed["host"], failed["cause"]) == ("host3", "host_unreachable")


def test_a_host_that_vanishes_during_the_rollout_is_named_and_the_others_are_deployed(fleet: Fleet):
    """Row 19. A stopped container answers nothing and closes nothing, like a machine without power."""
    bare(fleet, *fleet.hosts)
    fleet.profile("one", Q2)
    process = fleet.start("site", profile="one")
    until(lambda: "/var/lib/magi " in "".join(fleet.snapshot("host3")), 60, "host3 is worked on", pause=0.02)
    container = fleet.hosts["host3"]["testbed_container"]
    subprocess.run(["docker", "pause", container], check=True, stdout=subprocess.DEVNULL)
    try:
        run = finished(process)
    finally:
        subprocess.run(["docker", "unpause", container], check=True, stdout=subprocess.DEVNULL)
    assert run.code != 0
    assert "host_unreachable: Host host3: it can't be reached" in run.text
    assert {host for host, _instance in fleet.pids()} == {"host1", "host2"}
    # Once it is back, the next run completes it, and leaves the others alone.
    before = fleet.pids()
    until(lambda: (run := fleet.deploy("one")).code == 0 or "another deployment" not in run.text, 60, "a run ends")
    assert len(fleet.pids()) == 3
    assert before.items() <= fleet.pids().items()


def test_keys_protect_a_server_and_are_seen_nowhere(fleet: Fleet):
    """Rows 23 and 24."""
    bare(fleet, "host1")
    limit = ("--limit", "host1", "--diff", "-vvv")
    fleet.profile("one", {"model": Q2, "options": {"api_key_file": "/etc/magi-keys"}})
    before = fleet.snapshot("host1")
    for content, said in (
        (None, "can't be read (No such file or directory)"),
        ("", "holds no key"),
        ("# none\n", "holds no key"),
        (f"{CANARY}\r\n", "line 1 ends in a carriage return"),
    ):
        if content is not None:
            fleet.sh("host1", "umask 077; cat >/etc/magi-keys", stdin=content)
        run = fleet.deploy("one", *limit)
        assert run.code != 0
        assert f"Host host1: instance {Q2}: its API key file /etc/magi-keys" in run.text
        assert said in run.text
        assert [line for line in fleet.snapshot("host1") if "/var/lib/magi" not in line] == before
    fleet.sh("host1", "cat >/etc/magi-keys", stdin=f"# ours\n{CANARY}\n")
    run = fleet.deploy("one", *limit)
    assert run.code == 0, run.output
    assert fleet.report()["ready_servers"] == 1
    assert fleet.get("host1", 8080, "/v1/models")[0] == 401
    assert fleet.get("host1", 8080, "/v1/models", key="wrong")[0] == 401
    assert "Paris" in fleet.ask("host1", 8080, CANARY)[1]
    again = fleet.deploy("one", *limit)
    assert (again.code, again.changed) == (0, 0), again.output
    assert CANARY not in run.output + again.output + (fleet.folder / "report.json").read_text()
    pid = fleet.pids()["host1", Q2]
    seen = fleet.sh(
        "host1",
        f"tr '\\0' '\\n' </proc/{pid}/environ; cat /proc/{pid}/cmdline; journalctl --no-pager;"
        "cat /etc/magi/*.json /etc/magi/instances/* /var/lib/magi/* /etc/systemd/system/magi*/*",
    )
    assert "LLAMA_ARG_API_KEY_FILE" in seen
    assert CANARY not in seen
    assert fleet.sh("host1", "stat -c %a /etc/magi/instances/*").split() == ["600"]
    fleet.sh("host1", "rm /etc/magi-keys")


def test_teardown_removes_ours_alone(fleet: Fleet):
    """Row 25."""
    fleet.profile("one", Q2)
    assert fleet.deploy("one", "--limit", "host2").code == 0
    unit = "[Service]\nExecStart=/usr/bin/python3 -m http.server --directory /srv 8095\nDynamicUser=yes\n"
    fleet.sh("host2", "cat >/etc/systemd/system/llama-other.service", stdin=unit)
    foreign = f"/etc/systemd/system/magi-llama@{Q2}.service.d/override.conf"
    fleet.sh("host2", f"mkdir -p {os.path.dirname(foreign)}; cat >{foreign}", stdin="[Service]\nNice=5\n")
    fleet.sh("host2", "mkdir -p /etc/magi /var/lib/magi; echo x | tee /etc/magi/theirs >/var/lib/magi/theirs")
    fleet.sh("host2", "systemctl daemon-reload; systemctl start llama-other.service")
    pid = fleet.sh("host2", "systemctl show --property=MainPID --value llama-other.service")
    try:
        run = fleet.play("teardown", "--limit", "host2")
        assert run.code == 0, run.output
        assert fleet.sh("host2", "systemctl show --property=MainPID --value llama-other.service") == pid
        files = [line.split()[0] for line in fleet.snapshot("host2") if "magi" in line or "llama" in line]
        assert files == [
            "/etc/magi",
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
            f" /var/lib/magi/theirs {os.path.dirname(foreign)}; rmdir /etc/magi /var/lib/magi; systemctl daemon-reload",
            check=False,
        )
