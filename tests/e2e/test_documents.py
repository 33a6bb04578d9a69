"""Commands, Python and the shell of CI pipelines, run in a fresh clone exactly as the documents show them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from .conftest import ROOT, Deployment, ask

pytestmark = pytest.mark.e2e

# What the profile production enables of the models of ``checkout``.
MODELS = ("smollm2-135m-instruct.q3_k_m", "smollm2-135m-instruct.q4_k_m")

# What `pip install -e .` writes into .venv/bin.
MAGI = """#!{python}
import sys

sys.path.insert(0, {source!r})
from magi.cli import main

sys.exit(main())
"""


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / document).read_text(), re.DOTALL)


@dataclass
class Checkout:
    """A clone of the last commit, with a deployment of the test as inventories/production."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *argv: str, code: int = 0, **environment: str) -> str:
        done = subprocess.run(
            argv,
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"{argv}: {done.returncode}\n{done.stdout}"
        assert "Traceback" not in done.stdout
        return done.stdout

    def shell(self, script: str, code: int = 0, **environment: str) -> str:
        """Run a step as both platforms do: the first command that fails ends it."""
        return self.run("bash", "-e", "-o", "pipefail", "-c", script, code=code, **environment)


@pytest.fixture
def checkout(deployment: Deployment, tmp_path: Path) -> Checkout:
    for quantization in ("Q2_K", "Q3_K_M", "Q4_K_M"):
        deployment.add_model(quantization)
    folder, programs = tmp_path / "clone", tmp_path / "bin"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    production = folder / "inventories" / "production"
    production.mkdir()
    (production / "hosts.yml").symlink_to(deployment.inventory())
    programs.mkdir()
    (programs / "magi").write_text(MAGI.format(python=sys.executable, source=str(folder / "src")))
    (programs / "magi").chmod(0o755)
    mine = ("MODEL_", "MAGI_", "LLAMA_", "ANSIBLE_", "PYTHON", "GITHUB_", "CI_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(mine)}
    environment |= {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "src"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        # A command without -i takes the inventory of ansible.cfg: that of `make up` on this machine.
        "ANSIBLE_INVENTORY": str(production),
    }
    return Checkout(folder, environment)


def test_the_commands_of_the_controller(checkout: Checkout):
    (block,) = blocks("controller.md", "console")
    commands = [line.partition("#")[0].strip() for line in block.splitlines()]
    codes = {"magi plan fast-only": 4}
    outputs = {command: checkout.shell(command, codes.get(command, 0)) for command in commands}
    assert "2/2 ready" in outputs["magi up production"]
    assert "new in this profile" in outputs["magi plan fast-only"]
    assert "2/2 ready" in outputs["magi status"]
    for model in MODELS:
        assert f"stop {model}" in outputs["magi stop"]
        assert f"remove {model}" in outputs["magi down"]


# Runs an application's lifespan as Starlette does.
LIFESPAN = """
import asyncio
from types import SimpleNamespace


async def live():
    app = SimpleNamespace(state=SimpleNamespace())
    async with lifespan(app):
        print(*app.state.models.items(), sep="\\n")
        running = await app.state.controller.status()
        print(running.ready_servers, "ready")
    print((await app.state.controller.status()).total_servers, "left")


asyncio.run(live())
"""


def test_the_python_of_the_api(checkout: Checkout):
    example, blocking, lifespan = blocks("python-api.md", "python")
    shown = checkout.run(sys.executable, "-c", example).splitlines()
    events = [line for line in shown if line.startswith("[")]
    assert {line[:5] for line in events} == {f"[{step}/5]" for step in range(1, 6)}
    *servers, enabled, actions, ready = [line for line in shown if not line.startswith("[")]
    for model, line in zip(MODELS, servers, strict=True):
        assert re.fullmatch(rf"{re.escape(model)}: http://127\.0\.0\.1:\d+, running, ready: True", line)
    assert enabled == f"Models enabled: {', '.join(MODELS)}"
    assert (actions, ready) == ("{'localhost': 2}", "2/2 ready")
    assert checkout.run(sys.executable, "-c", blocking) == "3/3 of development ready\n"
    served = checkout.run(sys.executable, "-c", lifespan + LIFESPAN)
    assert re.sub(r":\d+/", ":PORT/", served).splitlines() == [
        *(str((model, "http://127.0.0.1:PORT/v1")) for model in MODELS),
        "2 ready",
        "0 left",
    ]


def test_the_python_of_the_api_when_nothing_can_be_deployed(checkout: Checkout):
    example, _blocking, _lifespan = blocks("python-api.md", "python")
    (checkout.folder.parent / "profiles" / "production.yml").unlink()
    assert "Not deployed: Profile production not found" in checkout.run(sys.executable, "-c", example, code=1)


def test_the_pictures(checkout: Checkout, tmp_path: Path):
    pictures = [str(tmp_path / name) for name in ("magi-up.svg", "magi-status.svg")]
    shown = checkout.run(sys.executable, "docs/pictures.py", "-i", "inventories/production", "--to", str(tmp_path))
    assert shown.splitlines() == pictures
    for path in pictures:
        text = " ".join(ElementTree.parse(path).getroot().itertext())
        assert all(model in text for model in MODELS)
        assert "2/2" in text


# Stands for programs that need the network (pip, gh, curl, python3 -m venv) and records its calls.
FAKE_PROGRAM = """#!{python}
import json, os, sys
from pathlib import Path

name = Path(sys.argv[0]).name
call = {{"argv": [name, *sys.argv[1:]], "stdin": sys.stdin.read(), "token": os.environ.get("GH_TOKEN")}}
with open({calls!r}, "a") as file:
    print(json.dumps(call), file=file)
if name == "python3":
    Path(".venv/bin").mkdir(parents=True)
    Path(".venv/bin/pip").symlink_to({itself!r})
"""
VENV = ["python3", "-m", "venv", ".venv"]
PIP = ["pip", "install", "--quiet", "-c", "constraints.txt", "-e", "."]
TOKEN = "canary-token-1"


@dataclass
class FakePrograms:
    """Programs called ``names`` that only record their calls."""

    checkout: Checkout
    folder: Path

    def shell(self, names: str, script: str, **environment: str) -> list[dict]:
        """Run a step with fake programs; return their calls."""
        programs, calls = self.folder / names.replace(" ", "-"), self.folder / "calls"
        programs.mkdir(parents=True)
        fake = programs / "fake-program"
        fake.write_text(FAKE_PROGRAM.format(python=sys.executable, calls=str(calls), itself=str(fake)))
        fake.chmod(0o755)
        for name in names.split():
            (programs / name).symlink_to(fake)
        calls.write_text("")
        path = f"{programs}:{self.checkout.environment['PATH']}"
        self.checkout.shell(script, PATH=path, **environment)
        return [json.loads(line) for line in calls.read_text().splitlines()]


@pytest.fixture
def fakes(checkout: Checkout, tmp_path: Path) -> FakePrograms:
    return FakePrograms(checkout, tmp_path / "fakes")


def test_the_workflow_of_github(checkout: Checkout, fakes: FakePrograms, tmp_path: Path):
    workflow = yaml.safe_load(blocks("ci.md", "yaml")[0])
    (job,) = workflow["jobs"].values()
    steps = {step["name"]: step for step in job["steps"] if "run" in step}
    assert list(steps) == ["Install", "Keys", "Plan", "Comment", "Deploy"]
    secrets = {"SSH_KEY": "-----BEGIN KEY-----\nc2VjcmV0\n-----END KEY-----", "KNOWN_HOSTS": "gpu1 ssh-ed25519 AAAA"}
    assert set(steps["Keys"]["env"]) == set(secrets)
    platform = {"RUNNER_TEMP": str(tmp_path), "GITHUB_ENV": str(tmp_path / "env")}

    def run(name: str, code: int = 0, **environment: str) -> str:
        return checkout.shell(steps[name]["run"], code, **platform, **environment)

    installed = fakes.shell("python3", steps["Install"]["run"], GITHUB_PATH=str(tmp_path / "path"))
    assert [call["argv"] for call in installed] == [VENV, PIP]
    assert all((checkout.folder / name).is_file() for name in ("constraints.txt", "pyproject.toml"))
    assert (tmp_path / "path").read_text() == f"{checkout.folder}/.venv/bin\n"
    assert steps["Comment"]["env"] == {"GH_TOKEN": "${{ github.token }}", "PULL_REQUEST": "${{ github.event.number }}"}
    (comment,) = fakes.shell("gh", steps["Comment"]["run"], GH_TOKEN=TOKEN, PULL_REQUEST="7")
    edit = ["gh", "pr", "comment", "7", "--edit-last", "--create-if-none", "--body-file", "plan.md"]
    assert comment == {"argv": edit, "stdin": "", "token": TOKEN}
    assert run("Keys", **secrets) == ""
    assert (tmp_path / "key").read_text() == secrets["SSH_KEY"] + "\n"
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    platform |= dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert platform["ANSIBLE_PRIVATE_KEY_FILE"] == str(tmp_path / "key")
    deploys_as_shown(checkout, lambda code: run("Plan", code), lambda code: run("Deploy", code))


def test_the_pipeline_of_gitlab(checkout: Checkout, fakes: FakePrograms, tmp_path: Path):
    pipeline = yaml.safe_load(blocks("ci.md", "yaml")[1])
    install, keys = pipeline["default"]["before_script"][:3], pipeline["default"]["before_script"][3:]
    installed = fakes.shell("python3", "\n".join([*install, "pip --version"]))
    assert [call["argv"] for call in installed] == [VENV, PIP, ["pip", "--version"]]  # now the one of .venv
    assert pipeline["comment"]["before_script"] == []
    api = {"CI_API_V4_URL": "https://gitlab/api/v4", "CI_PROJECT_ID": "3", "CI_MERGE_REQUEST_IID": "7"}
    (comment,) = fakes.shell("curl", "\n".join(pipeline["comment"]["script"]), MAGI_API_TOKEN=TOKEN, **api)
    assert comment["argv"] == [
        *("curl", "--fail", "--silent", "--show-error", "--output", "/dev/null"),
        *("--header", "@-", "--data-urlencode", "body@plan.md"),
        "https://gitlab/api/v4/projects/3/merge_requests/7/notes",
    ]
    assert comment["stdin"] == f"PRIVATE-TOKEN: {TOKEN}\n"  # and nowhere else: other processes read command lines
    files = {"MAGI_SSH_KEY": str(tmp_path / "key"), "MAGI_KNOWN_HOSTS": str(tmp_path / "known_hosts")}
    (tmp_path / "key").touch(0o666)

    def run(job: str, code: int) -> str:
        return checkout.shell("\n".join([*keys, *pipeline[job]["script"]]), code, **files)

    deploys_as_shown(checkout, lambda code: run("plan", code), lambda code: run("deploy", code))
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def deploys_as_shown(checkout: Checkout, plan: Callable[[int], str], deploy: Callable[[int], str]) -> None:
    """Plan and deploy; then enable a model that no host has, which --strict makes a failure."""
    plan(0)
    text = (checkout.folder / "plan.md").read_text()
    assert "2 to change on 1 host." in text
    for model in MODELS:
        assert f"| `localhost` | `start` | `{model}` |" in text

    assert "[5/5] Health check" in deploy(0)
    report = json.loads((checkout.folder / "report.json").read_text())
    assert all(ask(server["port"]) for server in report["servers"])
    suite = ElementTree.parse(checkout.folder / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "0")
    plan(0)
    assert "0 to change on 1 host." in (checkout.folder / "plan.md").read_text()

    profile = checkout.folder.parent / "profiles" / "production.yml"
    profile.write_text(profile.read_text() + '  - "nowhere-*"\n')
    assert "nowhere-*" in deploy(1)
    assert "nowhere-*" in json.loads((checkout.folder / "report.json").read_text())["error"]["message"]
    (failure,) = ElementTree.parse(checkout.folder / "junit.xml").getroot().iter("failure")
    assert "nowhere-*" in failure.get("message")
