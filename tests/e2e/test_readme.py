"""The README's commands, run as a stranger would: in a fresh clone of what is committed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..clients import talk
from ..prometheus import Prometheus
from ..waiting import until
from .conftest import MODELS, ROOT, alive, ask

pytestmark = pytest.mark.e2e
README = ROOT / "README.md"


def environment() -> dict[str, str]:
    """Return ours, without what make and who runs these tests have set."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("MODEL_", "MAGI_", "ANSIBLE_", "MAKE"))}


class Stranger:
    def __init__(self, folder: Path):
        self.folder = folder

    def run(self, command: str, code: int = 0) -> str:
        result = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert result.returncode == code, f"{command}\n{result.stdout}"
        assert "Traceback" not in result.stdout
        return result.stdout

    def servers(self) -> dict[str, dict]:
        report = json.loads((self.folder / "data" / "report.json").read_text())
        assert report["ready_servers"] == report["total_servers"] > 0
        return {server["instance"]: server for server in report["servers"]}


def block(language: str) -> str:
    """Return the README's block in this language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)
    return found


def changed(output: str) -> int:
    return sum(int(number) for number in re.findall(r"changed=(\d+)", output))


@pytest.fixture
def clone(tmp_path: Path) -> Stranger:
    folder = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    # Only the virtual environment is not made again: CI has just made it the same way. Old time stamps keep make from
    # updating it and so binding it to the clone, which won't stay.
    (folder / ".venv").symlink_to(ROOT / ".venv")
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(folder / name, (0, 0))
    return Stranger(folder)


@pytest.fixture
def stranger(clone: Stranger) -> Iterator[Stranger]:
    yield clone
    clone.run("make down")
    installed = subprocess.run(
        [ROOT / ".venv/bin/python", "-c", "import magi; print(magi.__file__)"],
        cwd="/",
        stdout=subprocess.PIPE,
        text=True,
    )
    assert installed.stdout.startswith(str(ROOT / "src"))


def test_the_readme_s_commands(stranger: Stranger, tmp_path: Path):
    up = stranger.run("make up")
    servers = stranger.servers()
    assert len(servers) == 4
    assert "[5/5] Health check" in up
    for server in servers.values():
        assert ask(server["port"])
    assert all(line in up.splitlines() for line in block("text").splitlines()), up
    said = talk("-c", block("python"))
    assert {line.partition(" ")[0] for line in said.splitlines()} >= {*servers}, said
    (command,) = re.findall(r"^  (curl .*)$", up, re.MULTILINE)
    assert "http://127.0.0.1:8000/v1/" in command
    answer = json.loads(stranger.run(command))
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] <= 64  # whoever tries it gets an answer, however the model wanders

    again = stranger.run("make up")
    assert changed(again) == 0, again
    now = stranger.servers()
    assert now == {n: {**s, "action": "keep", "memory": now[n]["memory"]} for n, s in servers.items()}

    the_service_s_commands(stranger, {*servers}, tmp_path / "state")
    if shutil.which("prometheus"):
        the_monitoring_s_commands(stranger, {*servers})
    stranger.run("MAGI_PROFILE=production make up")
    assert {server["tier"] for server in stranger.servers().values()} == {"Q3", "Q4"}
    kept = stranger.servers()
    assert all(server["pid"] == servers[name]["pid"] for name, server in kept.items())

    stranger.run("make up PROFILE=fast-only")
    assert {server["tier"] for server in stranger.servers().values()} == {"Q2"}
    assert "1/1 ready" in stranger.run("make status")

    stranger.run(". .venv/bin/activate && ansible-playbook site.yml -e profile=production")
    assert set(stranger.servers()) == set(kept)

    now = stranger.servers()
    missing = stranger.run(". .venv/bin/activate && ansible-playbook site.yml -e profile=nope", code=2)
    assert "Profile nope not found" in missing
    assert all(alive(server["pid"]) for server in now.values())

    mine = tmp_path / "my models"
    mine.mkdir()
    (mine / "mine.Q4_K_M.gguf").hardlink_to(MODELS / "SmolLM2-135M-Instruct.Q4_K_M.gguf")
    assert f".env: MODEL_SCAN_PATH={mine}" in stranger.run(f"make up MODELS='{mine}'")
    (server,) = stranger.servers().values()
    assert server["instance"] == "mine.q4_k_m"
    # Nobody needs to say so again, and nothing brings the demo back.
    assert changed(stranger.run("make up")) == 0
    assert "1/1 ready" in stranger.run("make status")
    shown = stranger.run(". .venv/bin/activate && cd docs && magi plan --json 2>/dev/null")
    assert [item["name"] for item in json.loads(shown)["hosts"]["localhost"]["instances"]] == ["mine.q4_k_m"]
    assert stranger.servers()["mine.q4_k_m"]["pid"] == server["pid"]
    stranger.run("make up MODELS=/nonexistent", code=2)
    assert alive(server["pid"])
    stranger.run("make up MODELS=")
    assert len(stranger.servers()) == 4
    stranger.run(f"MODEL_SCAN_PATH='{mine}' make up")
    assert changed(stranger.run("make up")) == 0
    (server,) = stranger.servers().values()

    stranger.run("make down")
    assert not alive(server["pid"])
    assert not (stranger.folder / "data" / "home").exists()
    assert changed(stranger.run("make down")) == 0


def the_service_s_commands(stranger: Stranger, servers: set[str], state: Path) -> None:
    blocks = re.findall(r"```console\n(.*?)```", README.read_text(), re.DOTALL)
    (commands,) = (text for text in blocks if "magi serve" in text)
    log = state.with_name("serve.log")
    with log.open("w") as output:
        process = subprocess.Popen(
            ["bash", "-c", f"set -e\n{commands.replace('magi serve', 'exec magi serve')}"],
            cwd=stranger.folder,
            env={**environment(), "XDG_STATE_HOME": str(state)},
            stdout=output,
            stderr=output,
        )
    try:
        until(lambda: "Its tokens are in" in log.read_text(), 30, "the service")
        url = re.search(r" on (http://\S+) until", log.read_text())[1]
        token = re.search(r"^view (\S+)$", (state / "magi/serve/tokens").read_text(), re.MULTILINE)[1]
        asked = urllib.request.Request(f"{url}/api/v1/status?max_age=60", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert {server["instance"] for server in json.load(answer)["document"]["servers"]} == servers
        with urllib.request.urlopen(url, timeout=10) as page:
            assert "<h1>Sign in</h1>" in page.read().decode()
    finally:
        process.terminate()
        assert process.wait(30) == 0, log.read_text()


def the_monitoring_s_commands(stranger: Stranger, servers: set[str]) -> None:
    (commands,) = re.findall(r"```console\n(.*?)```", (ROOT / "docs" / "observability.md").read_text(), re.DOTALL)
    deploy, look = commands.splitlines()
    stranger.run(deploy)
    program, *arguments = look.split()
    with Prometheus([program, *arguments], stranger.folder) as prometheus:
        there = dict.fromkeys({*servers, "gateway localhost"}, True)
        until(lambda: prometheus.up() == there, 60, "all targets are up")


@pytest.mark.parametrize(
    "playbook",
    [
        "playbooks/prepare.yml",
        "site.yml -e profile=production",
        "site.yml -e profile=production -e model_server_serial=1",
    ],
)
def test_the_example_of_a_fleet_is_well_formed(clone: Stranger, playbook: str):
    clone.run("cp -r inventories/example inventories/mine")
    command = f". .venv/bin/activate && ansible-playbook -i inventories/mine {playbook}"
    clone.run(f"{command} --syntax-check")
    listed = clone.run(f"{command} --list-hosts")
    assert all(host in listed for host in ("gpu1", "gpu2", "cpu1"))
