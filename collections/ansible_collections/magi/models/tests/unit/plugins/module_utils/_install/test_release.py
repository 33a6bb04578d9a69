"""Releases side by side in a folder; the archives are small, and their llama-server is a script."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from ansible_collections.magi.models.plugins.module_utils._install import backend
from ansible_collections.magi.models.plugins.module_utils._install import release as module
from ansible_collections.magi.models.plugins.module_utils._install.release import Releases, WantedRelease
from ansible_collections.magi.models.plugins.module_utils._install.step import InstallError, Unavailable
from ansible_collections.magi.models.tests.unit.plugins.module_utils.release_server import PROGRAM, archive, serving


def release(tmp_path: Path, tag: str, program: bytes = PROGRAM, name: str = "llama-server", **more) -> Releases:
    """A pinned one."""
    file = tmp_path / f"{tag}.tar.gz"
    if not file.exists():
        file.write_bytes(archive(tag, program, name, folder=f"llama-{tag}/bin"))
    wanted = {"url": file.as_uri(), "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), **more}
    return Releases(tmp_path / "bin/llama-server", tmp_path / "releases", WantedRelease(tag, "", **wanted), keep=2)


def published(tmp_path: Path, upstream, tag: str = "b7", platform: str = "", **more) -> Releases:
    """One that names its archive and checksum itself."""
    wanted = WantedRelease(tag, platform, api=upstream.api, **more)
    return Releases(tmp_path / "bin/llama-server", tmp_path / "releases", wanted, keep=2, patience=1)


def install(releases: Releases) -> list[str]:
    steps = releases.steps()
    if steps:
        releases.run()
    return [str(step).partition("-")[0] for step in steps]


def test_each_release_goes_in_beside_the_others_and_two_stay(tmp_path):
    assert install(release(tmp_path, "b1")) == ["install b1", "switch to b1", "link"]
    assert install(release(tmp_path, "b1")) == []
    assert install(release(tmp_path, "b2")) == ["install b2", "switch to b2"]
    assert install(release(tmp_path, "b3")) == ["install b3", "switch to b3", "remove b1"]
    assert install(release(tmp_path, "b2")) == ["switch to b2"]
    assert (tmp_path / "bin/llama-server").resolve().parts[-4].startswith("b2-")


def test_all_may_execute_what_is_installed_whatever_the_umask(tmp_path):
    """The servers have a user of their own, and sudo may have a umask of its own."""
    before = os.umask(0o077)
    try:
        install(release(tmp_path, "b1"))
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    program = (tmp_path / "bin/llama-server").resolve()
    ways = [tmp_path / "bin", program, *(folder for folder in program.parents if tmp_path in folder.parents)]
    assert len(ways) == 6
    assert {str(path): oct(path.stat().st_mode & 0o777) for path in ways} == {str(path): "0o755" for path in ways}


@pytest.mark.parametrize("lost", ["llama-b1/bin/llama-server", "llama-b1"])
def test_a_release_that_lost_its_llama_server_is_installed_anew(tmp_path, lost):
    install(release(tmp_path, "b1"))
    (folder,) = (tmp_path / "releases").glob("b1-*")
    shutil.rmtree(folder / lost) if (folder / lost).is_dir() else (folder / lost).unlink()
    assert install(release(tmp_path, "b1")) == ["install b1", "switch to b1"]
    assert (tmp_path / "bin/llama-server").read_bytes() == PROGRAM


def test_a_release_that_loses_its_llama_server_before_the_switch_is_one_sentence(tmp_path):
    install(release(tmp_path, "b1"))
    install(release(tmp_path, "b2"))
    (switch,) = release(tmp_path, "b1").steps()
    shutil.rmtree(next((tmp_path / "releases").glob("b1-*")))
    with pytest.raises(InstallError, match=r"b1-\w+ has lost its llama-server: run again"):
        switch.do()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"sha256": "0" * 64}, "has SHA-256 .* nothing was installed"),
        ({"url": "file:///none.tar.gz"}, "could not be downloaded"),
        ({"name": "other"}, "contains no file llama-server"),
        ({"program": b"#!/bin/sh\nexit 3\n"}, "does not run here"),
    ],
)
def test_what_is_no_release_changes_nothing(tmp_path, made, message):
    install(release(tmp_path, "b1"))
    with pytest.raises(InstallError, match=message):
        install(release(tmp_path, "b2", **made))
    assert sorted(path.name[:3] for path in (tmp_path / "releases").iterdir()) == ["b1-", "cur"]
    assert (tmp_path / "releases/current").readlink().parts[0].startswith("b1-")


@pytest.mark.parametrize(("sha256", "tag"), [("", "b1"), ("x" * 64, "b1"), ("0" * 64, "../b1"), ("0" * 64, "")])
def test_a_checksum_or_a_tag_that_is_none_is_refused(tmp_path, sha256, tag):
    with pytest.raises(InstallError, match=r"set llama_server_release_(sha256|tag)"):
        WantedRelease(tag, "", url="file:///x", sha256=sha256)


@pytest.fixture
def upstream():
    with serving() as server:
        yield server


def test_the_release_names_its_archive_and_checksum_once(tmp_path, upstream):
    name = upstream.publish("b7", archive("b7"))
    releases = published(tmp_path, upstream)
    releases.run()
    assert name in releases.said()
    assert "published SHA-256" in releases.said()
    assert (tmp_path / "bin/llama-server").read_bytes() == PROGRAM
    assert sorted(path.name[:3] for path in (tmp_path / "releases").iterdir()) == ["b7-", "cur"]
    asked = list(upstream.asked)
    assert published(tmp_path, upstream).steps() == []
    assert upstream.asked == asked, "what is there is known without the network"


def test_the_release_before_is_taken_again_without_the_network(tmp_path, upstream):
    for tag in ("b6", "b7"):
        upstream.publish(tag, archive(tag))
        published(tmp_path, upstream, tag).run()
    asked = list(upstream.asked)
    again = published(tmp_path, upstream, "b6")
    again.run()
    assert "already" in again.said()
    assert (tmp_path / "bin/llama-server").resolve().parts[-3].startswith("b6-")
    assert upstream.asked == asked


def test_another_platform_is_another_release(tmp_path, upstream):
    upstream.publish("b7", archive("b7"))
    published(tmp_path, upstream).run()
    upstream.publish("b7", archive("b7", PROGRAM + b"#"), platform="ubuntu-vulkan-x64")
    releases = published(tmp_path, upstream, platform="ubuntu-vulkan-x64")
    assert len(releases.steps()) == 2
    releases.run()
    assert (tmp_path / "bin/llama-server").read_bytes() == PROGRAM + b"#"


def broken(**how):
    def make(upstream):
        name = upstream.publish("b7", archive("b7"))
        for key, value in how.items():
            setattr(upstream, key, {name: value} if key == "digests" else value)

    return make


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda upstream: None, "does not answer .HTTP 404"),
        (lambda upstream: upstream.publish("b7", b"", "win-cpu-x64"), "release b7 has no archive for"),
        (broken(refusal=(403, {"X-RateLimit-Remaining": "0"})), "this address has asked too often"),
        (broken(answer=b"<html>Log in"), "does not list a release"),
        (broken(silent="/repos"), "does not answer .*(timed out|no whole answer)"),
        (broken(silent="/assets"), "could not be downloaded .timed out"),
        (broken(digests=None), "publishes no SHA-256"),
        (broken(digests="sha256:" + "0" * 64), "has SHA-256 .* not 0000"),
        (broken(cuts=[9, 9, 9]), "could not be downloaded .*ended after|more expected"),
        (broken(cuts=[0]), "could not be downloaded"),
        (lambda upstream: upstream.publish("b7", b"no archive"), "can't be unpacked"),
        (lambda upstream: upstream.publish("b7", archive("b7", folder="../..")), "unsafe name"),
        (lambda upstream: upstream.publish("b7", archive("b7", name="other")), "no file llama-server"),
        (
            lambda upstream: upstream.publish(
                "b7", archive("b7", b"#!/bin/sh\necho libssl.so.3 is missing >&2; exit 127\n")
            ),
            "does not run here .libssl.so.3 is missing",
        ),
        (lambda upstream: upstream.publish("b7", archive("b7", b"#!/nonexistent\n")), "built for another system"),
    ],
)
def test_a_release_that_can_not_be_had_changes_nothing(tmp_path, upstream, make, reason):
    upstream.publish("b6", archive("b6"))
    published(tmp_path, upstream, "b6").run()
    make(upstream)
    with pytest.raises(Unavailable, match=reason) as caught:
        published(tmp_path, upstream).run()
    assert caught.value.suspicious == any(word in reason for word in ("has SHA-256", "unpacked", "unsafe"))
    names = {path.name for path in (tmp_path / "releases").iterdir()}
    assert {name for name in names if not name.startswith(".part-")} == {
        "current",
        *(n for n in names if n[:3] == "b6-"),
    }
    assert (len(names) == 3) == ("ended after" in reason), "only half a download stays, for the next try"
    assert (tmp_path / "releases/current").readlink().parts[0].startswith("b6-")


def test_half_a_download_is_completed_by_the_next_run(tmp_path, upstream):
    content = archive("b7", PROGRAM + b"#" * 100)
    upstream.publish("b7", content)
    upstream.cuts = [100, 0]
    with pytest.raises(Unavailable):
        published(tmp_path, upstream).run()
    published(tmp_path, upstream).run()
    assert upstream.asked[-1].endswith("bytes=100-")
    assert (tmp_path / "bin/llama-server").read_bytes() == PROGRAM + b"#" * 100


def test_a_beginning_that_was_wrong_is_fetched_anew(tmp_path, upstream):
    content = archive("b7")
    upstream.publish("b7", content)
    part = tmp_path / f"releases/.part-{hashlib.sha256(content).hexdigest()[:12]}"
    part.parent.mkdir()
    part.write_bytes(b"<html>")
    published(tmp_path, upstream).run()
    assert (tmp_path / "bin/llama-server").read_bytes() == PROGRAM
    assert not part.exists()


def test_a_pinned_checksum_alone_is_of_upstream_s_archive():
    ((found,),) = (offer.archives for offer in WantedRelease("b7", "ubuntu-vulkan-x64", sha256="A" * 64).pinned())
    assert (
        found.url == "https://github.com/ggml-org/llama.cpp/releases/download/b7/llama-b7-bin-ubuntu-vulkan-x64.tar.gz"
    )
    assert found.sha256 == "a" * 64


@pytest.mark.parametrize(
    ("tag", "there", "built"), [("b7", True, True), ("b8", True, False), ("b7", False, False), ("v7", True, False)]
)
def test_that_build_from_elsewhere_counts_as_built(tmp_path, upstream, tag, there, built):
    if there:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin/llama-server").write_bytes(PROGRAM)
        (tmp_path / "bin/llama-server").chmod(0o755)
    assert published(tmp_path, upstream, tag).built() == built


def test_a_release_is_not_built(tmp_path, upstream):
    upstream.publish("b7", archive("b7"))
    published(tmp_path, upstream).run()
    assert not published(tmp_path, upstream).built()


# -- for GPUs ----------------------------------------------------------------------------------------


def program(*devices: str) -> bytes:
    """A llama-server that finds these GPUs."""
    lines = "".join(f"  {name}: A GPU (81559 MiB, 80000 MiB free)\\n" for name in devices)
    return f'#!/bin/sh\ncase $1 in --list-devices) printf "Available devices:\\n{lines}";; *) echo "version: 7 (abc)";; esac\n'.encode()


MACHINE = {"x86_64": "x64", "aarch64": "arm64"}[os.uname().machine]
CUDA, VULKAN = f"ubuntu-cuda-12.8-{MACHINE}", f"ubuntu-vulkan-{MACHINE}"


@pytest.fixture
def nvidia(monkeypatch):
    """A host with a GPU of NVIDIA, whose driver knows CUDA 12.9."""
    monkeypatch.setattr(backend, "gpus", lambda: ("/dev/nvidia0",))
    monkeypatch.setattr(module, "version", lambda name: (12, 9) if name == "cuda" else None)
    monkeypatch.setattr(backend, "program", lambda name: None)


def test_a_gpu_is_used_with_the_libraries_that_come_along(tmp_path, upstream, nvidia):
    upstream.publish("b7", archive("b7", program("CUDA0")), CUDA)
    upstream.publish("b7", archive("b7", b"library", "libcudart.so.12"), name=f"cudart-llama-b7-bin-{CUDA}.tar.gz")
    upstream.publish("b7", archive("b7", program("Vulkan0")), VULKAN)
    upstream.publish("b7", archive("b7"))
    releases = published(tmp_path, upstream, backend="auto")
    releases.run()
    assert (tmp_path / "bin/llama-server").read_bytes() == program("CUDA0")
    assert (tmp_path / "bin/llama-server").resolve().with_name("libcudart.so.12").read_bytes() == b"library"
    assert f"llama-b7-bin-{CUDA}.tar.gz and cudart-llama-b7-bin-{CUDA}.tar.gz" in releases.said()
    assert published(tmp_path, upstream, backend="auto").steps() == []


@pytest.mark.parametrize(
    ("files", "taken", "why"),
    [
        (
            {CUDA: program(), VULKAN: program("Vulkan0"), "": PROGRAM},
            VULKAN,
            r"for vulkan, since .*finds no GPU by cuda",
        ),
        (
            {VULKAN: program("Vulkan0"), "": PROGRAM},
            VULKAN,
            r"for vulkan, since release b7 has no archive for ubuntu-cuda",
        ),
        (
            {CUDA.replace("12.8", "13.4"): program("CUDA0"), VULKAN: program(), "": PROGRAM},
            "",
            r"for cpu, since none of .*13.4.* suits the driver .*, and .*finds no GPU by vulkan",
        ),
        ({CUDA: program("Vulkan0"), "": PROGRAM}, "", "for cpu, since .*no archive for ubuntu-vulkan.*no GPU by cuda"),
    ],
)
def test_what_finds_no_gpu_is_passed_over(tmp_path, upstream, nvidia, files, taken, why):
    for platform, content in files.items():
        upstream.publish("b7", archive("b7", content), platform)
    releases = published(tmp_path, upstream, backend="auto")
    releases.run()
    assert (tmp_path / "bin/llama-server").read_bytes() == files[taken]
    assert re.search(why, releases.said()), releases.said()
    asked = list(upstream.asked)
    assert published(tmp_path, upstream, backend="auto").steps() == []
    assert upstream.asked == asked


def test_another_driver_is_another_wish(tmp_path, upstream, nvidia, monkeypatch):
    upstream.publish("b7", archive("b7", program("CUDA0")), CUDA.replace("12.8", "13.4"))
    upstream.publish("b7", archive("b7"))
    published(tmp_path, upstream, backend="auto").run()
    assert (tmp_path / "bin/llama-server").read_bytes() == PROGRAM
    monkeypatch.setattr(module, "version", lambda name: (13, 4))
    published(tmp_path, upstream, backend="auto").run()
    assert (tmp_path / "bin/llama-server").read_bytes() == program("CUDA0")


def test_a_host_with_the_tools_builds_for_its_gpu_rather_than_take_what_has_none(
    tmp_path, upstream, nvidia, monkeypatch
):
    upstream.publish("b7", archive("b7"))
    monkeypatch.setattr(backend, "program", lambda name: "/usr/bin/nvcc" if name == "cuda" else None)
    with pytest.raises(Unavailable, match="no archive for ubuntu-cuda"):
        published(tmp_path, upstream, backend="auto", or_build=True).run()
    published(tmp_path, upstream, backend="auto").run()
    assert (tmp_path / "bin/llama-server").read_bytes() == PROGRAM


def test_what_is_asked_for_is_taken_as_it_is(tmp_path, upstream, monkeypatch):
    """An image may be made on a host without the GPU."""
    monkeypatch.setattr(module, "version", lambda name: None)
    upstream.publish("b7", archive("b7", program()), CUDA)
    published(tmp_path, upstream, backend="cuda").run()
    assert (tmp_path / "bin/llama-server").read_bytes() == program()


@pytest.mark.parametrize(
    ("flags", "asked", "built"), [([], "cpu", True), (["-DGGML_CUDA=ON"], "cuda", True), ([], "cuda", False)]
)
def test_what_was_built_counts_for_its_own_backend(tmp_path, upstream, flags, asked, built):
    cache = tmp_path / "cache/7/bin"
    cache.mkdir(parents=True)
    (cache / "llama-server").write_bytes(PROGRAM)
    (cache / "llama-server").chmod(0o755)
    (cache / "recipe.json").write_text(json.dumps({"cmake_flags": flags}))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/llama-server").symlink_to(cache / "llama-server")
    assert published(tmp_path, upstream, backend=asked).built() == built


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"backend": "auto"}, f"llama-b7-bin-ubuntu-{MACHINE}.tar.gz"),
        ({"backend": "vulkan"}, f"llama-b7-bin-{VULKAN}.tar.gz"),
        ({"backend": "cuda", "platform": CUDA}, f"llama-b7-bin-{CUDA}.tar.gz"),
    ],
)
def test_a_pinned_checksum_is_of_the_archive_for_its_backend(nvidia, more, name):
    ((archive,),) = (offer.archives for offer in WantedRelease("b7", sha256="a" * 64, **more).pinned())
    assert archive.name == name


def test_a_pinned_archive_with_a_version_in_its_name_has_to_be_named():
    with pytest.raises(InstallError, match=r"set llama_server_release_platform, such as ubuntu-cuda-12\.8-"):
        WantedRelease("b7", sha256="a" * 64, backend="cuda").pinned()
