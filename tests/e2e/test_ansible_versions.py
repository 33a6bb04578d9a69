"""The newest three minor versions of ansible-core, each with a Python that it takes: the collection's unit tests, and a
deployment from files to answers."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import ansible
import pytest
import tomllib

from .conftest import CACHE, ROOT, WORKER

pytestmark = pytest.mark.e2e

CORES = {"2.19": "3.11", "2.20": "3.12", "2.21": "3.13"}
"""Each version of ansible-core with the Python that it runs on here: each takes others, too."""
NEWEST = ("2.21", "3.14")
"""The newest of both, where a machine has that Python."""
HERE = tuple(".".join(version.split(".")[:2]) for version in (ansible.__version__, platform.python_version()))
"""Those of the other tests, which prove the same and more."""
NEEDED = ("supervisor", "pyyaml", "gguf", "hypothesis", "pytest", "pytest-mock", "pytest-timeout")
UNIT = "collections/ansible_collections/magi/models/tests/unit/plugins"
# What has nothing to do with Ansible is tested with the newest Python alone, without reading models, downloads, processes
# and HAProxy, whose tests take long.
TESTS = dict.fromkeys(CORES, (UNIT, f"--ignore={UNIT}/module_utils", f"--ignore={UNIT}/plugin_utils/_gateway"))
LONG = (
    *(f"module_utils/{name}" for name in ("_gguf", "_models", "_install", "_host", "_llama")),
    "plugin_utils/_gateway",
)
TESTS[max(CORES)] = (UNIT, *(f"--ignore={UNIT}/{name}" for name in LONG))
DEPLOYMENT = "tests/e2e/main_job_in_short.py"


def interpreter(version: str) -> Path | None:
    """Return a Python of this minor version: on the PATH, or of pyenv."""
    found = [Path(path) for path in [shutil.which(f"python{version}")] if path and "shims" not in path]
    return next(iter(found + sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))), None)


def environment_with(program: Path, constraints: str) -> Path:
    """Return an environment of this Python with what is needed; it is kept."""
    wanted = hashlib.sha256(f"{program.resolve()}\n{constraints}\n{NEEDED}".encode()).hexdigest()[:16]
    venv = CACHE / "ansible-core" / wanted
    if not (venv / "ready").exists():
        subprocess.run([program, "-m", "venv", "--clear", venv], check=True)
        (venv / "constraints.txt").write_text(constraints)
        pip = [venv / "bin/pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-c", venv / "constraints.txt", "ansible-core", *NEEDED], check=True)
        (venv / "ready").touch()
    return venv


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("core", "python"), [pair for pair in (*CORES.items(), NEWEST) if pair != HERE])
def test_ansible_core(core: str, python: str):
    program = interpreter(python)
    if program is None:
        pytest.skip(f"there is no Python {python}, which ansible-core {core} is tried with")
    constraints = re.sub(r"(?m)^ansible-core==.*\n", "", (ROOT / "constraints.txt").read_text())
    venv = environment_with(program, f"{constraints}ansible-core=={core}.*\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    environment |= {"PYTEST_XDIST_WORKER": f"gw{WORKER}"}
    for arguments, passed in ((TESTS[core], r"\d{3,} passed"), ((DEPLOYMENT,), "1 passed")):
        done = subprocess.run(
            [venv / "bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        assert re.search(passed, done.stdout), done.stdout


def test_the_pin_says_these_versions():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (pin,) = [re.split(r"[>=<,]+", item)[1:] for item in project["dependencies"] if item.startswith("ansible-core")]
    newest = max(int(core.partition(".")[2]) for core in CORES)
    assert pin == [min(CORES, key=lambda core: int(core[2:])), f"2.{newest + 1}"]
    exact = re.findall(
        r"(?m)^ansible-core==(\d+\.\d+)\.\d+; python_version (<|>=) \"3.12\"$", (ROOT / "constraints.txt").read_text()
    )
    assert exact == [("2.19", "<"), (f"2.{newest}", ">=")]
    pythons = {item.rpartition(" ")[2] for item in project["classifiers"] if re.search(r"Python :: 3\.\d+$", item)}
    assert {*CORES.values()} <= pythons
    readme = (ROOT / "collections/ansible_collections/magi/models/README.md").read_text()
    tested = " ".join(readme.partition("## Tested with")[2].partition("\n## ")[0].split())
    for core, python in (*CORES.items(), NEWEST):
        assert re.search(rf"\b{re.escape(core)} on (Python )?([\d.]+ and )?{re.escape(python)}\b", tested)
