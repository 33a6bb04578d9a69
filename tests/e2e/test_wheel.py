"""The controller alone, as pipx installs it: a wheel, built from the sdist, an empty home and an empty folder."""

from __future__ import annotations

import email
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..playbook import clean_environment
from .conftest import CACHE, LLAMA_SERVER, PORTS, ROOT, ask

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of what is committed, and the wheel built from that."""
    folder = tmp_path_factory.mktemp("built")
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder / "clone")], check=True)
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, folder / "clone"], check=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh virtual environment with only the wheel and its dependencies."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin/pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", ROOT / "constraints.txt", wheel], check=True)
    return folder / "bin"


def test_the_sdist_has_all_that_is_committed(built: Path):
    with tarfile.open(next(built.glob("*.tar.gz"))) as bundle:
        there = {name.partition("/")[2] for name in bundle.getnames()}
    committed = subprocess.run(["git", "ls-files"], cwd=built / "clone", capture_output=True, text=True, check=True)
    assert {*committed.stdout.splitlines()} <= there


def test_the_wheel_has_the_collection_and_no_tests(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    assert "magi/carried/collections/ansible_collections/magi/models/galaxy.yml" in names
    assert [name for name in names if name.endswith("data/share/man/man1/magi.1")]
    assert [name for name in names if "/tests/" in name or "__pycache__" in name] == []


def test_what_pypi_shows_leads_somewhere(built: Path, wheel: Path):
    metadata = zipfile.ZipFile(wheel).read(f"{wheel.name.rpartition('-py3')[0]}.dist-info/METADATA").decode()
    text = email.message_from_string(metadata).get_payload()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    for link in links:
        if match := re.fullmatch(r"https://\S+/magi-models/magi\.models/(?:(?:blob|tree)/)?main/([^#]+)(?:#.*)?", link):
            assert (ROOT / match[1]).exists(), link
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *built.glob("*.*")], check=True)


@pytest.fixture
def home(tmp_path: Path, programs: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    home.mkdir()
    yield home
    if (home / "mine").is_dir():
        assert magi(programs, home, "down", folder="mine").returncode == 0


def magi(programs: Path, home: Path, *arguments: str, folder: str = ".") -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in clean_environment().items() if not k.startswith(("ANSIBLE_", "XDG_", "VIRTUAL_"))}
    environment |= {"HOME": str(home), "PATH": os.defpath, "COLUMNS": "200", "MAGI_DOTENV": ""}
    return subprocess.run(
        [programs / "magi", *arguments], cwd=home / folder, env=environment, capture_output=True, text=True, check=False
    )


def test_from_an_empty_home_to_an_answer_and_back(programs: Path, home: Path):
    nothing = magi(programs, home, "status")
    assert nothing.returncode == 2
    assert "make one with magi init" in nothing.stderr

    made = magi(programs, home, "init", "mine")
    assert made.returncode == 0, made.stderr
    assert "Next: cd mine, then magi up" in made.stderr
    # Without these it would build a llama-server and get a model, as in test_readme.py.
    settings = {"LLAMA_SERVER_PATH": LLAMA_SERVER, "MODEL_SCAN_PATH": CACHE / "models"}
    settings["MODEL_PORT_RANGE"] = "-".join(map(str, PORTS))
    (home / "mine/.env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    variables = home / "mine/inventories/local/host_vars/localhost.yml"
    variables.parent.mkdir()
    variables.write_text(f"model_gateway_port: {PORTS[1]}\n")  # test_readme.py has the usual one

    up = magi(programs, home, "up", "fast-only", "--json", folder="mine")
    assert up.returncode == 0, up.stderr
    report = json.loads(up.stdout)
    assert [server["tier"] for server in report["servers"]] == ["Q2"]
    assert ask(report["servers"][0]["port"])
    assert (home / "mine/data/report.json").is_file()

    status = magi(programs, home, "status", "--json", folder="mine/profiles")
    assert status.returncode == 0, status.stderr
    assert [server["pid"] for server in json.loads(status.stdout)["servers"]] == [report["servers"][0]["pid"]]

    down = magi(programs, home, "down", "--json", folder="mine")
    assert [item["action"] for item in json.loads(down.stdout)["hosts"]["localhost"]] == ["remove"]
    again = magi(programs, home, "status", "--json", folder="mine")
    assert json.loads(again.stdout)["total_servers"] == 0
