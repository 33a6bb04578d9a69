from __future__ import annotations

import os
import subprocess
import sys

import pytest
from ansible_collections.magi.models.plugins.module_utils._host import procfs

MACHINE = procfs.memory_bytes()


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """The files of a kernel with 8 GiB available, and our cgroup in its second version."""
    monkeypatch.setattr(procfs, "PROC", tmp_path / "proc")
    monkeypatch.setattr(procfs, "CGROUPS", tmp_path / "cgroup")
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 16777216 kB\nMemAvailable:    8388608 kB\n")
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/user/session\n")
    return tmp_path


def limit(folder, maximum, used, cache=0):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{maximum}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon {used - cache}\nactive_file {cache}\ninactive_file 0\n")


def test_without_a_limit_it_is_the_machine_s(kernel):
    assert (procfs.available_bytes(False), procfs.memory_bytes(False)) == (8 << 30, MACHINE)
    limit(kernel / "cgroup" / "user", "max", 5)
    assert (procfs.available_bytes(False), procfs.memory_bytes(False)) == (8 << 30, MACHINE)


def test_a_cgroup_above_ours_limits_what_is_started_in_it(kernel):
    limit(kernel / "cgroup" / "user", 1 << 30, 700 << 20, cache=200 << 20)
    assert (procfs.available_bytes(False), procfs.memory_bytes(False)) == (524 << 20, 1 << 30)
    # services of systemd are in none of these
    assert (procfs.available_bytes(True), procfs.memory_bytes(True)) == (8 << 30, MACHINE)


def test_the_limit_of_a_whole_container_limits_all(kernel):
    limit(kernel / "cgroup", 1 << 30, 0)
    assert (procfs.available_bytes(True), procfs.memory_bytes(True)) == (1 << 30, 1 << 30)


def test_the_first_version_of_cgroups(kernel):
    (kernel / "proc" / "self" / "cgroup").write_text("5:cpu:/x\n4:memory:/box\n0::/\n")
    folder = kernel / "cgroup" / "memory" / "box"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("1000\n")
    (folder / "memory.usage_in_bytes").write_text("900\n")
    (folder / "memory.stat").write_text("total_active_file 100\ntotal_inactive_file 50\n")
    assert (procfs.available_bytes(False), procfs.memory_bytes(False)) == (250, 1000)


def test_without_proc_nothing_is_known(kernel):
    (kernel / "proc" / "meminfo").unlink()
    assert procfs.available_bytes(False) is None
    assert procfs.own_memory(7) is None
    assert procfs.used_memory(7) is None


def test_what_a_process_alone_has():
    assert 1 << 20 < procfs.own_memory(os.getpid()) < procfs.used_memory(os.getpid()) + (1 << 30) < 8 << 30


def test_what_a_process_has_started_is_known():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in procfs.children(os.getpid())
        child.communicate(b"\n")
    assert child.pid not in procfs.children(os.getpid())
