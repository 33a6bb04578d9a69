# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Crash-safe writes: the old content or the new one, whatever happens (a full disk, a kill at any step)."""

from __future__ import annotations

import errno
import os
import signal
import stat

import pytest
from ansible_collections.magi.models.plugins.module_utils._base import files
from ansible_collections.magi.models.plugins.module_utils._base.files import (
    FileWriteError,
    make_folder,
    write_atomic,
    writing,
)

STEPS = ["open", "fchmod", "fsync", "replace"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fail_at(monkeypatch, step, action):
    """Run ``action`` when the write reaches ``step``."""
    if step == "replace":
        monkeypatch.setattr(files.Path, "replace", lambda *_: action())
    else:
        monkeypatch.setattr(files.os, step, lambda *_args, **_kwargs: action())


def disk_full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "; free space there, then run again"),
        (errno.EDQUOT, "; free space there, then run again"),
        (errno.EACCES, "; run as a user who may write there (become: true), or set another path"),
        (errno.EPERM, "; run as a user who may write there (become: true), or set another path"),
        (errno.EROFS, "; make it writable, or set another path"),
        (errno.EIO, ""),
    ],
)
def test_the_cause_comes_with_its_remedy(tmp_path, number, remedy):
    with pytest.raises(FileWriteError) as error, writing(tmp_path / "x"), writing(tmp_path):
        raise OSError(number, os.strerror(number))
    assert str(error.value) == f"Can't write {tmp_path}: {os.strerror(number)}{remedy}."
    assert error.value.errno == number


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_content_and_mode_are_exact_whatever_the_umask(tmp_path, mode):
    target = tmp_path / "registry.json"
    old = os.umask(0o077)
    try:
        write_atomic(target, b"new", mode)
    finally:
        os.umask(old)
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == mode
    assert names(tmp_path) == ["registry.json"]


@pytest.mark.parametrize("step", STEPS)
def test_a_failing_step_leaves_the_old_content_and_no_temporary_file(tmp_path, monkeypatch, step):
    target = tmp_path / "registry.json"
    target.write_bytes(b"old")
    with monkeypatch.context() as patch, pytest.raises(FileWriteError) as error:
        fail_at(patch, step, disk_full)
        write_atomic(target, b"new", 0o640)
    assert str(target) in str(error.value)
    assert "No space left on device" in str(error.value)
    assert error.value.errno == errno.ENOSPC
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["registry.json"]


@pytest.mark.parametrize("step", STEPS)
def test_kill_9_at_a_step_leaves_the_old_content_and_the_next_write_cleans_up(tmp_path, monkeypatch, step):
    target = tmp_path / "registry.json"
    target.write_bytes(b"old")
    child = os.fork()
    if child == 0:
        fail_at(monkeypatch, step, lambda: os.kill(os.getpid(), signal.SIGKILL))
        write_atomic(target, b"new" * 100_000, 0o640)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert target.read_bytes() == b"old"
    write_atomic(target, b"next", 0o640)
    assert target.read_bytes() == b"next"
    assert names(tmp_path) == ["registry.json"]


def test_the_temporary_file_of_a_running_writer_is_left_alone(tmp_path):
    others = tmp_path / f".registry.json.{os.getppid()}.tmp"
    others.write_bytes(b"in flight")
    write_atomic(tmp_path / "registry.json", b"new", 0o640)
    assert others.exists()


def test_a_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.json").symlink_to("real/registry.json")
    write_atomic(tmp_path / "link.json", b"new", 0o640)
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real" / "registry.json").read_bytes() == b"new"


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileWriteError, match="nowhere"):
        write_atomic(tmp_path / "nowhere" / "registry.json", b"new", 0o640)


def test_without_replace_a_file_that_is_there_stays(tmp_path):
    target = tmp_path / "profile.yml"
    write_atomic(target, b"first", 0o644, replace=False)
    with pytest.raises(FileWriteError) as error:
        write_atomic(target, b"second", 0o644, replace=False)
    assert error.value.errno == errno.EEXIST
    assert target.read_bytes() == b"first"
    assert names(tmp_path) == ["profile.yml"]


def test_a_folder_is_for_all_to_enter_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        make_folder(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "a/b")] == [0o755, 0o755]


def test_a_folder_that_was_there_keeps_its_mode(tmp_path):
    (tmp_path / "a").mkdir(mode=0o700)
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
