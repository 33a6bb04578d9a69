from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from ansible_collections.magi.models.plugins.module_utils._host.apply import fence
from ansible_collections.magi.models.plugins.module_utils._host.lock import (
    ConflictError,
    check_generation,
    exclusive,
    read_generation,
    read_holder,
    write_generation,
)
from ansible_collections.magi.models.plugins.module_utils._host.values import Generation, Holder

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
import os, sys
from ansible_collections.magi.models.plugins.module_utils._host.lock import exclusive
from ansible_collections.magi.models.plugins.module_utils._host.procfs import start_time
from ansible_collections.magi.models.plugins.module_utils._host.values import Holder
with exclusive(sys.argv[1], Holder("ada@desk, process 7", "here", 7, os.getpid(), start_time(os.getpid()))):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of the folder until it is killed."""
    root = str(Path(__file__).parents[8])
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": ":".join([root, *sys.path])},
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_is_refused_and_a_kill_leaves_nothing_stale(tmp_path, holder):
    with (
        pytest.raises(ConflictError, match="another deployment is at work: ada@desk, process 7"),
        exclusive(str(tmp_path), Holder("me")),
    ):
        pytest.fail("two hold the lock")
    assert read_holder(str(tmp_path)).pid == holder.pid
    holder.kill()
    holder.wait()
    assert read_holder(str(tmp_path)) is None
    with exclusive(str(tmp_path), Holder("me")):
        assert read_holder(str(tmp_path)) == Holder("me")


def test_a_long_name_of_an_earlier_holder_leaves_no_rest(tmp_path):
    for name in ("a much longer name", "me"):
        with exclusive(str(tmp_path), Holder(name)):
            assert read_holder(str(tmp_path)) == Holder(name)


def test_a_holder_whose_controller_is_gone_is_fenced(tmp_path, holder):
    fence(str(tmp_path), read_holder(str(tmp_path)))
    assert holder.wait(10) == -9
    assert read_holder(str(tmp_path)) is None


@pytest.mark.parametrize("change", [{"start_time": 1}, {"pid": 0}, {"deployment": "one before"}])
def test_only_the_very_holder_is_fenced(tmp_path, holder, change):
    there = read_holder(str(tmp_path))
    with contextlib.suppress(ConflictError):
        fence(str(tmp_path), replace(there, **change), grace=0)
    assert holder.poll() is None
    assert read_holder(str(tmp_path)) == there


def test_who_only_looks_keeps_nobody_from_deploying(tmp_path):
    home, ended = str(tmp_path), threading.Event()

    def look() -> None:
        while not ended.is_set():
            read_holder(home)

    readers = [threading.Thread(target=look) for _number in range(2)]
    for reader in readers:
        reader.start()
    try:
        for _turn in range(300):
            with exclusive(home, Holder("me")):
                assert read_holder(home) == Holder("me")
    finally:
        ended.set()
        for reader in readers:
            reader.join()


def test_a_holder_is_named_also_where_it_has_only_just_the_lock(tmp_path):
    descriptor = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)

    def write() -> None:
        os.pwrite(descriptor, json.dumps(asdict(Holder("ada@desk, process 7"))).encode(), 0)

    writer = threading.Timer(0.1, write)
    writer.start()
    try:
        with (
            pytest.raises(ConflictError, match="at work: ada@desk, process 7;"),
            exclusive(str(tmp_path), Holder("me")),
        ):
            pytest.fail("two hold the lock")
    finally:
        writer.join()
        os.close(descriptor)
