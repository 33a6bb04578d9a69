"""magi with real servers: each exit code, what goes to which output, signals, secrets, and the API for programs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import stat
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from magi import Controller
from magi.errors import DeploymentFailed, HostUnreachable, ProfileError

from ..command import Ran, at_work, begin, nobody_s
from ..playbook import clean_environment, copy_profiles
from ..waiting import until
from .conftest import ROOT, Deployment, ask, ports

pytestmark = pytest.mark.e2e

Q2, Q3 = (f"smollm2-135m-instruct.{q}" for q in ("q2_k", "q3_k_m"))
PORTS, OTHER = ports(18120), ports(18160)
GONE = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}


def state(deployment: Deployment) -> Path:
    """Return where magi keeps what it remembers."""
    return deployment.folder / "state"


def magi(deployment: Deployment, verb: str, *arguments: str, **more: Any) -> Ran:
    return Ran(begin(state(deployment), verb, *arguments, "-i", str(deployment.inventory()), **more))


@pytest.fixture
def two(deployment: Deployment) -> Deployment:
    """A deployment of two models, on ports of its own."""
    deployment.variables["model_server_port_range"] = PORTS
    deployment.add_model("Q2_K")
    deployment.add_model("Q3_K_M")
    return deployment


CANARIES = {"LLAMA_API_KEY": "canary-of-a-key", "HF_TOKEN": "canary-of-a-token"}
GIVEN = "canary-of-a-variable"


def secrets_in(*texts: str) -> list[str]:
    return [canary for canary in (*CANARIES.values(), GIVEN) for text in texts if canary in text]


def secrets_below(folder: Path) -> list[str]:
    texts = []
    for path in folder.rglob("*"):
        with suppress(OSError):  # removed at this moment, or a socket
            texts.append(path.read_bytes().decode(errors="replace"))
    return secrets_in(*texts)


def test_from_a_plan_to_the_end(two: Deployment):
    """Programs get their document and nothing else; no secret of the environment or the command line is kept."""
    unnamed = dict.fromkeys(("USER", "LOGNAME", "LNAME", "USERNAME"), "")
    bare = magi(two, "plan", "--json", within=nobody_s(), LANG="C", LC_ALL="C", **unnamed)
    assert bare.code == 4, bare.err
    assert bare.document["changes"] == 2
    assert [item["action"] for item in bare.document["hosts"]["localhost"]["actions"]] == ["start", "start"]
    verbose = magi(two, "config", "-vvvv", "-e", f"a_secret={GIVEN}")
    assert verbose.code == 0, verbose.err
    (output,) = (state(two) / "magi" / "runs").glob("*-config-*/output.log")
    assert "extra_vars: …" in output.read_text()
    assert secrets_below(state(two)) + secrets_in(verbose.out, verbose.err) == []
    looked = magi(two, "up", "--check")
    assert looked.code == 0, looked.err
    assert "2 to change: run magi up." in looked.err
    assert two.tree() == {}

    process = begin(
        state(two), "up", "development", "--json", "-i", str(two.inventory()), "-e", f"a_secret={GIVEN}", **CANARIES
    )  # fmt: skip
    seen = []
    until(lambda: seen.extend(secrets_below(state(two))) or process.poll() is not None, 120, "magi ends")
    up = Ran(process)
    assert up.code == 0, up.err
    assert up.document == two.report()
    assert up.document["ready_servers"] == 2
    assert re.findall(r"^\[\d/5\] .*$", up.err, re.MULTILINE) == [
        "[1/5] Model discovery",
        "[2/5] Loading profile",
        "[3/5] Filtering enabled models",
        "[4/5] Launching servers",
        "[5/5] Health check",
    ]
    assert "\x1b" not in up.out + up.err
    assert seen + secrets_below(two.folder) + secrets_in(up.out, up.err) == []
    assert ask(PORTS[0]).strip()

    for folder in (state(two) / "magi" / "runs").iterdir():
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert [path.name for path in folder.iterdir()] == ["output.log"]
        assert stat.S_IMODE((folder / "output.log").stat().st_mode) == 0o600

    same = magi(two, "plan", "--markdown")
    assert same.code == 0, same.err
    assert same.out.startswith("### magi plan: profile `development`\n\n0 to change")
    status = magi(two, "status", "--json")
    assert status.code == 0, status.err
    assert [(s["instance"], s["port"], s["is_ready"]) for s in status.document["servers"]] == [
        (Q2, PORTS[0], True),
        (Q3, PORTS[0] + 1, True),
    ]
    option = {"model_server_options": {"hf_token": CANARIES["HF_TOKEN"]}}
    assert magi(two, "discover", "-e", json.dumps(option)).code == 0
    assert "hf_token" in "".join(path.read_text() for path in state(two).rglob("catalogs/*"))
    assert secrets_below(state(two)) == []
    stopped = magi(two, "stop", Q3, "--json")
    assert stopped.code == 0, stopped.err
    assert [item["instance"] for item in stopped.document["hosts"]["localhost"]] == [Q3]
    assert magi(two, "status", "--json").code == 3
    down = magi(two, "down", "--json")
    assert down.code == 0, down.err
    assert {item["instance"] for item in down.document["hosts"]["localhost"]} == {Q2, Q3}
    assert at_work(state(two)) == []


def test_what_is_not_ready_or_not_there(two: Deployment):
    two.add_profile("p", Q2, {"model": Q3, "options": {"cache_type_v": "q4_0", "flash_attn": False}})
    junit = two.folder / "junit.xml"
    degraded = magi(two, "up", "p", "--json", "--junit", str(junit))
    assert degraded.code == 3, degraded.err
    assert [item["cause"] for item in degraded.document["summary"]["failed"]] == ["bad_option"]
    suite = ElementTree.parse(junit).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    strict = magi(two, "up", "p", "--strict")
    assert strict.code == 1
    assert "strict is set and the deployment is degraded" in strict.sentence

    missing = magi(two, "up", "nope", "--json")
    assert missing.code == 2
    assert "Profile nope not found" in missing.document["error"]["message"]
    assert missing.document["error"]["message"] == missing.sentence

    two.add_profile("sise", Q2, options={"ctx_sise": 512})
    for verb in ("up", "plan"):
        unknown = magi(two, verb, "sise", "--json")
        assert unknown.code == 2, unknown.err
        assert "has no option ctx_sise; did you mean ctx_size?" in unknown.document["error"]["message"]

    two.hosts["gone"] = GONE
    two.add_profile("q", Q2)
    lost = magi(two, "up", "q", "--json", "--junit", str(junit))
    assert lost.code == 5, lost.err
    assert "Host gone" in lost.sentence
    # Ansible says the second if ssh ends before it was sent all.
    assert re.search("Connection refused|Broken pipe", lost.sentence)
    assert [(s["host"], s["is_ready"]) for s in lost.document["servers"]] == [("localhost", True)]
    assert 'classname="gone"' in junit.read_text()
    alone = magi(two, "status", "--limit", "gone", "--json")
    assert alone.code == 5
    assert "Connection refused" in alone.document["error"]["message"]
    del two.hosts["gone"]


def test_parts_of_a_deployment(two: Deployment):
    """Each tag runs what the documents say, and the parts that this needs."""
    played = two.play("site", "--tags", "plan")
    assert played.code == 0, played.output
    assert "localhost: 2 models discovered, 2 enabled: start 2" in played.output
    steps = re.findall(r"^TASK \[.*(\[\d/5\] [^:\]]*)", played.output, re.MULTILINE)
    assert steps == [
        "[1/5] Model discovery",
        "[2/5] Loading profile",
        "[3/5] Filtering enabled models",
        "[3/5] Filtering enabled models",
    ]
    assert not two.home.exists()
    planned = magi(two, "up", "--tags", "plan", "--json")
    assert (planned.code, planned.document["tags"], planned.document["changes"]) == (0, "plan", 2)
    discovered = magi(two, "up", "--tags", "discover")
    assert (discovered.code, "there is no report" in discovered.err) == (0, True), discovered.err
    nothing = magi(two, "up", "--tags", "health", "--json")
    assert (nothing.code, nothing.document["ready_servers"]) == (1, 0), nothing.err
    unknown = magi(two, "up", "--tags", "x", "--json")
    assert unknown.code == 2
    assert unknown.sentence == "--tags: no task has the tag x; there are discover, health, launch, plan."

    launched = magi(two, "up", "--tags", "launch", "--json")
    assert (launched.code, launched.document["ready_servers"]) == (0, 2), launched.err
    report = two.report()
    assert magi(two, "up", "--tags", "plan", "--json").document["changes"] == 0
    assert two.report() == report
    pids = {name: server["pid"] for name, server in two.servers().items()}
    health = magi(two, "up", "--tags", "health", "--json")
    assert (health.code, health.document["ready_servers"]) == (0, 2), health.err
    assert {name: server["pid"] for name, server in two.servers().items()} == pids


def test_a_setting_that_is_wrong_for_one_host_hides_nothing(two: Deployment):
    two.hosts["other"] = {"model_server_max_startup_time": "soon"}
    run = magi(two, "up", "fast-only", "--json")
    looks = {verb: magi(two, verb, "--json") for verb in ("status", "discover", "config")}
    del two.hosts["other"]
    for look in (run, *looks.values()):
        assert look.code == 1, look.err
        assert look.sentence.startswith("Host other: ")
        assert "model_server_max_startup_time must be a whole number" in look.sentence
    for shown in (run, looks["status"]):
        assert [server["instance"] for server in shown.document["servers"] if server["is_ready"]] == [Q2]
    for verb in ("discover", "config"):
        assert list(looks[verb].document["hosts"]) == ["localhost"]


def test_nothing_to_work_on_is_one_sentence(two: Deployment):
    path, broken = two.folder / "given.yml", two.folder / "broken"
    broken.mkdir()
    (broken / "a.yml").write_text(two.inventory().read_text())
    (broken / "b.yml").write_text("all: [")
    for arguments, inventory, said in (
        (
            ["--limit", "nobody"],
            two.inventory().read_text(),
            f"No host to work on: inventory {path} has none in the group model_servers within --limit nobody",
        ),
        (
            ["--limit", "gpu1,nobody"],
            "model_servers: {hosts: {gpu1: {}}}",
            f"--limit gpu1,nobody: nobody is no host or group of inventory {path}; correct it",
        ),
        ([], "all: [", r"The inventory can't be read: .*YAML parsing failed"),
        # If one of several inventory files can't be read, the hosts of the others are not deployed alone.
        (
            ["-i", str(broken)],
            two.inventory().read_text(),
            rf"The inventory can't be read: {broken}/b\.yml \(YAML parsing failed",
        ),
        (
            [],
            "ungrouped:\n  hosts: {gpu1: {}}\n",
            f"No host to work on: inventory {path} has none in the group model_servers",
        ),
    ):
        path.write_text(inventory)
        run = Ran(begin(state(two), "up", "--json", "-i", str(path), *arguments))
        assert run.code == 2, run.err
        assert re.match(said, run.sentence)
        assert run.document == {"error": {"message": run.sentence, "exit_code": 2}}
    assert two.tree() == {}


def test_relative_paths_are_those_of_the_working_directory(two: Deployment):
    """As in ansible-playbook, wherever the project is."""
    (two.folder / "mine.yml").write_text("model_server_stop_timeout: 7\n")
    two.inventory()
    run = Ran(
        begin(
            state(two), "config", "--json", "-e", "@mine.yml",
            cwd=two.folder, MAGI_PROJECT=str(ROOT), ANSIBLE_INVENTORY="inventory.json",
        )
    )  # fmt: skip
    assert run.code == 0, run.err
    assert run.document["hosts"]["localhost"]["stop_timeout"]["value"] == 7
    assert run.document["hosts"]["localhost"]["home"]["value"] == str(two.home)


def test_playbooks_without_a_collection_or_a_profile_are_somebody_elses(tmp_path: Path):
    project = tmp_path / "project"
    project.mkdir()
    for name in ("playbooks", "ansible.cfg"):
        os.symlink(ROOT / name, project / name)
    run = Ran(begin(tmp_path / "state", "up", "--project", str(project)))
    assert run.code == 2
    assert run.sentence.startswith(f"{project} is not a magi project: make one with magi init")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_a_deployment_cleanly(two: Deployment, number: signal.Signals):
    process = begin(state(two), "up", "-i", str(two.inventory()))
    before = read_until(process, "[4/5]")
    assert at_work(state(two))
    process.send_signal(number)
    run = Ran(process, before)
    assert run.code == 130, run.err
    assert re.fullmatch(
        r"Stopped by a signal: (begun|done) on localhost\. Run it again: it goes on from there\.", run.sentence
    )
    assert at_work(state(two)) == []
    again = magi(two, "up", "--json")
    assert again.code == 0, again.err
    assert again.document["ready_servers"] == 2


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Return what magi tells people, up to a line with ``text``."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


def test_a_killed_magi_leaves_what_the_next_one_repairs(two: Deployment):
    process = begin(state(two), "up", "-i", str(two.inventory()))
    read_until(process, "[4/5]")
    process.kill()
    process.communicate()
    again = magi(two, "up", "--json")
    assert again.code == 0, again.err
    assert again.document["ready_servers"] == 2
    until(lambda: not at_work(state(two)), 30, "nothing of the run is left")


def test_a_dotenv_in_the_working_directory_is_under_the_environment(two: Deployment):
    (two.folder / ".env").write_text("MAGI_PROFILE=fast-only\n")
    given = ["plan", "--json", "-i", str(two.inventory()), "--project", str(ROOT)]
    for more, profile in ({}, "fast-only"), ({"MAGI_PROFILE": "production"}, "production"):
        run = Ran(begin(state(two), *given, cwd=two.folder, MAGI_DOTENV="", **more))
        assert run.code == 4, run.err
        assert run.document["hosts"]["localhost"]["profile"] == profile


# --- for programs --------------------------------------------------------------------------------------------------


@pytest.fixture
def in_process(two: Deployment, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    for name in {*os.environ} - {*clean_environment()}:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(two.folder / "state"))
    return two


def test_a_controller_from_initialize_to_shutdown(in_process: Deployment):
    async def life() -> None:
        controller = Controller(profile="development", inventory=in_process.inventory(), project=ROOT)
        seen = []

        async def listen() -> None:
            async for event in controller.events():
                seen.append(event)

        listener = asyncio.create_task(listen())
        await asyncio.sleep(0)  # it listens
        planned = await controller.plan()
        assert [item["action"] for item in planned["localhost"]["actions"]] == ["start", "start"]

        # Cancelled in the middle: the run leaves nothing behind, and the next one goes on from there.
        work = asyncio.create_task(controller.initialize())
        while not any(event.step == 4 for event in seen):
            await asyncio.sleep(0.02)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert at_work(state(in_process)) == []

        report = await controller.initialize()
        assert (report.ready_servers, report.total_servers, report.is_degraded) == (2, 2, False)
        assert report.summary["profile"] == controller.profile == "development"
        assert controller.enabled_models == (Q2, Q3)
        assert [server.port for server in report.servers] == [PORTS[0], PORTS[0] + 1]
        status = await controller.status()
        assert [server.is_ready for server in status.servers] == [True, True]
        assert not [item for item in (await controller.plan())["localhost"]["actions"] if item["action"] != "keep"]
        await controller.shutdown()
        await asyncio.wait_for(listener, 10)
        assert {event.step for event in seen} == {None, 1, 2, 3, 4, 5}
        assert (await controller.status()).total_servers == 0

    asyncio.run(life())


def test_what_a_controller_raises(in_process: Deployment):
    given = {"inventory": in_process.inventory(), "project": ROOT}
    with pytest.raises(ProfileError, match="Profile nope not found"):
        Controller(profile="nope", **given).initialize_sync()
    in_process.add_profile("p", {"tier": "Q8"})
    with pytest.raises(DeploymentFailed, match="nothing that profile p enables is available"):
        Controller(profile="p", **given).initialize_sync()
    in_process.hosts = {"gone": GONE}
    with pytest.raises(HostUnreachable, match="Connection refused"):
        Controller(inventory=in_process.inventory(), project=ROOT).status_sync()
    in_process.hosts = {"localhost": {}}


def test_two_controllers_in_one_process(in_process: Deployment):
    other = Deployment(in_process.folder / "other", {"model_server_port_range": OTHER})
    other.models.mkdir(parents=True)
    other.add_model("Q2_K")
    copy_profiles(other.folder / "profiles")

    async def both() -> None:
        controllers = [Controller(inventory=item.inventory(), project=ROOT) for item in (in_process, other)]
        reports = await asyncio.gather(*(controller.initialize() for controller in controllers))
        assert [[server.port for server in report.servers] for report in reports] == [
            [PORTS[0], PORTS[0] + 1],
            [OTHER[0]],
        ]
        assert all(server.is_ready for report in reports for server in report.servers)
        await asyncio.gather(*(controller.shutdown() for controller in controllers))

    asyncio.run(both())
