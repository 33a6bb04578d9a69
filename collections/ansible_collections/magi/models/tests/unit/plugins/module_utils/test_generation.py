from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.magi.models.plugins.module_utils._generation import (
    ConflictError,
    check_generation,
    exclusive,
    read_generation,
    write_generation,
)
from ansible_collections.magi.models.plugins.module_utils._host import Generation

GENERATION = Generation(3, "abc", "ada@desk, process 7", "2026-11-22T10:00:00Z", "production")


def test_a_generation_is_read_back(tmp_path):
    assert read_generation(str(tmp_path)) == Generation()
    write_generation(str(tmp_path), GENERATION)
    assert read_generation(str(tmp_path)) == GENERATION


@pytest.mark.parametrize("content", ["", "{", "[]", '{"other": 1}'])
def test_a_generation_that_can_not_be_read_is_none(tmp_path, content):
    (tmp_path / "generation.json").write_text(content)
    assert read_generation(str(tmp_path)) == Generation()


def test_a_deployment_in_between_is_named(tmp_path):
    write_generation(str(tmp_path), GENERATION)
    check_generation(str(tmp_path), GENERATION)
    with pytest.raises(ConflictError, match="ada@desk, process 7 applied profile production at 2026-11-22T10:00:00Z"):
        check_generation(str(tmp_path), Generation(2, "old"))


HOLD = """
import sys
from ansible_collections.magi.models.plugins.module_utils._generation import exclusive
with exclusive(sys.argv[1], "ada@desk, process 7"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_second_is_refused_and_a_kill_leaves_nothing_stale(tmp_path):
    root = str(Path(__file__).parents[8])
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": ":".join([root, *sys.path])},
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(ConflictError, match="another deployment is at work: ada@desk, process 7"),
            exclusive(str(tmp_path), "me"),
        ):
            pytest.fail("two hold the lock")
    finally:
        holder.kill()
        holder.wait()
    with exclusive(str(tmp_path), "me"):
        assert (tmp_path / "lock").read_text() == "me"
