"""magi on real systemd hosts over SSH: each verb, for programs and at a terminal, and stopped in the middle."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest

from ..command import Ran, Terminal, begin
from ..waiting import until
from .conftest import Q2, Q3, Fleet, bare

pytestmark = pytest.mark.fleet

KEY = "canary-key-of-magi"


class Magi:
    """The command, with the fleet's inventory and a memory of its own."""

    def __init__(self, fleet: Fleet, folder: Path):
        self.state = folder / "state"
        self.inventory = folder / "hosts.json"
        group = {"hosts": fleet.hosts, "vars": {**fleet.group_vars, "model_server_profile": "magi"}}
        self.inventory.write_text(json.dumps({"model_servers": group}))

    def begin(self, verb: str, *arguments: str) -> subprocess.Popen[str]:
        return begin(self.state, verb, *arguments, "-i", str(self.inventory))

    def document(self, verb: str, *arguments: str, code: int = 0):
        """Run a verb for a program, and return its document."""
        ran = Ran(self.begin(verb, *arguments, "--json"))
        assert ran.code == code, ran.out + ran.err
        assert KEY not in ran.out + ran.err
        return ran.document

    def screen(self, verb: str, *arguments: str, code: int = 0) -> str:
        """Run a verb at a terminal, and return what a person sees at its end."""
        terminal = Terminal(self.state, verb, *arguments, "-i", str(self.inventory))
        assert terminal.code == code, terminal.screen
        assert KEY not in terminal.printed
        return terminal.screen


@pytest.fixture(scope="module")
def emptied(fleet: Fleet):
    """A fleet whose hosts have nothing of these tests afterwards."""
    yield fleet
    bare(fleet, *fleet.hosts)


@pytest.fixture
def magi(emptied: Fleet, tmp_path: Path):
    fleet = emptied
    bare(fleet, *fleet.hosts)
    for host in fleet.hosts:
        fleet.sh(host, "umask 077; cat >/etc/magi-keys", stdin=f"{KEY}\n")
    fleet.profile("magi", Q2, {"model": Q3, "options": {"api_key_file": "/etc/magi-keys"}})
    yield Magi(fleet, tmp_path)
    for host in fleet.hosts:
        fleet.sh(host, "rm /etc/magi-keys")


def test_a_host_with_another_key_than_the_known_one_is_not_talked_to(fleet: Fleet, tmp_path: Path):
    arguments = fleet.group_vars["ansible_ssh_common_args"]
    path = re.search(r"UserKnownHostsFile=(\S+)", arguments)[1]
    keys = dict(line.split(" ", 1) for line in Path(path).read_text().splitlines())
    first, second = (fleet.hosts[name]["ansible_host"] for name in ("host1", "host2"))
    swapped = tmp_path / "known_hosts"
    swapped.write_text("".join(f"{host} {keys[second if host == first else host]}\n" for host in keys))
    known = {**fleet.group_vars, "ansible_ssh_common_args": arguments.replace(path, str(swapped))}
    inventory = tmp_path / "hosts.json"
    inventory.write_text(json.dumps({"model_servers": {"hosts": fleet.hosts, "vars": known}}))
    # Without the connections that are still open.

    def status() -> Ran:
        more = {"ANSIBLE_SSH_ARGS": "-o ControlPath=none"}
        return Ran(begin(tmp_path / "state", "status", "-i", str(inventory), "--json", **more))

    ran = status()
    if (
        "Broken pipe" in ran.sentence
    ):  # Ansible loses what ssh said if that takes longer than 1 ms to end (_send_initial_data)
        ran = status()
    assert ran.code == 5, ran.err
    assert "host1" in ran.sentence
    assert "host2" not in ran.sentence
    assert "Host key verification failed. Compare its host key with the one in known_hosts" in ran.sentence


def test_each_verb_on_the_hosts(magi: Magi, fleet: Fleet):
    names = list(fleet.hosts)
    planned = magi.document("plan", code=4)
    assert {host: len(plan["actions"]) for host, plan in planned["hosts"].items()} == dict.fromkeys(names, 2)
    deployed = magi.document("up")
    assert deployed["ready_servers"] == deployed["total_servers"] == 6
    assert "Nothing to change." in magi.screen("plan")
    up = magi.screen("up")
    assert all(f"✔ [{step}/5]" in up for step in range(1, 6))
    assert all(re.search(rf"^{host}  ● {Q2}  ● {Q3}$", up, re.MULTILINE) for host in names), up
    assert "6/6 ready  profile magi" in up
    assert "6/6 ready  profile magi" in magi.screen("status")
    assert [server["is_ready"] for server in magi.document("status")["servers"]] == [True] * 6

    assert list(magi.document("discover")["hosts"]) == names
    assert all(f"{host}:" in magi.screen("discover") for host in names)
    assert magi.document("config")["hosts"]["host2"]["profile"]["value"] == "magi"
    sound = magi.document("doctor")
    assert sound["problems"] == 0, sound
    assert {item["host"] for item in sound["findings"]} >= set(names)

    # Each server is asked on its own host, with its key, which stays there.
    assert [(item["state"], item["slots"]) for item in magi.document("top")["servers"]] == [("ready", 4)] * 6
    live = Terminal(
        magi.state, "top", "-i", str(magi.inventory), interrupt_when=lambda screen: screen.count(" ready\n") == 6
    )
    assert live.code == 0, live.screen
    assert KEY not in live.printed

    # It comes from the journal of each host.
    logs = magi.document("logs", Q2, "-n", "5")
    assert all("listening on" in " ".join(lines) for lines in logs["hosts"].values()), logs
    assert "host3" in magi.screen("logs", Q2, "-n", "1")
    followed = magi.begin("logs", Q3, "-n", "1", "-f", "--limit", "host2")
    assert followed.stdout.readline()
    assert fleet.ask("host2", 8081, KEY)[0] == Q3
    assert next(line for line in followed.stdout if "slot" in line)
    followed.send_signal(signal.SIGINT)
    assert Ran(followed).code == 130

    # Its key is read on the host, and stays there.
    answer = magi.document("ask", Q3, "What is the capital of France?", "--max-tokens", "12")
    assert answer["host"] == "host1" and answer["text"].strip()
    assert "tokens/s" in magi.screen("ask", Q3, "What is the capital of France?", "--max-tokens", "12", "-l", "host3")

    assert magi.document("stop", Q3, "--check")["hosts"].keys() == set(names)
    assert fleet.state("host1", Q3) == "active"
    assert f"host3: stop {Q3}" in magi.screen("stop", Q3)
    assert fleet.state("host1", Q3) == "inactive"
    assert "3/6 ready" in magi.screen("status", code=3)
    assert {item["instance"] for item in magi.document("down")["hosts"]["host1"]} == {Q2, Q3}
    assert "Nothing runs." in magi.screen("status")


def test_a_host_s_journal_has_no_question_and_nothing_of_private_files(magi: Magi, fleet: Fleet):
    """Ansible writes the arguments of modules there."""
    before = fleet.sh("host1", "journalctl --lines 0 --show-cursor").partition("cursor: ")[2].strip()
    fleet.profile("magi", Q2, {"model": Q3, "environment": {"MINE": "periwinkle"}})
    magi.document("up", "-e", '{"model_server_environment": {"OURS": "chartreuse"}}')
    assert "periwinkle" in fleet.sh("host1", f"cat /etc/magi/instances/{Q3}.env")
    magi.document("ask", Q3, "Is the word heliotrope private?", "--max-tokens", "4")
    written = f"journalctl --sync; journalctl --after-cursor '{before}' --output export --no-pager | tr '\\0' ' '"
    journal = fleet.sh("host1", written)
    assert f"UNIT=magi-llama@{Q3}.service" in journal  # it is there
    assert not [word for word in ("heliotrope", "periwinkle", "chartreuse", "LLAMA_ARG_MODEL") if word in journal]


def test_doctor_finds_what_the_servers_may_not_read(magi: Magi, fleet: Fleet):
    """The service runs as a dynamic user, who can't read all that root can."""
    fleet.sh("host2", "mkdir -m 0700 /srv/private; cp /models/*Q2_K.gguf /srv/private/")
    try:
        given = ("-l", "host2", "-e", '{"model_server_scan_paths": ["/srv/private"]}')
        found = magi.document("doctor", *given, code=1)
        problems = [item for item in found["findings"] if item["severity"] == "problem"]
        assert any("/srv/private" in item["message"] for item in problems), found
    finally:
        fleet.sh("host2", "rm -r /srv/private")


def test_a_signal_stops_a_rollout_over_ssh(magi: Magi, fleet: Fleet):
    """Whichever came, magi sends its run SIGINT: tests/e2e/test_controller.py has each of them."""
    process = magi.begin("up")
    lines = iter(process.stderr)
    before = ""
    while "[4/5]" not in before:
        before += next(lines)
    process.send_signal(signal.SIGINT)
    ran = Ran(process, before)
    assert ran.code == 130, ran.err
    for host in fleet.hosts:
        assert host in ran.sentence
    assert "it goes on from there" in ran.sentence
    # What still works on a host belongs to a controller that is gone: the next run ends it and goes on.
    assert magi.document("up")["ready_servers"] == 6
    until(lambda: magi.document("plan")["changes"] == 0, 30, "nothing is left to change")
