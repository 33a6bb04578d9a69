"""Releases side by side in a folder; the archives are small, and their llama-server is a script."""

from __future__ import annotations

import hashlib
import io
import shutil
import socket
import tarfile
import threading
from pathlib import Path

import pytest
from ansible_collections.magi.models.plugins.module_utils._install.download import DownloadError, download
from ansible_collections.magi.models.plugins.module_utils._install.release import Releases
from ansible_collections.magi.models.plugins.module_utils._install.step import InstallError

PROGRAM = b"#!/bin/sh\necho 'version: 7 (abc)'\n"


def release(tmp_path: Path, tag: str, program: bytes = PROGRAM, name: str = "llama-server", **more) -> Releases:
    archive = tmp_path / f"{tag}.tar.gz"
    if not archive.exists():
        with tarfile.open(archive, "w:gz") as bundle:
            member = tarfile.TarInfo(f"llama-{tag}/bin/{name}")
            member.size, member.mode = len(program), 0o755
            bundle.addfile(member, io.BytesIO(program))
    wanted = {"url": archive.as_uri(), "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(), "keep": 2, **more}
    return Releases(tmp_path / "bin/llama-server", tmp_path / "releases", tag=tag, **wanted)


def install(releases: Releases) -> list[str]:
    steps = releases.steps()
    for step in steps:
        step.do()
    return [str(step).partition("-")[0] for step in steps]


def test_each_release_goes_in_beside_the_others_and_two_stay(tmp_path):
    assert install(release(tmp_path, "b1")) == ["install b1", "switch to b1", "link"]
    assert install(release(tmp_path, "b1")) == []
    assert install(release(tmp_path, "b2")) == ["install b2", "switch to b2"]
    assert install(release(tmp_path, "b3")) == ["install b3", "switch to b3", "remove b1"]
    assert install(release(tmp_path, "b2")) == ["switch to b2"]
    assert (tmp_path / "bin/llama-server").resolve().parts[-4].startswith("b2-")


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
        Releases(tmp_path / "x", tmp_path, tag=tag, url="file:///x", sha256=sha256, keep=2)


def test_a_download_that_ends_too_early_is_none(tmp_path):
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _address = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    thread = threading.Thread(target=serve)
    thread.start()
    with listener, pytest.raises(DownloadError, match=r"ended after 4 of 100 bytes|4 bytes read, 96 more"):
        download(f"http://127.0.0.1:{listener.getsockname()[1]}/x", tmp_path / "x")
    thread.join()
