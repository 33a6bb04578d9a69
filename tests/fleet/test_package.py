"""llama-server from a distribution's package: a real one, from a repository in a folder of the host."""

from __future__ import annotations

import pytest

from .conftest import Fleet, build

pytestmark = pytest.mark.fleet

REPOSITORY = """
set -e
mkdir -p /srv/apt/tree/DEBIAN /srv/apt/tree/usr/bin
cp /opt/llama.cpp/{build}/bin/llama-server /srv/apt/tree/usr/bin/
printf 'Package: llama.cpp\\nVersion: 1\\nArchitecture: all\\nMaintainer: tests\\nDescription: tests\\n' >/srv/apt/tree/DEBIAN/control
dpkg-deb --build -Znone /srv/apt/tree /srv/apt/llama.cpp.deb
cd /srv/apt
{{ cat tree/DEBIAN/control
  printf 'Filename: ./llama.cpp.deb\\nSize: %s\\n' $(stat -c %s llama.cpp.deb)
  printf 'SHA256: %s\\n' $(sha256sum llama.cpp.deb | cut -d' ' -f1); }} >Packages
echo 'deb [trusted=yes] file:/srv/apt ./' >/etc/apt/sources.list.d/tests.list
apt-get update -o Dir::Etc::sourcelist=sources.list.d/tests.list -o Dir::Etc::sourceparts=-
"""
REMOVE = "apt-get purge -qy llama.cpp; rm -rf /srv/apt /etc/apt/sources.list.d/tests.list /usr/local/bin/llama-server"


@pytest.fixture
def repository(fleet: Fleet):
    fleet.sh("host1", REPOSITORY.format(build=build()))
    yield
    fleet.sh("host1", REMOVE)


def test_package_check_install_again_check(fleet: Fleet, repository):
    def prepare(*arguments: str):
        run = fleet.play(
            "prepare",
            *("--limit", "host1", *arguments),
            llama_server_install_method="package",
            llama_server_path="/usr/local/bin/llama-server",
        )
        assert run.code == 0, run.output
        return run.changed

    assert prepare("--check") == 2
    assert fleet.sh("host1", "ls /usr/local/bin") == ""
    assert prepare() == 2
    assert "version" in fleet.sh("host1", "/usr/local/bin/llama-server --version 2>&1")
    assert (prepare(), prepare("--check")) == (0, 0)
