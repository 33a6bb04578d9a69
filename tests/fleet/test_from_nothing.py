"""docs/fleet.md as a stranger follows it: an empty directory, fresh hosts, a user with sudo, and an answer at the end.

Its commands run one after the other as they are printed, in a mount namespace of their own: ~/.ssh and /etc/hosts are the
test's, so that gpu1 and gpu2 are test hosts, and nobody's keys are touched.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from ..playbook import clean_environment
from .conftest import ROOT, Fleet, bare, build

pytestmark = pytest.mark.fleet

PASSWORD = "correct horse"
HOSTS = {"gpu1": "host1", "gpu2": "host2"}
OPS = f"""
useradd --create-home --shell /bin/bash ops && echo 'ops:{PASSWORD}' | chpasswd
echo 'ops ALL=(ALL) ALL' >/etc/sudoers.d/ops
echo 'Defaults umask=0077, umask_override' >/etc/sudoers.d/umask
echo 'PasswordAuthentication yes' >/etc/ssh/sshd_config.d/00-ops.conf && systemctl reload ssh
ln -s /opt/llama.cpp/{build()}/bin/llama-server /usr/local/bin/
"""
NO_OPS = """
rm -f /etc/sudoers.d/ops /etc/sudoers.d/umask /etc/ssh/sshd_config.d/00-ops.conf /usr/local/bin/llama-server /etc/magi-keys
systemctl reload ssh; pkill -u ops; userdel --force --remove ops
"""
# What ssh and ssh-keygen ask a person.
ASKPASS = f"""#!/bin/sh
case "$1" in
  *fingerprint*) echo yes ;;
  *password*) echo '{PASSWORD}' ;;
  *) echo ;;
esac
"""
MAGI = """#!{python}
import sys

sys.path.insert(0, {source!r})
from magi.cli import main

sys.exit(main())
"""


def steps() -> Iterator[tuple[str, str]]:
    """Yield language and content of each block, up to the end of the last step."""
    text = (ROOT / "docs" / "fleet.md").read_text().partition("\n## ")[0]
    yield from re.findall(r"```(console|yaml)\n(.*?)```", text, re.DOTALL)


@dataclass
class Desk:
    """A directory of somebody who has nothing yet."""

    own: Path
    """What the test keeps for it."""
    folder: Path
    """Where it works."""
    namespace: int
    """The process that holds it."""

    def run(self, command: str, code: int = 0) -> str:
        done = subprocess.run(
            ["nsenter", "--mount", "--target", str(self.namespace), "bash", "-c", f"cd {self.folder} && {command}"],
            env={
                **{key: value for key, value in clean_environment().items() if not key.startswith("ANSIBLE_")},
                "MAGI_DOTENV": "",
                "PATH": f"{self.own / 'bin'}:{os.environ['PATH']}",
                "XDG_STATE_HOME": str(self.own / "state"),
                "SSH_ASKPASS": str(self.own / "askpass"),
                "SSH_ASKPASS_REQUIRE": "force",
                "DISPLAY": ":0",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            start_new_session=True,  # without a terminal that ssh would ask at
        )
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}"
        assert "Traceback" not in done.stdout
        return done.stdout

    def settle(self, variables: str) -> None:
        """Put variables into the inventory, as the document says."""
        path = self.folder / "inventories" / "fleet" / "hosts.yml"
        inventory = yaml.safe_load(path.read_text())
        inventory["model_servers"]["vars"].update(yaml.safe_load(variables))
        path.write_text(yaml.safe_dump(inventory))


@pytest.fixture
def desk(fleet: Fleet, tmp_path: Path) -> Iterator[Desk]:
    bare(fleet, *HOSTS.values())
    for host in HOSTS.values():
        fleet.sh(host, OPS)
    for name in ("bin", "ssh", "empty"):
        (tmp_path / name).mkdir(mode=0o700)
    for path, text in (
        ("bin/magi", MAGI.format(python=sys.executable, source=str(ROOT / "src"))),
        ("bin/pipx", "#!/bin/sh\n"),  # tests/e2e/test_wheel.py installs a wheel
        ("askpass", ASKPASS),
    ):
        (tmp_path / path).write_text(text)
        (tmp_path / path).chmod(0o755)
    addresses = {name: fleet.hosts[host] for name, host in HOSTS.items()}
    (tmp_path / "hosts").write_text(
        "127.0.0.1 localhost\n" + "".join(f"{item['ansible_host']} {name}\n" for name, item in addresses.items())
    )
    (tmp_path / "ssh" / "config").write_text(
        "".join(f"Host {name}\n  Port {item.get('ansible_port', 22)}\n" for name, item in addresses.items())
    )
    (tmp_path / "ssh" / "config").chmod(0o600)
    theirs = Path.home() / ".ssh"
    theirs.mkdir(mode=0o700, exist_ok=True)
    script = (
        f"mount --bind {tmp_path}/ssh {theirs} && mount --bind {tmp_path}/hosts /etc/hosts && echo && exec sleep 3600"
    )
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script], stdout=subprocess.PIPE
    )
    assert holder.stdout.read(1) == b"\n"
    yield Desk(tmp_path, tmp_path / "empty", holder.pid)
    holder.kill()
    holder.wait()
    bare(fleet, *HOSTS.values())
    for host in HOSTS.values():
        fleet.sh(host, NO_OPS, check=False)


def test_from_an_empty_directory_to_an_answer(fleet: Fleet, desk: Desk):
    printed: list[str] = []
    (no_password,) = re.findall(r"`(ops ALL[^`]* NOPASSWD[^`]*)`", (ROOT / "docs" / "fleet.md").read_text())
    for language, block in steps():
        if language == "yaml":
            # Of the ways to llama-server, the host has one already; the others have tests of their own.
            if yaml.safe_load(block).get("llama_server_install_method", "path") == "path":
                desk.settle(block)
            continue
        for line in block.splitlines():
            command = line.partition("   #")[0].strip()
            if command == "magi prepare":
                refused = desk.run(command, code=1)
                assert "Missing sudo password" in refused
                assert "ANSIBLE_BECOME_PASSWORD_FILE" in refused
                secret = desk.own / "become-password"
                secret.write_text(PASSWORD)
                (desk.folder / ".env").write_text(f"ANSIBLE_BECOME_PASSWORD_FILE={secret}\n")
            if command.startswith("ssh ops@"):
                host = HOSTS[command.removeprefix("ssh ops@").partition(" ")[0]]
                fleet.sh(host, f"echo '{no_password}' >/etc/sudoers.d/ops")
            printed.append(desk.run(command))
            if command.startswith("cd "):
                desk.folder = desk.folder / shlex.split(command)[1]
    assert json.loads(printed[-1])["choices"][0]["message"]["content"].strip()
    assert any(re.search(r"gpu1: \d+ tokens", text) for text in printed)
    assert any("8/8 ready" in text for text in printed)
    for host in HOSTS.values():  # as promised, though sudo has the umask 0077 there
        folders = fleet.sh(host, "stat --format=%n=%a /etc/magi /etc/magi/instances /var/lib/magi").split()
        assert folders == ["/etc/magi=755", "/etc/magi/instances=755", "/var/lib/magi=755"]


@pytest.mark.parametrize("block", [text for language, text in steps() if "install_method" in text])
def test_each_way_to_llama_server_is_one_that_the_role_has(block: str):
    role = ROOT / "collections/ansible_collections/magi/models/roles/llama_server/meta/argument_specs.yml"
    options = yaml.safe_load(role.read_text())["argument_specs"]["main"]["options"]
    variables = yaml.safe_load(block)
    assert variables.pop("llama_server_install_method") in options["llama_server_install_method"]["choices"]
    assert {*variables} <= {*options, "model_server_llama_server_path"}
