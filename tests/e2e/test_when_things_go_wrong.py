"""What can go wrong on one machine: what we say, what still serves, and that nothing is left half done."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
from ansible_collections.magi.models.plugins.module_utils._services.supervisor import Supervisor
from ansible_collections.magi.models.plugins.module_utils._services.values import ServiceError, Status

from ..waiting import until
from .conftest import LLAMA_SERVER, PORTS, ROOT, Deployment, alive, ask, environment_of

pytestmark = pytest.mark.e2e

Q2, Q3 = (f"smollm2-135m-instruct.{q}" for q in ("q2_k", "q3_k_m"))


@pytest.fixture
def two(deployment: Deployment) -> Deployment:
    deployment.add_model("Q2_K")
    deployment.add_model("Q3_K_M")
    return deployment


def test_a_missing_profile_fails_before_any_host_is_touched(two: Deployment):
    run = two.play(profile="nope")
    assert run.code != 0
    assert "Profile nope not found: there is no" in run.text
    assert "Profiles there: development, fast-only, production." in run.text
    assert "[1/5]" not in run.output
    assert two.tree() == {}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("enabled_models: [", "is not valid YAML"),
        ("enabled_models: ['*']\nenabled: 1\n", "enabled"),
        ("enabled_models: []\n", "enabled_models is empty"),
    ],
)
def test_an_invalid_profile_fails_before_any_host_is_touched(two: Deployment, content: str, said: str):
    (two.folder / "profiles" / "broken.yml").write_text(content)
    run = two.play(profile="broken")
    assert run.code != 0
    assert "Profile broken" in run.text
    assert said in run.text
    assert two.tree() == {}


def test_a_report_stays_until_a_deployment_begins_and_goes_with_what_it_tells_of(two: Deployment):
    assert two.play().code == 0
    before = two.report()
    (two.folder / "profiles" / "broken.yml").write_text("enabled_models: []\n")
    assert two.play(profile="broken").code != 0
    assert two.report() == before
    assert two.play("teardown").code == 0
    assert not (two.folder / "report.json").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system that nobody may write to")
def test_a_report_that_can_not_be_written_is_noticed_before_anything_changes(two: Deployment):
    """As in a checkout that is read-only."""
    checkout = two.folder / "checkout"
    checkout.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", checkout], check=True)
    try:
        run = two.play(model_server_report_path=str(checkout / "data" / "report.json"))
    finally:
        subprocess.run(["umount", checkout], check=True)
    assert run.code != 0
    assert (
        f"Can't write {checkout}: Read-only file system; make it writable, or set model_server_report_path." in run.text
    )
    assert two.tree() == {}


def test_a_setting_of_the_wrong_type_is_named(two: Deployment):
    two.environment = {"MODEL_MAX_STARTUP_TIME": "soon"}
    run = two.play()
    assert run.code != 0
    assert "Setting model_server_max_startup_time must be a whole number of seconds" in run.text
    assert two.tree() == {}


def newer(content: str) -> str:
    data = json.loads(content)
    return json.dumps({**data, "schema_version": data["schema_version"] + 1})


def test_a_registry_that_can_not_be_trusted_is_made_anew(two: Deployment):
    assert two.play("discover").code == 0
    content = two.registry.read_text()
    good = json.loads(content)["models"]
    for damaged in (content[: len(content) // 2], newer(content), None, content.replace("Q2", "Q8")):
        if damaged is None:
            two.registry.unlink()
        else:
            two.registry.write_text(damaged)
        run = two.play("discover")
        assert run.code == 0, run.output
        assert "WARNING" in run.output
        assert "registry" in run.output
        assert json.loads(two.registry.read_text())["models"] == good
    two.registry.write_text(damaged)
    assert two.play().code == 0
    assert [server["tier"] for server in two.report()["servers"]] == ["Q2", "Q3"]


def test_a_missing_and_a_truncated_model_are_warned_of_and_the_others_serve(two: Deployment):
    path = two.add_model("Q4_K_M")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    two.add_profile("p", Q2, "smollm2-135m-instruct.q4_k_m", "not-there-q8_0")
    run = two.play(profile="p")
    assert run.code == 0, run.output
    assert [server["instance"] for server in two.report()["servers"]] == [Q2]
    assert two.report()["ready_servers"] == 1
    truncated, missing = (item["detail"] for item in two.report()["summary"]["degraded"])
    assert "entry 2 (smollm2-135m-instruct.q4_k_m)" in truncated
    assert str(path) in truncated
    assert "entry 3 (not-there-q8_0)" in missing

    strict = two.play(profile="p", model_server_strict=True)
    assert strict.code != 0
    assert "strict is set" in strict.text


def test_nothing_enabled_is_a_failure(two: Deployment):
    two.add_profile("p", {"tier": "Q8"})
    run = two.play(profile="p")
    assert run.code != 0
    assert "nothing that profile p enables is available (2 models discovered)" in run.text


def test_a_server_that_does_not_start_is_explained_and_the_others_serve(two: Deployment):
    two.add_profile("p", Q2, {"model": Q3, "options": {"cache_type_v": "q4_0", "flash_attn": False}})
    run = two.play(profile="p")
    assert run.code == 0, run.output
    assert two.report()["ready_servers"] == 1
    (failed,) = two.report()["summary"]["failed"]
    assert (failed["instance"], failed["host"], failed["cause"]) == (Q3, "localhost", "bad_option")
    assert "quantized V cache requires flash_attn" in failed["detail"]
    assert any("quantized V cache" in line for line in failed["log"])
    assert "quantized V cache" in run.output
    assert "France" in ask(two.servers()[Q2]["port"])
    assert two.servers()[Q3]["is_ready"] is False

    strict = two.play(profile="p", model_server_strict=True)
    assert strict.code != 0
    assert "strict is set and the deployment is degraded" in strict.text

    # It would only crash again: it stays stopped until something that it is made of changes, or somebody asks for it.
    assert f"quarantine {Q3}: failed with exactly this configuration" in strict.output
    assert strict.changed == 0
    assert two.servers()[Q3]["action"] == "quarantine"
    retried = two.play(profile="p", model_server_retry_quarantined=True)
    assert f"start {Q3}: was failed" in retried.output
    two.add_profile("p", Q2, Q3)
    assert two.play(profile="p").code == 0
    assert two.report()["ready_servers"] == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cache_type_k": "q9_0"}, "Unsupported cache type: q9_0"),
        ({"ctx_size": "32k"}, "ctx_size is a number; write it out"),
    ],
)
@pytest.mark.parametrize("way", [(), ("site", "--check"), ("plan",)])
def test_a_wrong_value_is_refused_before_anything_changes(two: Deployment, way, options, said: str):
    two.add_profile("p", Q2, {"model": Q3, "options": options})
    run = two.play(*way, profile="p")
    assert run.code != 0
    assert f"Profile p, entry 2 ({Q3}): " in run.text
    assert said in run.text
    assert not (two.home / "instances").exists()


def test_a_server_whose_file_is_gone_or_cut_runs_on_and_degrades(two: Deployment):
    assert two.play().code == 0
    pids = {name: server["pid"] for name, server in two.servers().items()}
    path = two.models / "SmolLM2-135M-Instruct.Q3_K_M.gguf"
    whole = path.read_bytes()
    path.unlink()
    for content, said in ((None, "is gone"), (whole[:4000000], "is set aside: ")):
        if content:
            path.write_bytes(content)
        run = two.play()
        assert run.code == 0, run.output
        assert {name: server["pid"] for name, server in two.servers().items()} == pids
        assert two.report()["ready_servers"] == 2
        details = [item["detail"] for item in two.report()["summary"]["degraded"]]
        assert any(f"{Q3} runs on as it is: its file" in item and said in item for item in details), details
        assert run.changed in (0, 1)  # the registry, and no instance
    assert "strict is set" in two.play(model_server_strict=True).text
    stopped = two.play(model_server_missing="stop")
    assert f"stop {Q3}: its file is set aside" in stopped.output
    assert not alive(pids[Q3])
    path.write_bytes(whole)
    assert two.play().code == 0
    assert two.report()["summary"]["degraded"] == []
    assert two.report()["ready_servers"] == 2


def test_variables_aliases_and_levels_of_an_inventory_reach_the_process(two: Deployment):
    two.add_profile("p", {"model": Q2, "aliases": ["chat", "gpt-4o-mini"], "environment": {"MINE": "a $b 'c'"}})
    run = two.play(profile="p", model_server_environment={"OTHER": "1"}, model_server_options_x={"ctx_size": 512})
    assert run.code == 0, run.output
    (server,) = two.servers().values()
    assert server["is_ready"]
    assert server["aliases"] == ["chat", "gpt-4o-mini"]
    environment = environment_of(server["pid"])
    assert (environment["MINE"], environment["OTHER"], environment["LLAMA_ARG_CTX_SIZE"]) == ("a $b 'c'", "1", "512")
    again = two.play(profile="p", model_server_environment={"OTHER": "1"}, model_server_options_x={"ctx_size": 512})
    assert again.changed == 0
    other = two.play(profile="p", model_server_environment={"OTHER": "2"}, model_server_options_x={"ctx_size": 512})
    assert f"restart {Q2}: environment MINE=a $b 'c' OTHER=1 → MINE=a $b 'c' OTHER=2" in other.output


def test_no_server_ready_is_a_failure(two: Deployment):
    two.add_profile("p", Q2, options={"cache_type_v": "q4_0", "flash_attn": False})
    run = two.play(profile="p")
    assert run.code != 0
    assert "No server is ready (0 of 1)" in run.text


def test_a_taken_port_is_named_before_anything_changes(two: Deployment):
    port = PORTS[0] + 5
    with socket.create_server(("127.0.0.1", port)):
        two.add_profile("p", {"model": Q2, "port": port})
        run = two.play(profile="p")
        assert run.code != 0
        assert f"port {port} of {Q2} is taken by process {os.getpid()} (" in run.text
        assert not two.home.exists()


def test_a_taken_port_of_the_range_is_stepped_around(two: Deployment):
    with socket.create_server(("127.0.0.1", PORTS[0])):
        run = two.play()
        assert run.code == 0, run.output
        assert [server["port"] for server in two.servers().values()] == [PORTS[0] + 1, PORTS[0] + 2]

        # So is one that somebody takes while the servers are stopped.
        assert two.play("stop").code == 0
        with socket.create_server(("127.0.0.1", PORTS[0] + 1)):
            again = two.play()
        assert again.code == 0, again.output
        said = f"{Q2} moves from port {PORTS[0] + 1} to {PORTS[0] + 3}: process {os.getpid()} ("
        assert said in again.text
        assert [server["port"] for server in two.servers().values()] == [PORTS[0] + 3, PORTS[0] + 2]


def test_an_unknown_option_names_the_nearest(two: Deployment):
    two.add_profile("p", Q2, options={"ctx_sise": 512})
    run = two.play(profile="p")
    assert run.code != 0
    assert "Profile p, options: llama-server (" in run.text
    assert "has no option ctx_sise; did you mean ctx_size?" in run.text
    assert not two.home.exists()


def test_a_missing_binary_is_named_with_the_remedy(two: Deployment):
    two.variables["model_server_llama_server_path"] = "/nonexistent/llama-server"
    run = two.play()
    assert run.code != 0
    assert "there is no llama-server at /nonexistent/llama-server; install it" in run.text


def test_a_hung_server_is_reported_by_the_deadline(two: Deployment):
    assert two.play().code == 0
    pid = two.servers()[Q2]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        run = two.play(model_server_max_startup_time=4, model_server_readiness_check_interval=1)
        assert run.code == 0, run.output
        (failed,) = two.report()["summary"]["failed"]
        assert (failed["instance"], failed["cause"]) == (Q2, "timeout")
        assert re.search(r"it does not answer \d+ s after its start", failed["detail"])
    finally:
        os.kill(pid, signal.SIGCONT)
    assert two.play().code == 0
    assert two.report()["ready_servers"] == 2


def test_servers_whose_manager_was_killed_are_taken_back(two: Deployment):
    assert two.play().code == 0
    before = {name: server["pid"] for name, server in two.servers().items()}
    pid = int((two.home / "supervisor" / "supervisord.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid), 10, "supervisord is gone")
    run = two.play()
    assert run.code == 0, run.output
    assert f"restart {Q2}: process {before[Q2]} runs outside its service manager" in run.output
    assert two.report()["ready_servers"] == 2
    assert not any(alive(pid) for pid in before.values())


def first(services: Supervisor, wanted: Callable[[Status], bool], what: str) -> Status:
    """Return the first status of Q2 that is ``wanted``."""

    def found() -> Status | None:
        status = services.status()[Q2]
        return status if wanted(status) else None

    return until(found, 60, what, pause=0.02)


def test_a_server_that_is_killed_while_it_starts_is_given_up_and_tried_again_by_the_next_run(two: Deployment):
    assert two.play(profile="fast-only").code == 0
    services = Supervisor(two.home, "")
    for _time in range(3):
        # It may die slowly: it gets as long as the deployment would wait for it.
        killed = first(services, lambda now: now.pid is not None and time.time() - now.started_at > 4, "it starts")
        assert killed.state == "starting"
        os.kill(killed.pid, signal.SIGKILL)
        first(services, lambda now: now.pid != killed.pid, "its end is seen")  # noqa: B023 - called here
    given_up = first(services, lambda now: now.state not in ("starting", "backoff"), "it is given up")
    assert (given_up.state, given_up.exit_status) == ("failed", "terminated by SIGKILL")
    run = two.play(profile="fast-only")
    assert run.code == 0, run.output
    assert f"start {Q2}: was failed (terminated by SIGKILL)" in run.output

    # The program's file contains the time that a start may take: it is written again, and nothing restarts.
    pid = two.servers()[Q2]["pid"]
    longer = [two.play(profile="fast-only", model_server_max_startup_time=200) for _time in range(2)]
    assert [(run.code, run.changed) for run in longer] == [(0, 1), (0, 0)], longer[0].output
    assert two.servers()[Q2]["pid"] == pid


def test_supervisord_starts_whatever_state_a_program_is_in_and_says_what_it_refuses(two: Deployment):
    assert two.play(profile="fast-only").code == 0
    services = Supervisor(two.home, "")
    before = services.status()[Q2]
    assert services.start([Q2]) == {}
    second = first(services, lambda now: now.pid not in (None, before.pid), "it starts")
    os.kill(second.pid, signal.SIGKILL)
    first(services, lambda now: now.state == "backoff", "it is tried again")
    assert services.start([Q2]) == {}
    first(services, lambda now: now.pid not in (None, second.pid), "it starts at once")
    (refused,) = services.start(["nope"]).items()
    assert refused == (
        "nope",
        f"supervisord of {two.home}/supervisor did not start nope (BAD_NAME: nope); its log there, supervisord.log, "
        "says why.",
    )
    nobody = Supervisor(two.folder, "")
    with pytest.raises(ServiceError, match=f"{two.folder}/supervisor did not read its programs: it does not answer"):
        nobody.reload()


HOLD = """
import os, sys
sys.path.insert(0, "collections")
from ansible_collections.magi.models.plugins.module_utils._host.lock import exclusive
from ansible_collections.magi.models.plugins.module_utils._host.procfs import start_time
from ansible_collections.magi.models.plugins.module_utils._host.values import Holder
from ansible_collections.magi.models.plugins.plugin_utils._ansible.run import controller
home, controller_pid = sys.argv[1:]
with exclusive(home, Holder("ada@desk, process 7", controller(), int(controller_pid), os.getpid(), start_time(os.getpid()))):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def worker(home: Path, controller_pid: int):
    """A process that holds the lock of a host like a deployment whose controller has that pid."""
    command = [sys.executable, "-c", HOLD, str(home), str(controller_pid)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_of_two_deployments_at_once_one_refuses_and_names_the_other(two: Deployment):
    assert two.play().code == 0
    with worker(two.home, os.getpid()):
        run = two.play(profile="fast-only")
        assert run.code != 0
        assert "host_failed: Host localhost: another deployment is at work: ada@desk, process 7" in run.text
        # the report also says what serves there
        assert two.servers()[Q2]["state"] == "running"
    after = two.play(profile="fast-only")
    assert after.code == 0, after.output
    assert "stop " + Q3 in after.output


def test_what_a_killed_deployment_still_does_is_ended_by_the_next(two: Deployment):
    """A worker whose controller was killed can't overwrite what the next run does."""
    assert two.play().code == 0
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with worker(two.home, ended.pid) as orphan:
        looked = two.play("site", "--check", profile="fast-only")
        assert looked.code == 0, looked.output
        assert orphan.poll() is None
        run = two.play(profile="fast-only")
        assert run.code == 0, run.output
        assert orphan.wait(10) == -signal.SIGKILL
    assert "ada@desk, process 7 was killed; its work on this host has been ended" in run.text
    assert two.play(profile="fast-only").changed == 0


def test_servers_that_have_lost_their_manager_are_ended_and_started_anew(two: Deployment):
    """But never somebody else's process, whatever its environment says."""
    assert two.play().code == 0
    before = {name: server["pid"] for name, server in two.servers().items()}
    environment = {"MAGI_HOME": str(two.home), "MAGI_INSTANCE": Q2, "LLAMA_ARG_PORT": "²", "MAGI_API_KEY_FILE": "/none"}
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=environment) as other:
        try:
            assert two.play().changed == 0
            os.kill(int((two.home / "supervisor" / "supervisord.pid").read_text()), signal.SIGKILL)
            run = two.play()
            assert run.code == 0, run.output
            assert f"restart {Q2}: process {before[Q2]} runs outside its service manager" in run.output
            assert not [pid for pid in before.values() if alive(pid)]
            assert [server["is_ready"] for server in two.servers().values()] == [True, True]
            assert two.play().changed == 0
            assert other.poll() is None
        finally:
            other.kill()


def daemon(home: Path) -> int:
    """The supervisord of a folder."""
    return int((home / "supervisor" / "supervisord.pid").read_text())


@pytest.mark.parametrize("verb", ["site", "teardown"])
def test_a_supervisord_that_has_lost_its_socket_is_replaced_and_starts_nothing_again(two: Deployment, verb: str):
    assert two.play().code == 0
    before, old = {name: server["pid"] for name, server in two.servers().items()}, daemon(two.home)
    (two.home / "supervisor" / "supervisord.sock").unlink()
    run = two.play(verb)
    assert run.code == 0, run.output
    assert [pid for pid in (old, *before.values()) if alive(pid)] == []
    if verb == "site":
        assert f"restart {Q2}: process {before[Q2]} runs outside its service manager" in run.output
        assert two.report()["ready_servers"] == 2
        assert two.play().changed == 0


def unanswered(home: Path) -> int:
    """How many connections wait until the supervisord of a folder accepts them (state 2, SS_CONNECTING, in proc(5))."""
    sockets = (line.split() for line in Path("/proc/net/unix").read_text().splitlines())
    return sum(words[5] == "02" and words[-1].startswith(f"{home}/supervisor/") for words in sockets)


def test_a_supervisord_that_hangs_is_told_of_soon_and_replaced(two: Deployment):
    assert two.play().code == 0
    before, old = {name: server["pid"] for name, server in two.servers().items()}, daemon(two.home)
    os.kill(old, signal.SIGSTOP)
    run = two.play("status")
    assert run.code == 0, run.output
    assert unanswered(two.home) == 1  # a look asks it once, and waits for no other answer
    assert "orphaned" in run.output
    run = two.play()
    assert run.code == 0, run.output
    assert [pid for pid in (old, *before.values()) if alive(pid)] == []
    assert two.report()["ready_servers"] == 2
    assert two.play().changed == 0


def test_a_folder_that_was_moved_is_deployed_to_and_one_without_a_supervisord_keeps_what_serves(two: Deployment):
    assert two.play().code == 0
    before, old = {name: server["pid"] for name, server in two.servers().items()}, daemon(two.home)
    moved = two.home.rename(two.folder / "moved")
    two.variables["model_server_home"] = str(moved)
    run = two.play(model_server_supervisord_path="/nowhere/supervisord")
    assert "supervisord is not at /nowhere/supervisord; install it" in run.text
    assert all(alive(pid) for pid in (old, *before.values()))
    run = two.play()
    assert run.code == 0, run.output
    assert [pid for pid in (old, *before.values()) if alive(pid)] == []
    assert daemon(moved) != old
    assert two.report()["ready_servers"] == 2
    assert two.play().changed == 0


def test_a_llama_server_that_was_moved_is_a_change(two: Deployment):
    """Under supervisor a program keeps the command that it was started with: its next crash would be its last."""
    program = two.folder / "a" / "llama-server"
    program.parent.mkdir()
    shutil.copy2(LLAMA_SERVER, program)
    two.variables["model_server_llama_server_path"] = str(program)
    assert two.play(profile="fast-only").code == 0
    program.parent.rename(two.folder / "b")
    two.variables["model_server_llama_server_path"] = str(two.folder / "b" / "llama-server")
    run = two.play(profile="fast-only")
    assert run.code == 0, run.output
    assert f"restart {Q2}: its model file, arguments or llama-server changed" in run.output
    pid = two.servers()[Q2]["pid"]
    assert os.readlink(f"/proc/{pid}/exe") == str(two.folder / "b" / "llama-server")
    assert two.play(profile="fast-only").changed == 0


def test_requests_that_a_stop_cuts_are_told(two: Deployment):
    assert two.play(profile="fast-only", model_server_options={"parallel": 2}).code == 0
    port = two.servers()[Q2]["port"]
    body = json.dumps({"prompt": "Once", "n_predict": -1, "ignore_eos": True, "stream": True}).encode()
    address = f"http://127.0.0.1:{port}/completion"
    streams = [urllib.request.urlopen(urllib.request.Request(address, body), timeout=60) for _time in range(2)]
    assert all(stream.readline() for stream in streams)
    run = two.play("stop", model_server_stop_timeout=1)
    assert run.code == 0, run.output
    assert f"model_server_stop_timeout ran out for {Q2}: 2 requests were cut" in run.text
    for stream in streams:
        stream.close()
