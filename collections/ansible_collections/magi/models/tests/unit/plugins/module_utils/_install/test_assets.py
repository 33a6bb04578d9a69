"""Which archive of a release is for a host, by names as they are at llama.cpp b11434."""

from __future__ import annotations

import json

import pytest
from ansible_collections.magi.models.plugins.module_utils._install.assets import pick, platform, read
from ansible_collections.magi.models.plugins.module_utils._install.step import Unavailable

DIGEST = "ab" * 32
PLATFORMS = (
    *("macos-arm64", "macos-x64", "ubuntu-arm64", "ubuntu-s390x", "ubuntu-x64", "ubuntu-vulkan-arm64"),
    *("ubuntu-vulkan-x64", "ubuntu-rocm-10.0-x64", "ubuntu-cuda-12.8-x64", "ubuntu-cuda-13.4-x64"),
    *("ubuntu-cuda-13.4-arm64", "ubuntu-openvino-2026.0-x64", "ubuntu-sycl-fp16-x64"),
)


def listed(*names: str, digest: object = f"sha256:{DIGEST}", url: str = "https://example.org/") -> list[dict]:
    assets = [{"name": name, "browser_download_url": url + name, "digest": digest} for name in names]
    return read(json.dumps({"assets": assets}).encode())


FILES = listed(
    *(f"llama-b1-bin-{name}.tar.gz" for name in PLATFORMS), "llama-b1-bin-win-cpu-x64.zip", "llama-b1-ui.tar.gz"
)


@pytest.mark.parametrize(
    ("system", "machine", "name"),
    [
        ("Linux", "x86_64", "ubuntu-x64"),
        ("Linux", "aarch64", "ubuntu-arm64"),
        ("Linux", "s390x", "ubuntu-s390x"),
        ("Darwin", "arm64", "macos-arm64"),
        ("Darwin", "x86_64", "macos-x64"),
    ],
)
def test_each_machine_gets_its_own(system, machine, name):
    (found,) = pick(FILES, "b1", platform(system, machine))
    assert (found.name, found.sha256) == (f"llama-b1-bin-{name}.tar.gz", DIGEST)
    assert found.url == f"https://example.org/{found.name}"


@pytest.mark.parametrize(
    ("system", "machine", "backend", "what"),
    [
        ("Linux", "riscv64", "cpu", "Linux on riscv64"),
        ("FreeBSD", "amd64", "cpu", "FreeBSD on amd64"),
        ("Darwin", "arm64", "cuda", "Darwin on arm64 for cuda"),
    ],
)
def test_a_machine_without_an_archive_is_named(system, machine, backend, what):
    with pytest.raises(Unavailable, match=f"no archive for {what}"):
        platform(system, machine, backend)


@pytest.mark.parametrize(
    ("machine", "backend", "have", "names"),
    [
        ("x86_64", "vulkan", (), ["ubuntu-vulkan-x64"]),
        ("aarch64", "vulkan", (), ["ubuntu-vulkan-arm64"]),
        ("x86_64", "rocm", (10, 1), ["ubuntu-rocm-10.0-x64"]),
        ("x86_64", "cuda", (13, 4), ["ubuntu-cuda-13.4-x64"]),
        ("x86_64", "cuda", (14, 0), ["ubuntu-cuda-13.4-x64"]),
        ("x86_64", "cuda", (13, 0), ["ubuntu-cuda-12.8-x64"]),
        ("aarch64", "cuda", (13, 4), ["ubuntu-cuda-13.4-arm64"]),
    ],
)
def test_each_gpu_gets_the_newest_that_suits_it(machine, backend, have, names):
    found = pick(FILES, "b1", platform("Linux", machine, backend), lambda built: built <= have)
    assert [item.name for item in found] == [f"llama-b1-bin-{name}.tar.gz" for name in names]


def test_the_libraries_of_cuda_come_along():
    files = [*FILES, *listed("cudart-llama-b1-bin-ubuntu-cuda-12.8-x64.tar.gz")]
    found = pick(files, "b1", "ubuntu-cuda-*-x64", lambda built: built == (12, 8))
    names = [item.name for item in found]
    assert names == [f"{kind}llama-b1-bin-ubuntu-cuda-12.8-x64.tar.gz" for kind in ("", "cudart-")]


def test_a_driver_that_is_too_old_for_all_of_them_is_told_so():
    with pytest.raises(Unavailable, match=r"none of llama-b1-bin-ubuntu-cuda-12.8-x64.tar.gz, .* suits the driver"):
        pick(FILES, "b1", "ubuntu-cuda-*-x64", lambda built: built <= (12, 2))


def test_of_two_kinds_the_tar_is_taken():
    names = ("llama-b1-bin-ubuntu-x64.tar.gz", "llama-b1-bin-ubuntu-x64.zip")
    for order in (names, names[::-1]):
        assert pick(listed(*order), "b1", "ubuntu-x64")[0].name == names[0]


def test_an_older_release_may_be_a_zip():
    assert pick(listed("llama-b1-bin-ubuntu-x64.zip"), "b1", "ubuntu-x64")[0].name.endswith(".zip")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (listed("llama-b2-bin-ubuntu-x64.tar.gz"), "release b1 has no archive for ubuntu-x64"),
        (
            listed("llama-b1-bin-ubuntu-x64.tar.gz", digest=None),
            "publishes no SHA-256 of llama-b1-bin-ubuntu-x64.tar.gz",
        ),
        (listed("llama-b1-bin-ubuntu-x64.tar.gz", digest="sha512:" + DIGEST), "publishes no SHA-256"),
        (listed("llama-b1-bin-ubuntu-x64.tar.gz", url="file:///"), "has an address that is not of the web"),
    ],
)
def test_what_can_not_be_checked_or_is_not_there_is_refused(files, reason):
    with pytest.raises(Unavailable, match=reason):
        pick(files, "b1", "ubuntu-x64")


@pytest.mark.parametrize(
    "answer",
    [b"<html>Please log in</html>", b"[]", b"{}", b'{"assets": 1}', b'{"assets": [{}]}', b"\xff", b"null"],
)
def test_an_answer_that_is_no_release_is_refused(answer):
    with pytest.raises(Unavailable, match="does not list a release"):
        pick(read(answer), "b1", "ubuntu-x64")
