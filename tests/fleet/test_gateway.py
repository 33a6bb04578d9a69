"""A gateway on a systemd host, for the servers of several hosts."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from ..command import Ran, begin
from ..load import Clients, ask_once
from ..playbook import ROOT, Run
from ..waiting import until
from .conftest import Q2, Q3, Q4, Q41, Fleet, bare

pytestmark = pytest.mark.fleet

PORT = 8099
UNIT = "magi-gateway.service"
VERIFY = "systemd-analyze verify 2>&1"  # names every directive that systemd does not know


HOSTS = ("host1", "host2", "host3")
LIMIT = ("--limit", "host1,host2")
LEAVES = "gateways take the requests from what goes"
UNQUIET = re.compile(r"still had:|could not be told|stop_timeout ran out")
"""What a deployment says that cut requests, or might have."""


def with_gateway(**more: Any) -> dict[str, Any]:
    """Return the group with host1, and the hosts that are given with their variables."""
    settings = {"model_gateway_port": PORT, "model_gateway_address": "0.0.0.0"}
    return {"model_gateways": {"hosts": {"host1": {}, **more}, "vars": settings}}


@pytest.fixture(scope="module")
def hosts(fleet: Fleet):
    """Hosts with nothing on them whose servers a gateway on host1 can reach. What a test leaves there, the next one of
    this file finds."""
    bare(fleet, *HOSTS)
    for host in HOSTS:  # the addresses that they are reached at over SSH are this machine's alone
        fleet.hosts[host]["model_server_host"] = fleet.sh(host, "hostname -I").split()[0]
    yield fleet
    for host in HOSTS:  # a test that failed may have left one without power
        subprocess.run(
            ["docker", "start", fleet.hosts[host]["testbed_container"]], check=True, stdout=subprocess.DEVNULL
        )
    until(lambda: all(greeted(fleet, host) for host in HOSTS), 60, "SSH answers")
    fleet.groups = with_gateway(host3={})
    bare(fleet, *HOSTS)
    fleet.groups = {}
    assert not [line for line in fleet.snapshot("host1") if "magi" in line]
    for host in HOSTS:
        fleet.sh(host, "rm -rf /opt/upgraded")
        del fleet.hosts[host]["model_server_host"]


@pytest.fixture
def behind(hosts: Fleet):
    """These hosts, and an inventory with the gateway."""
    hosts.variables = {
        "model_server_port_range": [8080, PORT - 1],
        # Servers that work leave the processor to what deploys them: a test is about neither's speed.
        "model_server_resources": {"nice": 10},
    }
    hosts.groups = with_gateway()
    hosts.profile("one", Q2)
    hosts.profile("two", Q2, {"model": Q3, "aliases": ["chat"]})
    yield hosts
    hosts.groups = {}
    hosts.variables = {}


def served(fleet: Fleet, model: str) -> int:
    """Return the status of a chat through the gateway."""
    question = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "model": model}
    return fleet.get("host1", PORT, "/v1/chat/completions", question)[0]


def greeted(fleet: Fleet, host: str) -> bool:
    """Whether the SSH server of a host answers."""
    address = fleet.hosts[host]["ansible_host"], fleet.hosts[host].get("ansible_port", 22)
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=5) as connection:
        return connection.recv(4) == b"SSH-"
    return False


def names(fleet: Fleet, host: str = "host1") -> list[str]:
    return [item["id"] for item in fleet.get(host, PORT, "/v1/models")[1]["data"]]


def inventory(fleet: Fleet) -> tuple[str, str]:
    """Return the argument for magi that is the last run's inventory."""
    return "-i", str(max(fleet.folder.glob("run-*.json"), key=lambda path: path.stat().st_mtime))


def logged(fleet: Fleet, host: str = "host1") -> list[dict[str, Any]]:
    """Return what the gateway of a host has logged of requests."""
    lines = fleet.sh(host, f"journalctl --quiet --output=cat --unit={UNIT}").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def well(fleet: Fleet) -> None:
    """Assert that each server of the last report answers as itself, and each model through the gateway."""
    servers = fleet.report()["servers"]
    assert len(servers) == len(fleet.pids())
    assert {fleet.ask(item["host"], item["port"])[0] == item["model_id"] for item in servers} == {True}
    assert {served(fleet, item["model_id"]) for item in servers} == {200}


def fine(fleet: Fleet, host: str, earlier: int) -> None:
    """Assert that the gateway itself, too, saw each request since then end as it should."""
    ends = {(item["status"], item["ended"]) for item in logged(fleet, host)[earlier:]}
    assert ends <= {(200, "--"), (200, "LR")}  # the second is what it answers itself


class Talk(threading.Thread):
    """A long answer of ``model`` through the gateway, streamed."""

    def __init__(self, fleet: Fleet, model: str, tokens: int):
        super().__init__(daemon=True)
        self.connection = http.client.HTTPConnection(fleet.hosts["host1"]["ansible_host"], PORT, timeout=120)
        self.model, self.tokens, self.wrong = model, tokens, "it has not ended"
        self.start()

    def run(self) -> None:
        self.wrong = ask_once(self.connection, self.model, stream=True, tokens=self.tokens)


def test_a_gateway_for_several_hosts(behind: Fleet, tmp_path: Path):
    """From a host without HAProxy to one address, beside the distribution's own service."""
    fleet, limit = behind, LIMIT
    fleet.sh("host1", "DEBIAN_FRONTEND=noninteractive apt-get purge -qy haproxy >/dev/null; rm -rf /etc/haproxy")
    run = fleet.deploy("one", *limit)
    assert run.code == 0, run.output
    (entry,) = fleet.report()["gateways"]
    assert (entry["host"], entry["is_ready"], entry["names"]) == ("host1", True, [Q2])
    assert [(item["name"], item["by"], item["status"]) for item in entry["asked"]] == [(Q2, "controller", 200)]
    assert names(fleet) == [Q2]
    servers = fleet.sh("host1", "grep '^    server ' /etc/magi-gateway/current/haproxy.cfg").split("\n")
    assert [line.split()[1] for line in servers if line and " itself " not in line] == [f"host1::{Q2}", f"host2::{Q2}"]
    assert {served(fleet, Q2) for _ in range(4)} == {200}

    # hardened, and apart from the distribution's
    scored = fleet.sh("host1", f"systemd-analyze security --no-pager {UNIT}")
    exposure = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", scored)
    assert exposure, scored
    assert float(exposure[1]) <= 1.5, scored
    assert fleet.sh("host1", f"{VERIFY} {UNIT}", check=False) == ""
    assert fleet.sh("host1", "systemctl is-active haproxy.service", check=False).strip() != "active"
    assert fleet.sh("host1", "dpkg --verify haproxy", check=False) == ""

    again = fleet.deploy("one", *limit)
    assert (again.code, again.changed) == (0, 0), again.output
    assert "by controller" not in again.output  # without a launch, no client's question

    # what HAProxy refuses never replaces what works; the hosts are deployed all the same
    master = fleet.sh("host1", f"systemctl show --value --property=MainPID {UNIT}")
    shutil.copytree(ROOT / "collections/ansible_collections/magi/models/roles/gateway/templates", tmp_path / "own")
    with (tmp_path / "own" / "haproxy.cfg.j2").open("a") as file:
        file.write("\nbackend broken\n    nonsense here\n")
    variables = fleet.groups["model_gateways"]["vars"]
    variables["model_gateway_templates_dir"] = str(tmp_path / "own")
    refused = fleet.deploy("two", *limit)
    assert refused.code != 0
    assert (
        "Gateway host1: HAProxy (/usr/sbin/haproxy) refuses the configuration, so the one before stays: "
        in refused.text
    )
    assert "unknown keyword 'nonsense'" in refused.text
    assert {instance for _host, instance in fleet.pids()} == {Q2, Q3}
    assert (names(fleet), served(fleet, Q2)) == ([Q2], 200)
    assert fleet.sh("host1", f"systemctl show --value --property=MainPID {UNIT}") == master
    assert fleet.sh("host1", "grep -rl nonsense /etc/magi-gateway", check=False) == ""

    # killed, it is back with the same routes
    fleet.sh("host1", f"kill -9 {master}")
    process = f"systemctl show --value --property=MainPID {UNIT}"
    until(lambda: fleet.sh("host1", process).strip() not in ("0", master.strip()), 10, "another process of the gateway")
    until(lambda: served(fleet, Q2) == 200, 10, "an answer after the gateway was killed")
    assert names(fleet) == [Q2]
    ended, began = (
        int(fleet.sh("host1", f"systemctl show --value --property={when}EnterTimestampMonotonic {UNIT}"))
        for when in ("Inactive", "Active")
    )
    assert 0 < began - ended < 2_000_000  # microseconds, by systemd's own clock
    master = fleet.sh("host1", process)
    del variables["model_gateway_templates_dir"]

    # a reload keeps the process and takes new routes
    run = fleet.deploy("two", *limit)
    assert run.code == 0, run.output
    assert sorted(names(fleet)) == sorted([Q2, Q3, "chat"])
    assert [served(fleet, name) for name in (Q2, Q3, "chat", "other")] == [200, 200, 200, 404]
    assert fleet.sh("host1", f"systemctl show --value --property=MainPID {UNIT}") == master
    status = fleet.play("status", *limit)
    shown = re.split(rf"Gateway host1: http://\S+:{PORT}/v1", status.output)[1]
    for host in ("host1", "host2"):
        assert re.search(rf"{re.escape(Q3)}, chat +{host} +{re.escape(Q3)} +up", shown), status.output

    well = fleet.play("health", *limit, deep=True)
    assert (well.code, well.changed) == (0, 0), well.output
    answer = Ran(begin(tmp_path, "ask", "chat", "Hello", "--max-tokens", "4", "--json", *inventory(fleet), *limit))
    assert (answer.code, answer.document["gateway"], answer.document["tokens"]) == (0, "host1", 4), answer.err
    routed = Ran(begin(tmp_path, "routes", "--json", *inventory(fleet), *limit)).document["gateways"][0]["routes"]
    assert [[server["host"] for server in route["servers"]] for route in routed] == [["host1", "host2"]] * 2

    bodies_of_all_kinds_reach_their_model_or_none(fleet)
    only_the_streams_of_a_killed_server_end(fleet)
    reloads_cut_no_stream(fleet)

    # what a host serves that this run leaves out is remembered
    run = fleet.deploy("one", "--limit", "host1")
    assert run.code == 0, run.output
    assert sorted(names(fleet)) == sorted([Q2, Q3, "chat"])
    assert served(fleet, "chat") == 200


def bodies_of_all_kinds_reach_their_model_or_none(fleet: Fleet) -> None:
    where, earlier = fleet.hosts["host1"]["ansible_host"], len(logged(fleet))
    last = json.dumps({"prompt": "Hello", "max_tokens": 2, "user": "x" * 10_000_000, "model": Q3}).encode()
    form = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n%s\r\n--x--\r\n' % Q2.encode()
    kind = {"Content-Type": "multipart/form-data; boundary=x"}

    def ask(path: str, body: Any, **headers: str) -> tuple[int, Any]:
        with contextlib.closing(http.client.HTTPConnection(where, PORT, timeout=60)) as connection:
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def asked_first() -> tuple[int, Any]:
        """Send the body once the gateway has said that it wants it."""
        with contextlib.closing(socket.create_connection((where, PORT), 60)) as connection:
            head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(last)}\r\nExpect: 100-continue\r\n\r\n"
            connection.sendall(head.encode())
            assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
            connection.sendall(last)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            return answer.status, json.loads(answer.read())

    pieces = (last[place : place + 100_000] for place in range(0, len(last), 100_000))
    for status, answer in (ask("/v1/completions", last), ask("/v1/completions", pieces), asked_first()):
        assert (status, answer["model"]) == (200, "chat")  # the first of its names
    missing = ask("/v1/audio/transcriptions", form, **kind)
    assert (missing[0], missing[1]["error"]["code"]) == (400, "model_missing")
    ask(f"/models/{Q3}/v1/audio/transcriptions", form, **kind)  # which its server can't do
    lines = logged(fleet)[earlier:]
    assert [item["server"].partition("::")[2] for item in lines] == [Q3, Q3, Q3, "", Q3], lines


def only_the_streams_of_a_killed_server_end(fleet: Fleet) -> None:
    earlier = len(logged(fleet))
    servers = {item["host"]: item for item in fleet.report()["servers"] if item["model_id"] == Q2}
    talks = [Talk(fleet, Q2, tokens=600) for _number in range(4)]  # one conversation, more than its server should have
    until(
        lambda: (
            all(fleet.busy(host, server["port"]) for host, server in servers.items())
            and sum(fleet.busy(host, server["port"]) for host, server in servers.items()) == len(talks)
        ),
        30,
        "both servers work",
    )
    fleet.sh("host1", f"kill -9 {servers['host1']['pid']}")
    for talk in talks:
        talk.join()
    lines = logged(fleet)[earlier:]
    cut = [item for item in lines if item["ended"] != "--"]
    assert {item["server"].partition("::")[0] for item in cut} == {"host1"}
    assert {item["server"].partition("::")[0] for item in lines if item not in cut} == {"host2"}
    assert len(cut) == len([talk for talk in talks if talk.wrong])
    until(lambda: fleet.get("host1", servers["host1"]["port"], "/health")[0] == 200, 30, "the killed server is back")


STREAMS = r"""
import asyncio
ended = asyncio.Event()

async def answer(reader, writer):
    head = await reader.readuntil(b"\r\n\r\n")
    if head.startswith(b"GET /end "):
        ended.set()
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nbegun\n\r\n")
    await ended.wait()
    writer.write(b"6\r\nwhole\n\r\n0\r\n\r\n")
    await writer.drain()
    writer.close()

async def main():
    async with await asyncio.start_server(answer, "127.0.0.1", 9123, backlog=1000):
        await ended.wait()
        await asyncio.sleep(5)

asyncio.run(main())
"""
"""A program that has as many streams as anybody likes, of which none ends before all do."""


TELL = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.sendall(sys.stdin.buffer.read())
print(connection.recv(1000).decode())
"""


def reloads_cut_no_stream(fleet: Fleet) -> None:
    """Five reloads of the unit with 500 live streams, more than the servers of a test could give."""
    place = f"{Q2}/host1::{Q2}"
    subprocess.run(
        ["docker", "exec", "--detach", fleet.hosts["host1"]["testbed_container"], "python3", "-c", STREAMS], check=True
    )
    path = fleet.sh("host1", "awk '/stats socket/ {print $3}' /etc/magi-gateway/current/haproxy.cfg").strip()
    for command in (
        f"set maxconn server {place} 600",
        f"set server {place} addr 127.0.0.1 port 9123",
        f"set server {Q2}/host2::{Q2} state drain",
    ):
        said = fleet.sh("host1", f"python3 -c '{TELL}' {path}", stdin=f"{command}\n").strip()
        assert not said or "changed from" in said, said
    master = fleet.sh("host1", f"systemctl show --value --property=MainPID {UNIT}").strip()

    def workers() -> set[str]:
        return {*fleet.sh("host1", f"pgrep -P {master}").split()}

    async def stream() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(fleet.hosts["host1"]["ansible_host"], PORT)
        body = json.dumps({"model": Q2, "stream": True}).encode()
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await reader.readuntil(b"begun\n")
        return reader, writer

    async def whole() -> int:
        streams = await asyncio.gather(*(stream() for _number in range(500)))
        for _number in range(5):
            before = workers()
            fleet.sh("host1", f"systemctl reload {UNIT}")
            until(lambda before=before: workers() - before, 20, "a new process takes over")
        fleet.sh("host1", "python3 -c 'import urllib.request as u; u.urlopen(\"http://127.0.0.1:9123/end\").read()'")
        ends = await asyncio.gather(*(reader.readuntil(b"whole\n\r\n0\r\n\r\n") for reader, _writer in streams))
        for _reader, writer in streams:
            writer.close()
        return len(ends)

    assert asyncio.run(whole()) == 500
    until(lambda: len(workers()) == 1, 30, "the processes of before end")


def test_what_happens_to_all_servers_of_a_model_loses_no_request(behind: Fleet, tmp_path: Path):
    """Servers on two hosts change, are upgraded, go and come, and their host reboots; thirty clients of two gateways,
    one of which is no host of servers, notice nothing."""
    fleet = behind
    gateways = {host: fleet.hosts[host]["ansible_host"] for host in ("host1", "host3")}
    fleet.groups = with_gateway(host3={**fleet.group_vars, **fleet.hosts["host3"]})
    fleet.variables["model_server_stop_timeout"] = 60
    fleet.variables["model_server_port_range"] = [8080, 8082]  # no room for a stand-in
    two = {host: fleet.hosts[host] for host in ("host1", "host2")}
    changed = {"ctx_size": 1024}
    chat, single = {"model": Q3, "aliases": ["chat"]}, {"model": Q41, "replicas": 1}
    fleet.profile("development", Q2, chat, single)
    run = fleet.deploy("development", hosts=two)
    assert run.code == 0, run.output
    earlier = {host: len(logged(fleet, host)) for host in gateways}
    fleet.profile("development", Q2, chat, single, options=changed)
    fleet.profile("production", chat, single, options=changed)
    fleet.profile("fast-only", Q2, single, options=changed)
    for host in ("host1", "host2"):
        fleet.sh(host, f"cp -a {fleet.group_vars['model_server_llama_server_path'].rpartition('/')[0]} /opt/upgraded")
    asking = {
        host: Clients(where, PORT, [Q2, Q3, Q41], count=count, pause=4, says={Q3: "chat"})
        for (host, where), count in zip(gateways.items(), (18, 12))
    }
    with asking["host1"], asking["host3"]:

        def deploy(profile: str, *asked: str, goes: str = "") -> Run:
            """Deploy while clients ask for these models, and one still gets a long answer of what ``goes``."""
            for clients in asking.values():
                clients.names = asked
            run, talk = fleet.start("site", hosts=two, profile=profile), None
            if goes:
                until(lambda: "[4/5] Launching servers" in run.output, 120, "servers are launched")
                talk = Talk(fleet, goes, tokens=400)
                until(lambda: LEAVES in run.output, 120, "requests are taken from what goes")
                assert talk.is_alive()
            done = run.finish()
            assert done.code == 0, done.output
            assert not UNQUIET.search(done.text), done.output
            if talk:
                talk.join()
                assert talk.wrong is None
            return done

        run = deploy("development", Q2, Q3, Q41)
        assert f"host1: clients of {Q2}: drained, while host2 serves its model" in run.output
        assert f"host2: clients of {Q3}: drained, while host1 serves its model" in run.output
        held = "held: nothing else serves its model; no stand-in: no port of the range is free"
        assert f"clients of {Q41}: {held}" in run.output

        # from profile to profile, and to another llama-server at the same time; what its clients still stream ends whole
        fleet.variables["model_server_llama_server_path"] = "/opt/upgraded/llama-server"
        run = deploy("production", Q3, Q41, goes=Q2)
        assert f"host1: clients of {Q2}: drained, then forgotten: nothing else serves its model" in run.output
        for host, other in (("host1", "host2"), ("host2", "host1")):
            assert f"{host}: clients of {Q3}: drained, while {other} serves its model" in run.output
        programs = {fleet.sh(host, f"readlink /proc/{pid}/exe").strip() for (host, _name), pid in fleet.pids().items()}
        assert programs == {"/opt/upgraded/llama-server"}
        assert sorted(names(fleet)) == sorted([Q3, "chat", Q41])
        deploy("fast-only", Q41, goes="chat")
        for host in gateways:
            assert sorted(names(fleet, host)) == sorted([Q2, Q41])
        deploy("development", Q41, Q2)
        again = deploy("development", Q2, Q3, Q41)
        assert again.changed == 0, again.output
    for host, clients in asking.items():
        assert clients.wrong == []
        assert min(clients.answered[model] for model in (Q2, Q3, Q41)) > 15
        fine(fleet, host, earlier[host])
        assert {item["model"] for item in logged(fleet, host)[earlier[host] :] if item["held"]} == {Q41}

    # a host that is stopped before it reboots has no clients any more, and they come back with it
    ports = [item["port"] for item in fleet.report()["servers"] if item["host"] == "host2" and item["model_id"] != Q41]
    asking = {
        host: Clients(where, PORT, [Q2, Q3], count=8, pause=0.2, says={Q3: "chat"}) for host, where in gateways.items()
    }
    with asking["host1"], asking["host3"]:
        until(lambda: all(fleet.busy("host2", port) for port in ports), 30, "both servers of host2 work")
        stopped = Ran(begin(tmp_path, "stop", "--limit", "host2", *inventory(fleet)))
        assert stopped.code == 0, stopped.err
        assert not UNQUIET.search(stopped.err), stopped.err
        fleet.sh("host2", "systemctl reboot", check=False)
        until(lambda: not any(fleet.get("host2", port, "/health")[0] for port in ports), 60, "host2 is down")
        until(lambda: all(fleet.busy("host2", port) for port in ports), 120, "both servers of host2 work again")
    for host, clients in asking.items():
        assert clients.wrong == []
        assert min(clients.answered[Q2], clients.answered[Q3]) > 15
        fine(fleet, host, earlier[host])


def test_a_replica_moves_when_its_host_is_gone_and_stays_when_that_is_back(behind: Fleet):
    """Two replicas on three hosts, of which one loses its power, and comes back with what it ran."""
    fleet = behind
    where = fleet.hosts["host1"]["ansible_host"]
    three = {host: fleet.hosts[host] for host in HOSTS}
    fleet.profile("replicas", {"model": Q4, "replicas": 2})
    run = fleet.deploy("replicas", hosts=three)
    assert run.code == 0, run.output
    first = fleet.pids()
    kept, lost = sorted(host for host, _instance in first)  # host1 has the gateway
    (free,) = {*HOSTS} - {kept, lost}
    container = fleet.hosts[lost]["testbed_container"]
    port = next(item["port"] for item in fleet.report()["servers"] if item["host"] == lost)
    with Clients(where, PORT, [Q4], count=12, pause=0.5) as clients:
        until(lambda: fleet.busy(lost, port), 30, "the server that is lost works")
        subprocess.run(["docker", "kill", container], check=True, stdout=subprocess.DEVNULL)
        run = fleet.deploy("replicas", hosts=three)
        assert run.code != 0
        assert f"host_unreachable: Host {lost}: it can't be reached" in run.text
        moved = f"{Q4} starts here: moved from {lost}, which can't be reached."
        assert f"Host {free}: {moved}" in fleet.report()["summary"]["warnings"]
        assert fleet.pids().keys() == {(kept, Q4), (free, Q4)}
        assert fleet.pids()[kept, Q4] == first[kept, Q4]
        second = fleet.pids()

        subprocess.run(["docker", "start", container], check=True, stdout=subprocess.DEVNULL)
        until(lambda: fleet.state(lost, Q4) == "active", 60, "its replica runs again")
        until(lambda: greeted(fleet, lost), 60, "SSH answers")
        run = fleet.deploy("replicas", hosts=three)
        assert run.code == 0, run.output
        assert f"stop {Q4}: 2 replicas are enough, on {', '.join(sorted((kept, free)))}" in run.text
    again = fleet.deploy("replicas", hosts=three)
    assert (again.code, again.changed) == (0, 0), again.output
    assert fleet.pids() == second
    ended = [item for item in clients.wrong if item[1] in ("cut", 502) or "IncompleteRead" in str(item[1])]
    assert clients.wrong == ended
    # The server that was lost has four slots, and while it goes, a freed one may be taken once more.
    assert len(ended) <= 8
    assert clients.answered[Q4] > 50


def test_keys_and_a_certificate_on_a_systemd_host(behind: Fleet, tmp_path: Path):
    """The gateway's user exists only while it runs, and reads what belongs to root; nobody else does."""
    fleet, limit = behind, LIMIT
    variables = fleet.groups["model_gateways"]["vars"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-days", "2"]
    subprocess.run([*command, "-keyout", tmp_path / "k", "-out", tmp_path / "c"], check=True, capture_output=True)
    pem = (tmp_path / "c").read_text() + (tmp_path / "k").read_text()
    fleet.sh("host1", "umask 077; cat >/etc/gateway.pem", stdin=pem)
    fleet.sh("host1", "umask 077; cat >/etc/servers-key; rm -f /etc/magi-gateway-keys", stdin="canary-server-key\n")
    variables.update(
        model_gateway_keys_file="/etc/magi-gateway-keys",
        model_gateway_backend_key_file="/etc/servers-key",
        model_gateway_tls_certificate="/etc/gateway.pem",
    )
    run = fleet.deploy("two", *limit)
    assert run.code == 0, run.output
    (entry,) = fleet.report()["gateways"]
    assert (entry["is_ready"], entry["asks_key"], entry["url"].partition(":")[0]) == (True, True, "https"), entry
    master = fleet.sh("host1", f"systemctl show --value --property=MainPID {UNIT}")

    def status(key: str, model: str = Q2, **headers: str) -> int:
        trusted = ssl._create_unverified_context()
        where = fleet.hosts["host1"]["ansible_host"]
        with contextlib.closing(http.client.HTTPSConnection(where, PORT, timeout=60, context=trusted)) as connection:
            body = json.dumps({"prompt": "Hello", "max_tokens": 4, "model": model}, ensure_ascii=False)
            connection.request("POST", "/v1/completions", body.encode(), {"Authorization": f"Bearer {key}", **headers})
            return connection.getresponse().status

    def raw(authorization: str, model: str, path: str = "/v1/completions") -> int:
        """Ask with a header as it stands, which http.client would not send."""
        body = json.dumps({"prompt": "Hello", "max_tokens": 1, "model": model}, ensure_ascii=False).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        plain = socket.create_connection((fleet.hosts["host1"]["ansible_host"], PORT), 60)
        with ssl._create_unverified_context().wrap_socket(plain) as connection:
            connection.sendall(head.encode() + body)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            return answer.status

    def key(**given: str) -> None:
        done = fleet.play("keys", "--limit", "host1", model_gateway_key=given)
        assert done.code == 0, done.output

    assert status("one") == 401
    key(state="present", name="one", digest=hashlib.sha256(b"one").hexdigest())
    assert (status("one"), status("two")) == (200, 401)
    key(state="absent", name="one")
    assert status("one") == 401
    key(state="present", name="two", digest=hashlib.sha256(b"two").hexdigest())
    assert status("two") == 200
    assert fleet.sh("host1", f"systemctl show --value --property=MainPID {UNIT}") == master
    again = fleet.deploy("two", *limit)
    assert (again.code, again.changed) == (0, 0), again.output

    # what hostile clients send gets in nobody's way: not into the configuration, nor the maps, nor another line of the log
    earlier, digest = len(logged(fleet)), "find /etc/magi-gateway -type f | sort | xargs sha256sum"
    files, sent = fleet.sh("host1", digest), 0
    hostile = ('"', "%[env(HOME)]", '{"a":"b"}\\', "\xe9\xff", "two\t x", "${MAGI_SECRETS}", "' ; echo")
    for text in hostile:
        assert (status(text), status(f"two{text}")) == (401, 401)
        assert (status("two", text), status("two", f"{text}\n\r")) == (404, 404)
        assert status("two", **{"X-Magi-Backend": text, "X-Magi-Server": text, "User-Agent": text}) == 200
        assert raw(f"Bearer two\r\nX-Name: {text}\N{GRINNING FACE}", Q2) == 200
        assert raw(f"Bearer {text}\N{GRINNING FACE}", Q2) == 401
        assert raw("Bearer two", f"{text}\N{GRINNING FACE}") == 404
        assert raw("Bearer two", Q2, f"/models/{quote(text)}/v1/completions") == 404
        sent += 9
    assert (status("x" * 100_000), status("two", "x" * 100_000)) == (431, 404)
    assert status("two", **{"User-Agent": "x" * 100_000}) == 431
    assert raw("Bearer two\nBearer one", Q2) == raw("Bearer two\r\nX: y\rz", Q2) == 400
    lines = logged(fleet)[earlier:]
    assert len(lines) == sent + 5
    assert {item["key"] for item in lines} == {"-", "two"}
    assert {*hostile, *(f"{text}\n\r" for text in hostile)} <= {item["model"] for item in lines}
    assert {item["server"].partition("::")[2] for item in lines if item["status"] == 200} == {Q2}
    assert fleet.sh("host1", digest) == files

    # after a restart, as after that of the host, it has all it needs
    fleet.sh("host1", f"systemctl restart {UNIT}")
    assert status("two") == 200
    files = "/etc/magi-gateway/secrets/keys.map /run/magi-gateway/secrets/tls.pem /run/magi-gateway/secrets/backend.map"
    for path in files.split():
        assert fleet.sh("host1", f"cat {path}")
        assert fleet.sh("host1", f"setpriv --reuid=65534 --clear-groups cat {path}", check=False) == ""
    assert fleet.sh("host1", f"{VERIFY} {UNIT}", check=False) == ""
    printed = fleet.sh("host1", f"journalctl --quiet --output=cat --unit={UNIT}; cat /etc/magi-gateway/current/*")
    for secret in ("canary", "PRIVATE KEY", hashlib.sha256(b"two").hexdigest()):
        assert secret not in printed + run.output

    # without them, their copies are gone, too
    for name in ("keys_file", "backend_key_file", "tls_certificate"):
        del variables[f"model_gateway_{name}"]
    run = fleet.deploy("one", *limit)
    assert run.code == 0, run.output
    assert served(fleet, Q2) == 200
    assert fleet.sh("host1", "ls -d /etc/magi-gateway/secrets /run/magi-gateway/secrets", check=False) == ""
    gone = fleet.play("teardown", *limit)
    assert gone.code == 0, gone.output
    left = "ls -d /etc/magi-gateway /run/magi-gateway; find /etc/systemd/system -name '*magi-gateway*'"
    assert fleet.sh("host1", left, check=False) == ""
    assert fleet.get("host1", PORT, "/health")[0] == 0
    assert fleet.play("teardown", *limit).changed == 0
    assert fleet.sh("host1", "ls /etc/magi-gateway-keys")  # it belongs to whoever runs the gateway
    fleet.sh("host1", "rm /etc/magi-gateway-keys /etc/gateway.pem /etc/servers-key")


def test_what_did_badly_is_taken_back_where_it_came_to(behind: Fleet, tmp_path: Path):
    """A deployment that fails halfway, by a rollback; canaries that do worse, by themselves."""
    fleet, limit = behind, LIMIT

    def made() -> dict[str, str]:
        """Return what makes the servers of each host, and its gateway."""
        files = "/etc/magi/instances/*.env /etc/systemd/system/magi-llama* /etc/magi-gateway/current/*"
        look = f"cd /; for x in {files}; do [ -f $x ] && echo $x && cat $x; done; systemctl is-active 'magi-llama@*' || true"
        return {host: fleet.sh(host, look) for host in ("host1", "host2")}

    two = {host: fleet.hosts[host] for host in ("host1", "host2")}
    fleet.profile("pair", Q2, Q3)
    fleet.variables["model_server_serial"] = [1]
    assert fleet.deploy("pair", *limit).code == 0
    before = made()

    # a good one, with other settings of the gateway
    fleet.profile("good", Q2, Q3, options={"ctx_size": 512})
    fleet.groups["model_gateways"]["vars"]["model_gateway_queue"] = 11
    assert fleet.deploy("good", *limit).code == 0
    assert [before[host] == now for host, now in made().items()] == [False, False]
    back = fleet.play("rollback", *limit)
    assert back.code == 0, back.output
    assert made() == before
    well(fleet)
    pids = fleet.pids()
    more = fleet.play("rollback", *limit)
    assert more.code == 2, more.output
    for host in ("host1", "host2"):
        assert f"Host {host}: there is no generation before this one (profile pair, " in more.output
    assert made() == before
    del fleet.groups["model_gateways"]["vars"]["model_gateway_queue"]

    # one that went well on the first host alone
    fleet.profile("half", {"model": Q2, "options": {"ctx_size": 1024}}, Q3)
    broken = {**two, "host2": {**two["host2"], "model_server_options": {"lora": "/nowhere.gguf"}}}
    half = fleet.deploy("half", *limit, hosts=broken)
    assert {host for host, _name in fleet.pids()} == {"host1"}, half.output
    assert [before[host] == now for host, now in made().items()] == [False, False]
    back = fleet.play("rollback", *limit)
    assert back.code == 0, back.output
    assert made() == before
    again = fleet.pids()
    assert {whose for whose in pids if pids[whose] == again[whose]} == {("host1", Q3)}  # which nobody touched
    well(fleet)
    assert fleet.sh("host1", "stat -c %a /etc/magi/generations/*.json | sort -u") == "600\n"

    # a canary that answers garbage, and that is asked for by magi
    del fleet.variables["model_server_serial"]

    def canary(bake: int, **more: Any) -> None:
        fleet.profile("canary", {"model": Q2, **more}, Q3, rollout={"canary": 1, "bake": bake})

    def taken_back(said: str, run: Run | Ran) -> None:
        output = run.output if isinstance(run, Run) else run.out + run.err
        assert re.search(rf"Host host1: {said}.*; what it ran before is back", output), output
        assert "Host host2: not deployed, because in an earlier batch host1 failed: " in output
        assert made() == before
        now = fleet.pids()
        assert {whose for whose in again if again[whose] == now[whose]} == {*again} - {("host1", Q2)}
        well(fleet)

    canary(1, options={"rope_freq_scale": 50})
    ran = Ran(begin(tmp_path, "up", "canary", "--json", *inventory(fleet), *limit))
    assert ran.code == 1, ran.err
    taken_back(f"instance {Q2}: it was asked for some words and repeated itself", ran)

    # one that crashes after a while
    canary(8, options={"ctx_size": 1024})
    crashing = fleet.start("site", *limit, profile="canary")
    until(lambda: "canary: for a while" in crashing.output, 120, "the canary is watched")
    fleet.sh("host1", f"sleep 3; systemctl kill --signal=KILL magi-llama@{Q2}.service")
    crashed = crashing.finish()
    assert crashed.code == 2, crashed.output
    taken_back(f"instance {Q2} crashed while it was watched", crashed)

    # one that is slow: it has a hundredth of a processor while it is watched (by clients without streams, which begin at once)
    canary(12, options={"ctx_size": 1024})
    unit = f"magi-llama@{Q2}.service"
    slow = fleet.start("site", *limit, profile="canary")
    until(lambda: "canary: for a while" in slow.output, 120, "the canary is watched")
    fleet.sh("host1", f"systemctl set-property --runtime {unit} CPUQuota=1%")
    with Clients(fleet.hosts["host1"]["ansible_host"], PORT, [Q2] * 8, count=8, pause=0.2) as clients:
        until(lambda: "canary: some tokens of each" in slow.output, 120, "the end of the watch")
        fleet.sh("host1", f"systemctl set-property --runtime {unit} CPUQuota=")
        slowed = slow.finish()
    assert slowed.code == 2, slowed.output
    taken_back(rf"instance {Q2}: its answers began after [\d.]+ s( or later)?, and those of the other servers", slowed)
    assert clients.wrong == []
