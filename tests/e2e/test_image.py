"""The controller's image: built from what is committed, run as anybody on a mounted project, and as compose runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomllib
import yaml
from packaging.requirements import Requirement

from ..compose import run_arguments, service
from ..waiting import until
from .conftest import MODELS, PORTS, ROOT, WORKER, ask
from .engine import IMAGE, docker, hosts, llama_image

pytestmark = pytest.mark.e2e

CONTROLLER = f"magi-e2e-{WORKER}:controller"
BASE, PYTHON = "debian:12", "3.11"
"""What molecule/hosts/hosts.py has without a registry, and the Python of that."""
ANYBODY = ("--user=12345:23456", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none")


def packages(folder: Path) -> None:
    """Get all Python packages of a build into a folder: an index that is known here need not be known there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["serve"]]
    pinned = folder.with_name("constraints.txt")
    lines = map(Requirement, (ROOT / "constraints.txt").read_text().splitlines())
    pinned.write_text(
        "".join(
            f"{x.name}{x.specifier}\n" for x in lines if not x.marker or x.marker.evaluate({"python_version": PYTHON})
        )
    )
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", folder, "--constraint", pinned]
    only = ["--only-binary=:all:", f"--python-version={PYTHON}"]
    subprocess.run([*pip, *only, *wanted, *project["build-system"]["requires"]], check=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A clone of the last commit, of which the image is built."""
    hosts("base")
    folder = tmp_path_factory.mktemp("build") / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    packages(folder / "wheels")
    given = {"BASE": BASE, "DOCKER": "docker.io", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/src/wheels"}
    arguments = [f"--build-arg={name}={value}" for name, value in given.items()]
    # The stage by name, too: else its image stays when the one that is made from it goes.
    for tag in (["--tag", f"{CONTROLLER}-built", "--target=built"], ["--tag", CONTROLLER]):
        command = ["docker", "build", "--quiet", *arguments, "--file", "containers/Containerfile", *tag, "."]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    yield folder
    docker("image", "rm", CONTROLLER, f"{CONTROLLER}-built")


def magi(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run magi in a container, as a user whom nobody knows, on a project in a folder."""
    command = ["docker", "run", "--rm", *ANYBODY, f"--volume={folder}:/project", CONTROLLER, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_anybody_works_on_a_mounted_project(checkout: Path, tmp_path: Path):
    tmp_path.chmod(0o777)
    for arguments, said in (
        (("--version",), r"magi 0\.\d+\.\d+"),
        (("init", ".", "--host", "gpu1"), r"inventories/fleet/hosts\.yml is written"),
        (("profile", "validate"), "production"),
    ):
        done = magi(tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
        assert re.search(said, done.stdout + done.stderr)
    inventory = tmp_path / "inventories" / "fleet" / "hosts.yml"
    assert (inventory.stat().st_uid, inventory.stat().st_gid) == (12345, 23456)

    # SSH runs: it finds nobody there, and does not complain of its own user.
    inventory.write_text("model_servers: {hosts: {gpu1: {ansible_host: 127.0.0.1}}}\n")
    plan = magi(tmp_path, "plan", "production")
    assert plan.returncode == 5, plan.stderr
    assert "Connection refused" in plan.stderr


def test_an_execution_environment_is_what_ansible_builder_takes(checkout: Path, tmp_path: Path):
    """Its base and what that needs come from registries and indexes that this machine need not reach."""
    # What else it needs, others of our tools need, too.
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path]
    subprocess.run([*pip, "ansible-builder==3.2.0", "bindep==2.14.0"], check=True)
    (checkout / "dist").mkdir()
    (checkout / "dist" / "magi_models-0.1.0-py3-none-any.whl").touch()
    where = ["--file", "containers/execution-environment.yml", "--context", "build/execution-environment"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run(
        [sys.executable, "-m", "ansible_builder", "create", *where], cwd=checkout, env=environment, check=True
    )
    built = checkout / "build" / "execution-environment"
    assert len([*built.glob("_build/wheel/magi_models-*.whl")]) == 1
    assert "ansible-galaxy collection install" in (built / "Containerfile").read_text()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory):
    hosts("engine")
    with llama_image(tmp_path_factory.mktemp("image")):
        yield


@pytest.fixture
def whole(checkout: Path, engine: None, tmp_path: Path) -> Iterator[str]:
    """The container that compose makes, on folders, ports and a model of this test."""
    folders = {name: tmp_path / name.strip("/") for name in ("gateway", "home", "/etc/magi", "/var/lib/magi")}
    models = tmp_path / "models"
    for folder in (models, *folders.values()):
        folder.mkdir(parents=True)
    (models / "model.gguf").write_bytes((MODELS / "SmolLM2-135M-Instruct.Q2_K.gguf").read_bytes())
    values = {
        "MODEL_SCAN_PATH": str(models),
        "MODEL_SERVER_IMAGE": IMAGE,
        "MODEL_PORT_RANGE": "{}-{}".format(*PORTS),
        "MAGI_PROFILE": "fast-only",
    }
    # Beside the inventory that compose names: what must not be this machine's own.
    variables = checkout / "inventories" / "docker" / "host_vars" / "localhost.yml"
    variables.parent.mkdir()
    home = folders.pop("/etc/magi")
    variables.write_text(yaml.safe_dump({"model_server_home": str(home), "model_gateway_port": PORTS[1]}))
    found = service(values)
    found["volumes"].append(f"{home}:{home}")
    arguments = run_arguments({**found, "image": CONTROLLER}, {**folders, "..": checkout})
    name = f"magi-e2e-{WORKER}"
    docker("run", "--detach", "--name", name, *arguments[:-1], arguments[-1] + f" --port {PORTS[1] - 1}")
    yield name
    down = subprocess.run(["docker", "exec", name, "magi", "down"], capture_output=True, text=True, check=False)
    docker("rm", "--force", name)
    assert down.returncode == 0, down.stderr
    assert [*home.iterdir()] == []


def test_the_whole_on_one_machine(whole: str):
    def said() -> str:
        return subprocess.run(["docker", "logs", whole], capture_output=True, text=True, check=True).stderr

    until(lambda: "Its tokens are in /home/magi/.local/state/magi/serve/tokens" in said(), 90, "magi serves")
    (server,) = json.loads(docker("exec", whole, "magi", "status", "--json"))["servers"]
    assert (server["state"], server["tier"]) == ("running", "Q2")
    assert server["memory"]["used"]  # it may look at processes of others
    assert docker("exec", whole, "cat", "/home/magi/.local/state/magi/serve/tokens")
    assert "France" in ask(PORTS[1], model=server["model_id"])  # by the gateway
