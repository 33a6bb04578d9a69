"""The role demo_models, run by ansible-playbook on this machine against temporary folders, from models in the cache."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..playbook import clean_environment
from .conftest import CACHE, LLAMA_SERVER, ROOT

pytestmark = pytest.mark.e2e

ORIGINAL = "SmolLM2-135M-Instruct.Q4_1.gguf"
Q2, Q3, Q4 = (f"SmolLM2-135M-Instruct.{name}.gguf" for name in ("Q2_K", "Q3_K_M", "Q4_K_M"))
PLAY = """
- hosts: localhost
  gather_facts: false
  roles: [magi.models.demo_models]
"""


@pytest.fixture
def role(tmp_path: Path):
    """Run the role; returns how many tasks changed something, and what was printed, in one line."""
    (tmp_path / "play.yml").write_text(PLAY)
    cache = tmp_path / "cache"
    cache.mkdir()
    os.link(CACHE / "models" / ORIGINAL, cache / ORIGINAL)  # so that nothing is downloaded

    def run(llama_server: Path, code: int = 0) -> tuple[int, str]:
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "llama_server_path": str(llama_server),
            "demo_models_cache_dir": str(cache),
            "demo_models_dir": str(tmp_path / "models"),
        }
        done = subprocess.run(
            [
                *(Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,"),
                *("-e", json.dumps(variables), tmp_path / "play.yml"),
            ],
            cwd=ROOT,
            env={
                **clean_environment(),
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "COLUMNS": "1000",
                "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return int(re.search(r"changed=(\d+)", done.stdout)[1]), " ".join((done.stdout + done.stderr).split())

    run.models = tmp_path / "models"
    return run


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """A llama-server with nothing beside it."""
    path = tmp_path / "bin/llama-server"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_without_llama_quantize_there_is_the_model_as_it_was_downloaded(role, alone: Path):
    changed, said = role(alone)
    assert changed
    assert names(role.models) == {ORIGINAL}
    assert f"without {alone.with_name('llama-quantize')} there are no {Q2}, {Q3}, {Q4}; {ORIGINAL} is served" in said
    assert role(alone)[0] == 0

    changed, said = role(LLAMA_SERVER)  # which has it
    assert changed
    assert names(role.models) == {ORIGINAL, Q2, Q3, Q4}
    assert "is served as it is" not in said
    assert role(LLAMA_SERVER)[0] == 0

    (role.models / Q2).unlink()
    role(alone)  # from what was made before
    assert names(role.models) == {ORIGINAL, Q2, Q3, Q4}


def test_a_llama_quantize_that_fails_is_quoted(role, alone: Path):
    quantize = alone.with_name("llama-quantize")
    quantize.write_text("#!/bin/sh\necho no space left on this moon >&2\nexit 3\n")
    quantize.chmod(0o755)
    _changed, said = role(alone, code=2)
    assert '"Quantize the model" failed (no space left on this moon)' in said
