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
