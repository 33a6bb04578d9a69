"""What a host survives: faults of servers, clients and runs. Each test says what it needs by deploying it."""

from __future__ import annotations

import json
import re
import signal
import threading

import pytest

from ..waiting import until
from .conftest import LIMIT, Q2, Q3, Q4, Client, Fleet, bare

pytestmark = pytest.mark.fleet

SOON = "RestartSec=200ms"  # how long a unit really waits is in the first crash loop


def test_a_slow_start_is_waited_for_to_the_deadline_and_no_longer(fleet: Fleet):
    """With a fiftieth of a core it loads for longer than anybody waits, and answers 503 all the while."""
    bare(fleet, "host1")
    fleet.profile("one", Q2, Q3)
    path = fleet.drop_in("host1", Q2, "CPUQuota=2%")
    try:
        run = fleet.deploy("one", *LIMIT, model_server_max_startup_time=10)
        assert run.code == 0, run.output
        (failed,) = fleet.report()["summary"]["failed"]
        assert (failed["instance"], failed["host"], failed["cause"]) == (Q2, "host1", "timeout")
        assert re.search(r"it still answers 503 \(loading\) 1\d s after its start", failed["detail"])
        assert "raise model_server_max_startup_time" in failed["detail"]
        assert [key[1] for key in fleet.pids()] == [Q3]

        fleet.sh("host1", f"systemctl restart magi-llama@{Q2}")  # else it might be ready by now
        waiting = fleet.start("site", *LIMIT, profile="one", model_server_max_startup_time=120)
        until(lambda: "[5/5] Health check]" in waiting.output, 60, "the health check begins")
        status = until(lambda: fleet.get("host1", 8080, "/health")[0], 60, f"{Q2} answers")
        assert status == 503
        pid = fleet.sh("host1", f"systemctl show --property=MainPID --value magi-llama@{Q2}")
        fleet.sh("host1", f"systemctl set-property --runtime magi-llama@{Q2}.service CPUQuota=")
        run = waiting.finish()
        # The unit contains the time that a start may take: it is written again, and nothing restarts.
        assert (run.code, run.changed) == (0, 1), run.output
        assert [key[1] for key in fleet.pids()] == [Q2, Q3]
        assert fleet.pids()["host1", Q2] == int(pid)
    finally:
        fleet.sh("host1", f"rm -r {path.rpartition('/')[0]}; systemctl revert magi-llama@{Q2}; systemctl daemon-reload")


def test_a_hung_server_is_not_ready_by_the_deadline(fleet: Fleet):
    """Stopped by SIGSTOP once it was ready."""
    fleet.profile("one", Q2, Q3)
    assert fleet.deploy("one", *LIMIT).code == 0
    fleet.sh("host1", f"systemctl kill --signal=SIGSTOP magi-llama@{Q2}")
    try:
        run = fleet.deploy("one", *LIMIT, model_server_max_startup_time=3)
        assert run.code == 0, run.output
        (failed,) = fleet.report()["summary"]["failed"]
        assert (failed["instance"], failed["host"], failed["cause"]) == (Q2, "host1", "timeout")
        assert re.search(r"it does not answer \d+ s after its start", failed["detail"])
        assert [key[1] for key in fleet.pids()] == [Q3]
    finally:
        fleet.sh("host1", f"systemctl kill --signal=SIGCONT magi-llama@{Q2}")


def test_each_crash_loop_ends_with_a_cause_of_its_own(fleet: Fleet):
    """It fails for good, is left alone while nothing changes, and is tried again once something does."""
    bare(fleet, "host1")

    def deploy(code: int, **options: object) -> dict:
        fleet.profile("one", Q2, {"model": Q3, "options": options})
        run = fleet.deploy("one", *LIMIT, model_server_strict=True)
        assert (run.code != 0) == bool(code), run.output
        assert "Paris" in fleet.ask("host1", 8080)[1]
        return {item["instance"]: item for item in fleet.report()["summary"]["failed"]}

    def restarts() -> int:
        shown = fleet.sh("host1", f"systemctl show --property=ActiveState,NRestarts magi-llama@{Q3}")
        state = dict(line.split("=") for line in shown.splitlines())
        assert state["ActiveState"] == "failed"
        return int(state["NRestarts"])

    first = deploy(1, cache_type_v="q4_0", flash_attn=False)
    assert first.keys() == {Q3}
    assert first[Q3]["cause"] == "bad_option" and "quantized V cache" in first[Q3]["detail"]
    assert any("quantized V cache" in line for line in first[Q3]["log"])
    looped = restarts()
    assert looped <= 4
    (again,) = deploy(1, cache_type_v="q4_0", flash_attn=False).values()
    assert again["cause"] == "bad_option" and "model_server_retry_quarantined" in again["detail"]
    assert restarts() == looped

    path = fleet.drop_in("host1", Q3, SOON)
    try:
        other = deploy(1, mmproj="/other")
        assert "/other" in other[Q3]["detail"]
        assert not any("quantized V cache" in line for line in other[Q3]["log"])
    finally:
        fleet.sh("host1", f"rm -r {path.rpartition('/')[0]}; systemctl daemon-reload")
    assert deploy(0) == {}
    assert fleet.report()["ready_servers"] == 2


# A whole model in which no check finds a fault, with an architecture that the build knows but other keys.
UNKNOWN = """
import pathlib
data = pathlib.Path("/models/SmolLM2-135M-Instruct.Q3_K_M.gguf").read_bytes()
key = b"general.architecture" + (8).to_bytes(4, "little") + (5).to_bytes(8, "little")
assert data.count(key + b"llama") == 1
pathlib.Path("/srv/odd").mkdir()
pathlib.Path("/srv/odd/odd.Q3_K_M.gguf").write_bytes(data.replace(key + b"llama", key + b"gemma"))
"""


def test_a_model_that_no_server_loads_ends_its_loop_and_the_others_serve(fleet: Fleet):
    """systemd's start limit ends it."""
    bare(fleet, "host1")
    fleet.sh("host1", "python3 -", stdin=UNKNOWN)
    fleet.profile("one", Q2, "odd.q3_k_m")
    path = fleet.drop_in("host1", "odd.q3_k_m", SOON)
    try:
        run = fleet.deploy("one", *LIMIT, model_server_scan_paths=["/models", "/srv/odd"])
        assert run.code == 0, run.output
        (failed,) = fleet.report()["summary"]["failed"]
        assert (failed["instance"], failed["cause"]) == ("odd.q3_k_m", "load_failed")
        assert (
            "the model does not load (error loading model hyperparameters: key not found in model: gemma."
            in failed["detail"]
        )
        shown = fleet.sh("host1", "systemctl show --property=ActiveState,NRestarts magi-llama@odd.q3_k_m")
        state = dict(line.split("=") for line in shown.splitlines())
        assert state["ActiveState"] == "failed" and int(state["NRestarts"]) <= 4
        assert "Paris" in fleet.ask("host1", 8080)[1]
    finally:
        bare(fleet, "host1")
        fleet.sh("host1", f"rm -r /srv/odd {path.rpartition('/')[0]}; systemctl daemon-reload")


def test_a_unit_that_systemd_refuses_is_named_and_the_others_serve(fleet: Fleet):
    bare(fleet, "host1")
    fleet.profile("one", Q2, Q3, Q4)
    path = fleet.drop_in("host1", Q3, "ExecStart=/bin/true")  # a second one: a bad unit
    fleet.sh("host1", f"systemctl mask magi-llama@{Q2}")
    try:
        run = fleet.deploy("one", *LIMIT)
        assert run.code == 0, run.output
        failed = {item["instance"]: item for item in fleet.report()["summary"]["failed"]}
        assert {name: item["cause"] for name, item in failed.items()} == {Q2: "start_refused", Q3: "start_refused"}
        assert "is masked" in failed[Q2]["detail"]
        assert [key[1] for key in fleet.pids()] == [Q4]
    finally:
        fleet.sh("host1", f"systemctl unmask magi-llama@{Q2}; rm -r {path.rpartition('/')[0]}; systemctl daemon-reload")
    run = fleet.deploy("one", *LIMIT)
    assert run.code == 0, run.output
    assert len(fleet.pids()) == 3


def test_a_teardown_is_whole_where_somebody_removed_the_template(fleet: Fleet):
    fleet.profile("one", Q2, Q3)
    assert fleet.deploy("one", *LIMIT).code == 0
    fleet.sh(
        "host1",
        f"systemctl stop magi-llama@{Q2}; rm /etc/systemd/system/magi-llama@.service; systemctl daemon-reload",
    )
    bare(fleet, "host1")
    assert not [line for line in fleet.snapshot("host1") if "magi" in line]
    assert fleet.sh("host1", "systemctl list-units --all --no-legend 'magi-llama@*'") == ""


def test_another_server_that_answers_the_probe_is_found_out(fleet: Fleet):
    """It takes the port while the run waits for a client of the server that it will stop."""
    bare(fleet, "host1")
    fleet.profile("one", Q3)
    fleet.profile("two", {"model": Q2, "port": 8085})
    assert fleet.deploy("one", *LIMIT).code == 0
    client = Client(fleet, "host1", 8080)
    until(lambda: client.chunks, 30, "the stream begins")
    try:
        running = fleet.start("site", *LIMIT, profile="two", model_server_stop_timeout=120)
        until(lambda: Q2 in fleet.sh("host1", "ls /etc/magi/instances"), 60, "the new instance is written")
        program = fleet.group_vars["model_server_llama_server_path"]
        impostor = f"{program} --model /models/SmolLM2-135M-Instruct.Q4_K_M.gguf --alias impostor --port 8085"
        fleet.sh("host1", f"systemd-run --unit=impostor {impostor} --host 0.0.0.0")
        until(lambda: fleet.get("host1", 8085, "/health")[0] == 200, 60, "the impostor answers")
        client.leave()
        run = running.finish()
        assert run.code != 0
        assert fleet.get("host1", 8085, "/health")[0] == 200
        (failed,) = fleet.report()["summary"]["failed"]
        assert (failed["instance"], failed["host"], failed["cause"]) == (Q2, "host1", "port_taken")
        assert "another process holds its port" in failed["detail"]
        assert "8085" in failed["detail"]
        assert "No server is ready (0 of 1)" in run.text
    finally:
        client.leave()
        fleet.sh("host1", "systemctl stop impostor")


def test_a_server_that_answers_as_another_model_is_not_ready(fleet: Fleet):
    """It is our own unit, and healthy, but it does not serve what was deployed."""
    fleet.profile("one", Q2, Q3)
    assert fleet.deploy("one", *LIMIT).code == 0
    (port,) = [server["port"] for server in fleet.report()["servers"] if server["instance"] == Q2]
    path = fleet.drop_in("host1", Q2, "EnvironmentFile=/etc/other.env")
    other = "LLAMA_ARG_MODEL=/models/SmolLM2-135M-Instruct.Q4_K_M.gguf\nLLAMA_ARG_ALIAS=impostor\n"
    fleet.sh("host1", "cat >/etc/other.env", stdin=other)
    try:
        fleet.sh("host1", f"systemctl restart magi-llama@{Q2}")
        until(lambda: fleet.get("host1", port, "/health")[0] == 200, 60, "the impostor answers")
        run = fleet.deploy("one", *LIMIT, model_server_strict=True)
        assert run.code != 0
        (failed,) = fleet.report()["summary"]["failed"]
        assert (failed["instance"], failed["host"], failed["cause"]) == (Q2, "host1", "wrong_server")
        assert f"the server on its port answers as impostor instead of {Q2}" in failed["detail"]
    finally:
        fleet.sh("host1", f"rm -r /etc/other.env {path.rpartition('/')[0]}; systemctl daemon-reload")
        bare(fleet, "host1")


def end_of(fleet: Fleet, instance: str) -> str:
    """How the last run of an instance on host1 ended, as systemd says."""
    said = fleet.sh("host1", f"journalctl --unit=magi-llama@{instance} --output=cat")
    return [line.partition("exited, ")[2] for line in said.splitlines() if "Main process exited" in line][-1]


def test_a_stop_waits_for_work_in_flight_but_not_for_ever(fleet: Fleet):
    """A stream that ends in time is not cut; clients that never leave do not hold up the deployment.

    A host that shuts down would give them a minute. The stop itself does not: it sends SIGTERM twice.
    """
    fleet.profile("one", Q2, Q3)
    assert fleet.deploy("one", *LIMIT, model_server_stop_timeout=60).code == 0
    ports = {server["instance"]: server["port"] for server in fleet.report()["servers"]}
    pid = fleet.pids()["host1", Q2]
    stays = [Client(fleet, "host1", ports[Q2]), Client(fleet, "host1", ports[Q2], stream=False)]
    until(lambda: fleet.busy("host1", ports[Q2]) == 2, 30, "both clients are served")
    ends = Client(fleet, "host1", ports[Q3], tokens=400)
    until(lambda: ends.chunks, 30, "the stream begins")

    run = fleet.play("stop", *LIMIT, model_server_stop_instances=[Q3], model_server_stop_timeout=120)
    assert (run.code, run.changed) == (0, 1), run.output
    ends.join()
    last = json.loads(ends.chunks[-1].partition(b":")[2])
    assert (last["stop"], last["tokens_predicted"]) == (True, 400)
    assert fleet.state("host1", Q3) == "inactive"

    running = fleet.start("stop", *LIMIT, model_server_stop_timeout=4)
    until(
        lambda: (
            "process" in fleet.sh("host1", "flock --shared --nonblock /etc/magi/lock true || echo process", check=False)
        ),
        30,
        "the stop is at work",
    )
    count = len(stays[0].chunks)
    until(lambda: len(stays[0].chunks) > count, 30, "it streams while it is waited for")
    run = running.finish()
    assert (run.code, run.changed) == (0, 1), run.output
    for client in stays:
        client.join(30)
        assert not client.is_alive()
    assert b'"stop":true' not in stays[0].chunks[-1]
    assert fleet.state("host1", Q2) == "inactive"
    assert fleet.sh("host1", f"ls -d /proc/{pid}", check=False) == ""
    assert end_of(fleet, Q2) == "code=exited, status=1/FAILURE"  # tools/server/server.cpp, signal_handler


def test_a_server_that_takes_no_signal_any_more_is_killed(fleet: Fleet):
    """It hangs, so nobody can tell whether it is busy; systemd wakes it for the first signal, and only for that."""
    fleet.profile("one", Q2, Q3)
    assert fleet.deploy("one", *LIMIT, model_server_stop_timeout=60).code == 0
    pid = fleet.pids()["host1", Q2]
    (port,) = [server["port"] for server in fleet.report()["servers"] if server["instance"] == Q2]
    client = Client(fleet, "host1", port)
    until(lambda: client.chunks, 30, "the stream begins")
    fleet.sh("host1", f"(while kill -STOP {pid}; do sleep 0.02; done) >/dev/null 2>&1 &")
    run = fleet.play("stop", *LIMIT, model_server_stop_instances=[Q2], model_server_stop_timeout=1)
    assert (run.code, run.changed) == (0, 1), run.output
    client.join(30)
    assert not client.is_alive()
    assert (fleet.state("host1", Q2), fleet.state("host1", Q3)) == ("inactive", "active")
    assert end_of(fleet, Q2) == "code=killed, status=9/KILL"


def test_a_full_disk_is_told_before_anything_is_touched(fleet: Fleet):
    """/etc/magi is a tiny tmpfs."""
    bare(fleet, "host1")
    fleet.sh("host1", "mkdir -p /etc/magi; mount -t tmpfs -o size=128k tmpfs /etc/magi")
    try:
        fleet.profile("one", Q2, Q3)
        assert fleet.deploy("one", *LIMIT).code == 0
        pids = fleet.pids()
        fleet.sh("host1", "cat /dev/zero >/etc/magi/filler", check=False)
        fleet.profile("one", {"model": Q2, "options": {"ctx_size": 1024}}, Q4)
        full = "No space left on device; free space there, then run again."
        run = fleet.deploy("one", *LIMIT)
        assert run.code != 0
        assert f"Host host1: /etc/magi/generation.json: {full}" in run.text
        run = fleet.play("discover", *LIMIT, model_server_registry_path="/etc/magi/registry.json")
        assert run.code != 0
        assert f"Host host1: Can't write /etc/magi/registry.json: {full}" in run.text
        fleet.sh("host1", "rm /etc/magi/filler")
        fleet.profile("before", Q2, Q3)
        same = fleet.deploy("before", *LIMIT)
        assert (same.code, same.changed, fleet.pids()) == (0, 0, pids), same.output
        run = fleet.deploy("one", *LIMIT)
        assert run.code == 0, run.output
        assert [key[1] for key in fleet.pids()] == [Q2, Q4]
        assert fleet.deploy("one", *LIMIT).changed == 0
    finally:
        fleet.sh("host1", "rm -f /etc/magi/filler")
        bare(fleet, "host1")
        fleet.sh("host1", "umount /etc/magi; rmdir /etc/magi")


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda sent: sent.name)
def test_a_run_that_is_ended_in_mid_launch_is_repaired_by_the_next(fleet: Fleet, sent: signal.Signals):
    """Also by Ctrl-C, which sends SIGINT."""
    size = 1024 + 256 * sent
    fleet.profile("one", {"model": Q2, "options": {"ctx_size": size}}, Q4)
    playing = fleet.start("site", *LIMIT, profile="one")
    written = f"grep -l ctx_size=.*{size} /etc/magi/instances/*"
    until(lambda: fleet.sh("host1", written.replace("ctx_size", "CTX_SIZE"), check=False), 60, "it writes", pause=0.02)
    playing.send(sent)
    assert playing.finish().code != 0

    # The next run ends what still works on the host, so that it can't overwrite anything.
    again = fleet.deploy("one", *LIMIT)
    assert again.code == 0, again.output
    pids = fleet.pids()
    assert len(pids) == 2
    assert fleet.environment_of("host1", pids["host1", Q2])["LLAMA_ARG_CTX_SIZE"] == str(size)
    last = fleet.deploy("one", *LIMIT)
    assert (last.code, last.changed) == (0, 0), last.output
    assert fleet.pids() == pids


def test_a_systemd_that_executes_itself_anew_is_asked_again(fleet: Fleet):
    """An upgrade of the systemd package does that, and it cuts all connections to systemd."""
    bare(fleet, "host1")
    fleet.profile("one", Q2, Q3)
    ended = threading.Event()

    def reexecute() -> None:
        while not ended.wait(0.2):
            fleet.sh("host1", "systemctl daemon-reexec", check=False)

    upgrade = threading.Thread(target=reexecute)
    upgrade.start()
    try:
        for options in ({}, {"ctx_size": 512}, {"ctx_size": 1024}):
            fleet.profile("one", Q2, {"model": Q3, "options": options})
            run = fleet.deploy("one", *LIMIT)
            assert run.code == 0, run.output
            assert len(fleet.pids()) == 2
    finally:
        ended.set()
        upgrade.join()


@pytest.mark.parametrize("playbook", ["status", "plan", "site", "stop", "teardown"])
def test_a_connection_that_may_not_use_systemd_is_one_sentence(fleet: Fleet, playbook: str):
    """Without become, nothing in root's systemd can be seen."""
    fleet.sh("host1", "id deploy 2>/dev/null || useradd --create-home deploy; cp -r /root/.ssh /home/deploy/")
    fleet.sh("host1", "chown -R deploy /home/deploy/.ssh")
    hosts = {"host1": {**fleet.hosts["host1"], "ansible_user": "deploy"}}
    run = fleet.start(
        playbook, hosts=hosts, profile="fast-only", model_server_registry_path="/home/deploy/registry.json"
    ).finish()
    assert "systemd can only be used by root, but the connection is user" in run.text
    assert "connect as root (ansible_user: root), or set ansible_become: true." in run.text
    assert "not ready" not in run.text
    assert run.code


def test_units_that_can_not_be_written_are_noticed_before_anything_stops(fleet: Fleet):
    bare(fleet, "host1")
    fleet.profile("one", Q2)
    fleet.profile("two", Q3)
    assert fleet.deploy("one", *LIMIT).code == 0
    fleet.sh("host1", "mount --bind /etc/systemd /etc/systemd && mount -o remount,bind,ro /etc/systemd")
    try:
        run = fleet.deploy("two", *LIMIT)
        assert run.code != 0
        assert "/etc/systemd/system: Read-only file system; make it writable." in run.text
        assert fleet.state("host1", Q2) == "active"
    finally:
        fleet.sh("host1", "umount /etc/systemd")
    run = fleet.deploy("two", *LIMIT)
    assert run.code == 0, run.output


def test_a_server_whose_disk_is_not_mounted_any_more_runs_on_and_is_said(fleet: Fleet):
    bare(fleet, "host1")
    fleet.profile("all", "*")
    disk, file = "/srv/disk", "SmolLM2-135M-Instruct.Q2_K.gguf"
    fleet.sh("host1", f"mkdir -p {disk}; mount -t tmpfs none {disk}; cp /models/{file} {disk}")
    try:
        assert fleet.deploy("all", *LIMIT, model_server_scan_paths=[disk]).code == 0
        before = fleet.pids()
        assert [name for _host, name in before] == [Q2]
        fleet.sh("host1", f"umount --lazy {disk}")
        run = fleet.deploy("all", *LIMIT, model_server_scan_paths=[disk])
        assert run.code == 0, run.output
        assert fleet.pids() == before
        details = [item["detail"] for item in fleet.report()["summary"]["degraded"]]
        assert f"Host host1: {Q2} runs on as it is: its file {disk}/{file} is gone." in details
        emptied = f"Host host1: The folder to scan {disk} had models at the last scan and is empty now; check that its"
        assert any(item.startswith(emptied) for item in details)
    finally:
        bare(fleet, "host1")
        fleet.sh("host1", f"umount --lazy {disk} 2>/dev/null; rmdir {disk}")
