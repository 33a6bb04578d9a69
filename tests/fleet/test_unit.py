"""What is installed and what really runs: the hardened unit, its environment to the byte, and no secret anywhere."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from ansible_collections.magi.models.plugins.action import llama_instances
from ansible_collections.magi.models.plugins.module_utils._host.values import Generation
from ansible_collections.magi.models.plugins.module_utils._plan.values import Plan
from ansible_collections.magi.models.plugins.module_utils._services.systemd import Systemd

from .. import hostile
from ..waiting import until
from .conftest import LIMIT, Q2, Q4, ROOT, Client, Fleet, bare

pytestmark = pytest.mark.fleet

CANARIES = {"HF_TOKEN": "canary-hf-4b1d", "LLAMA_API_KEY": "canary-llama-77c0"}
FOLDER = '/srv/hostile "it\'s" \\ %n'
KEY = "canary-key-9e3a"
VERIFY = "systemd-analyze verify 2>&1"  # names every directive that systemd does not know


def exposure(text: str) -> float:
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", text)
    assert found, text
    return float(found[1])


def test_the_installed_unit_is_hardened(fleet: Fleet):
    """systemd-analyze scores the unit that is really installed: 1.2 at most on a host without GPU."""
    fleet.profile("one", Q2)
    run = fleet.deploy("one", *LIMIT)
    assert run.code == 0, run.output
    assert exposure(fleet.sh("host1", f"systemd-analyze security --no-pager magi-llama@{Q2}.service")) <= 1.2
    assert fleet.sh("host1", f"{VERIFY} magi-llama@{Q2}.service", check=False) == ""


def test_a_pool_starts_its_models_from_the_hardened_unit(fleet: Fleet):
    """The file with its models is root's alone, and reaches a user who exists only while the pool runs."""
    fleet.profile("pooled", pools=[{"name": "small", "models": [Q2, Q4], "options": {"ctx_size": 512}}])
    run = fleet.deploy("pooled", *LIMIT)
    assert run.code == 0, run.output
    (server,) = fleet.report()["servers"]
    assert (server["state"], server["models"]) == ("asleep", {Q2: "unloaded", Q4: "unloaded"})
    chat = {"model": Q4, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4}
    status, answer = fleet.get("host1", server["port"], "/v1/chat/completions", chat)
    assert (status, answer and answer["model"]) == (200, Q4)
    assert exposure(fleet.sh("host1", "systemd-analyze security --no-pager magi-llama@small.service")) <= 1.2
    assert fleet.sh("host1", "stat -c '%a %U' /etc/magi/instances/small.ini") == "600 root\n"
    users = fleet.sh(
        "host1", "ps -o user= --ppid $(systemctl show --property=MainPID --value magi-llama@small)"
    ).split()
    assert len(users) == 1
    assert users != ["root"]


def test_when_a_server_started_is_told_whatever_the_time_zone(fleet: Fleet):
    fleet.profile("one", Q2)
    fleet.sh("host1", "ln -sf /usr/share/zoneinfo/Asia/Kolkata /etc/localtime; date | grep -q IST")
    try:
        run = fleet.deploy("one", *LIMIT)
        assert run.code == 0, run.output
    finally:
        fleet.sh("host1", "ln -sf /usr/share/zoneinfo/Etc/UTC /etc/localtime")
    unit = fleet.sh(
        "host1", f"systemctl show --property=ExecMainStartTimestamp --timestamp=unix magi-llama@{Q2}.service"
    )
    (server,) = fleet.report()["servers"]
    assert unit == f"ExecMainStartTimestamp=@{server['started_at']:.0f}\n"


def test_the_unit_of_a_host_with_a_gpu_is_hardened(fleet: Fleet):
    """Scored offline: no test host has a GPU."""
    program = fleet.group_vars["model_server_llama_server_path"]
    plan = Plan(
        "host1",
        "p",
        "systemd",
        "/etc/magi",
        program,
        Generation(),
        (),
        (),
        0,
        0,
        gpu=True,
        gpu_groups=("render", "video"),
    )
    values = llama_instances.values(plan, {}, ["/models"])
    (unit,) = llama_instances.render(plan, Systemd(Path(plan.home)), [str(llama_instances.ROLE_TEMPLATES)], values)
    lines = unit["content"].splitlines()
    for line in (
        *("DeviceAllow=char-nvidia* rw", "DeviceAllow=char-drm rw", "DeviceAllow=char-kfd rw"),
        *("SupplementaryGroups=render video", "ProcSubset=all", "CacheDirectory=magi-llama/%i"),
        "Environment=HOME=%S/magi-llama/%i XDG_CACHE_HOME=%C/magi-llama/%i",
    ):
        assert line in lines
    made = "d=$(mktemp -d); trap 'rm -r $d' EXIT; cat >$d/magi-llama@.service;"
    assert fleet.sh("host1", f"{made} {VERIFY} $d/magi-llama@.service", check=False, stdin=unit["content"]) == ""
    said = fleet.sh(
        "host1",
        f"{made} systemd-analyze security --offline=true --no-pager $d/magi-llama@.service",
        stdin=unit["content"],
    )
    assert exposure(said) <= 1.5


def test_hostile_names_and_metadata_reach_the_process_exactly(fleet: Fleet):
    """Proven from the environment of the running processes."""
    make = Path(hostile.__file__).read_text() + f"\nmake(Path('/models'), Path({FOLDER!r}))\n"
    fleet.sh("host1", "python3 -", stdin=make)
    fleet.profile("one", "*")
    try:
        run = fleet.deploy("one", *LIMIT, "--diff", model_server_scan_paths=[FOLDER])
        assert run.code == 0, run.output
        assert fleet.sh("host1", "find / -xdev -name own -o -xdev -name owned") == ""
        assert not [path for name in ("own", "owned") for path in (ROOT / name, fleet.folder / name) if path.exists()]
        servers = fleet.report()["servers"]
        assert [server["is_ready"] for server in servers] == [True] * len(hostile.MODELS), run.output
        started = [fleet.environment_of("host1", server["pid"]) for server in servers]
        assert {(one["LLAMA_ARG_MODEL"], one["MAGI_DISPLAY_NAME"]) for one in started} == hostile.served_from(FOLDER)
        aside, unheld = (item["detail"] for item in fleet.report()["summary"]["degraded"])
        assert "has a name that is not UTF-8" in aside
        assert "the file name of bell-.q3_k_m on host1" in unheld
        assert "which no service file can hold: rename it" in unheld
        assert "has a name that is not UTF-8" in fleet.sh("host1", "cat /var/lib/magi/model_registry.json")
    finally:
        bare(fleet, "host1")
        fleet.sh("host1", f"rm -r {shlex.quote(FOLDER)}")


def test_keys_protect_a_server_and_are_seen_nowhere(fleet: Fleet):
    """No artifact, log or command line has a key, and a bad key file is refused."""
    fleet.profile("one", {"model": Q2, "options": {"api_key_file": "/etc/magi-keys"}})
    fleet.environment.update(CANARIES)
    try:
        before = fleet.snapshot("host1")
        runs = []
        for content, said in (
            (None, "can't be read (No such file or directory)"),
            (f"{KEY}\r\n", "line 1 ends in a carriage return"),
        ):
            if content is not None:
                fleet.sh("host1", "umask 077; cat >/etc/magi-keys", stdin=content)
            run = fleet.deploy("one", *LIMIT, "--diff", "-vvv")
            assert run.code != 0
            assert f"Host host1: instance {Q2}: its API key file /etc/magi-keys" in run.text
            assert said in run.text
            changed = set(fleet.snapshot("host1")) ^ set(before)
            assert not [line for line in changed if "/var/lib/magi" not in line]
            runs.append(run)
        fleet.sh("host1", "cat >/etc/magi-keys", stdin=f"# ours\n{KEY}\n")
        for _time in range(2):
            runs.append(fleet.deploy("one", *LIMIT, "--diff", "-vvv"))
            assert runs[-1].code == 0, runs[-1].output
        assert runs[-1].changed == 0
        assert fleet.report()["ready_servers"] == 1
        assert fleet.get("host1", 8080, "/v1/models")[0] == 401
        assert fleet.get("host1", 8080, "/v1/models", key="wrong")[0] == 401
        assert "Paris" in fleet.ask("host1", 8080, KEY)[1]

        # If the file has lost its keys, a restart by systemd or at boot fails, and the server serves nobody.
        # journald is slow to read why, and stores it without the run's id.
        fleet.sh("host1", "systemctl kill --signal STOP systemd-journald; echo '# ours' >/etc/magi-keys")
        try:
            fleet.sh("host1", f"systemctl restart --no-block magi-llama@{Q2}")
            until(lambda: fleet.state("host1", Q2) == "failed", 60, "it is given up")
        finally:
            fleet.sh("host1", "systemctl kill --signal CONT systemd-journald")
        assert fleet.get("host1", 8080, "/health")[0] == 0
        assert "holds no key" in fleet.play("status", *LIMIT, "-v").text
        runs.append(fleet.deploy("one", *LIMIT))
        assert "holds no key" in runs[-1].text
        printed = fleet.sh("host1", f"journalctl --output cat --unit magi-llama@{Q2}")
        assert "magi: the API key file holds no key\n" in printed
        fleet.sh("host1", f"printf '# ours\n%s\n' {KEY} >/etc/magi-keys")
        runs.append(fleet.deploy("one", *LIMIT))
        assert runs[-1].code == 0, runs[-1].output
        assert exposure(fleet.sh("host1", f"systemd-analyze security --no-pager magi-llama@{Q2}.service")) <= 1.2
        assert fleet.sh("host1", f"{VERIFY} magi-llama@{Q2}.service", check=False) == ""

        pid = fleet.pids()["host1", Q2]
        written = fleet.sh(
            "host1",
            "cat /etc/magi/*.json /etc/magi/lock /etc/magi/instances/* /var/lib/magi/* /etc/systemd/system/magi*/*;"
            f"cat /etc/systemd/system/magi*.service; systemctl show magi-llama@{Q2}; journalctl --no-pager;"
            f"for p in /proc/[0-9]*/cmdline /proc/{pid}/environ; do tr '\\0' '\\n' <$p; done",
        )
        assert "LLAMA_ARG_API_KEY_FILE" in written
        artifacts = "".join(path.read_text() for path in fleet.folder.glob("*.*"))
        seen = written + artifacts + "".join(run.output for run in runs)
        assert not [secret for secret in (KEY, *CANARIES.values()) if secret in seen]
        assert fleet.sh("host1", "stat -c %a /etc/magi/instances/*").split() == ["600"]

        # Another key: the server knows only the first one, so it is asked with that, and its client is waited for.
        client = Client(fleet, "host1", 8080, tokens=400, key=KEY)
        until(lambda: client.chunks, 30, "the stream begins")
        fleet.sh("host1", "cat >/etc/magi-keys", stdin=f"{KEY[::-1]}\n")
        assert KEY in fleet.sh("host1", f"cat /run/credentials/magi-llama@{Q2}.service/api-keys")
        run = fleet.deploy("one", *LIMIT, model_server_stop_timeout=120)
        assert run.code == 0, run.output
        client.join()
        assert json.loads(client.chunks[-1].partition(b":")[2])["tokens_predicted"] == 400
        assert fleet.get("host1", 8080, "/v1/models", key=KEY)[0] == 401
        assert "Paris" in fleet.ask("host1", 8080, KEY[::-1])[1]
    finally:
        fleet.environment.clear()
        fleet.sh("host1", "rm -f /etc/magi-keys")
