from __future__ import annotations

import pytest
from ansible_collections.magi.models.plugins.module_utils._base import gpus


@pytest.mark.parametrize(
    ("there", "found"),
    [
        ([], []),
        (["null", "dri/card0"], []),
        (["dri/renderD128"], ["dri/renderD128"]),
        (["nvidia0", "nvidia1", "nvidiactl", "dri/renderD128"], ["nvidia0", "nvidia1"]),
        (["kfd", "dri/renderD128"], ["kfd"]),
        (["dxg"], ["dxg"]),  # WSL2
        (["nvhost-gpu", "nvmap"], ["nvhost-gpu"]),  # Jetson
        (["nvgpu/igpu0/ctrl"], ["nvgpu"]),
    ],
)
def test_gpus_by_their_nodes(tmp_path, monkeypatch, there, found):
    monkeypatch.setattr(gpus, "DEVICES", tmp_path)
    for name in there:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert gpus.gpus() == tuple(str(tmp_path / name) for name in found)


@pytest.mark.parametrize(
    ("does", "found"),
    [
        ("echo '12, 640'; echo '13, 920'; echo '12, 10'", {12: 650 << 20, 13: 920 << 20}),
        ("echo '12, [N/A]'; echo 'No running processes found'", {}),
        ("echo '12, 640'; exit 9", {}),
    ],
)
def test_what_the_driver_says_of_processes(tmp_path, monkeypatch, does, found):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{does}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert gpus.memory_of_processes() == found


def test_without_its_program_nothing_is_said(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert gpus.memory_of_processes() == {}
