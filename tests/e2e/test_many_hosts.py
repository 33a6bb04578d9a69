"""Hosts that do not answer hold up no others, and those that can't be worked on say why."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pytest

from magi.errors import ExitCode

from ..command import Ran, begin, nobody_s
from ..playbook import start

pytestmark = pytest.mark.e2e

SILENT, GOOD = 38, 2
FAKE_SSH = """#!/bin/sh
# An ssh whose host never answers. It gives up when all of them are at work at once, or after a while.
[ "$*" = "-o ControlPersist" ] && exit 255
touch "$SEEN/$$"
for _ in $(seq 300); do
  [ "$(ls "$SEEN" | wc -l)" -ge "$ALL" ] && break
  sleep 0.1
done
ls "$SEEN" | wc -l >>"$SEEN.at-work"
echo "ssh: connect to host $ALL port 22: Connection timed out" >&2
exit 255
"""
FAKE_PYTHON = """#!/bin/sh
# Python on a host that answers, which is then at work, too.
touch "$SEEN/{name}"
exec python3 "$@"
"""
REFUSING_SSH = """#!/bin/sh
[ "$*" = "-o ControlPersist" ] && exit 255
echo "ada@127.0.2.1: Permission denied (publickey)." >&2
exit 255
"""
OLD_PYTHON = """#!/bin/sh
# Python 3.6, which can't read our modules.
[ "$1" = -c ] && echo "Python 3.6.15" && exit
echo "SyntaxError: future feature annotations is not defined" >&2
exit 1
"""
NOBODY_S_PYTHON = """#!/bin/sh
# Python of a user who is not root.
exec {nobody_s} python3 "$@"
"""


def test_silent_hosts_are_waited_for_together_and_hold_up_no_good_ones(tmp_path: Path):
    fake, seen = tmp_path / "fake-ssh", tmp_path / "seen"
    _write_program(fake, FAKE_SSH)
    seen.mkdir()
    silent = {f"gone{number}": {"ansible_host": f"127.0.2.{number}"} for number in range(1, SILENT + 1)}
    good = {f"good{number}": {"ansible_connection": "local"} for number in range(1, GOOD + 1)}
    for name in good:
        good[name]["ansible_python_interpreter"] = str(tmp_path / name)
        _write_program(tmp_path / name, FAKE_PYTHON.format(name=name))
    group = {
        "hosts": {**silent, **good},
        "vars": {
            "ansible_ssh_executable": str(fake),
            "ansible_python_interpreter": "python3",
            "model_server_manager": "supervisor",
            "model_server_home": str(tmp_path / "home"),
        },
    }
    run = start(tmp_path, group, "status", environment={"SEEN": str(seen), "ALL": str(SILENT + GOOD)}).finish()
    assert run.output.count("UNREACHABLE!") == SILENT, run.output
    assert (tmp_path / "seen.at-work").read_text().split() == [str(SILENT + GOOD)] * SILENT
    assert re.search(r"good2 +: ok=[1-9]\d* .*unreachable=0 +failed=0", run.output), run.output


def test_a_host_that_refuses_us_has_an_old_python_or_is_locked_is_named_with_a_remedy(tmp_path: Path):
    programs = {"ssh": REFUSING_SSH, "old": OLD_PYTHON, "nobody_s": NOBODY_S_PYTHON}
    for name, text in programs.items():
        _write_program(tmp_path / name, text.replace("{nobody_s}", shlex.join(nobody_s())))
    locked = tmp_path / "locked"
    locked.mkdir(mode=0)
    hosts = {
        "refusing": {"ansible_host": "127.0.2.1", "ansible_ssh_executable": str(tmp_path / "ssh")},
        "old": {"ansible_connection": "local", "ansible_python_interpreter": str(tmp_path / "old")},
        "locked": {"ansible_connection": "local", "ansible_python_interpreter": str(tmp_path / "nobody_s")},
    }
    variables = {"model_server_manager": "supervisor", "model_server_home": str(locked / "home")}
    inventory = tmp_path / "inventory.json"
    inventory.write_text(json.dumps({"model_servers": {"hosts": hosts, "vars": variables}}))
    run = Ran(begin(tmp_path / "state", "status", "-i", str(inventory)))
    assert run.code == ExitCode.UNREACHABLE, run.err
    assert "ada@127.0.2.1: Permission denied (publickey). Let your key in there (ssh-copy-id), or" in run.sentence
    assert "Host old: its Python is 3.6.15, and modules need 3.9 or later: install that there and" in run.sentence
    if nobody_s() or os.geteuid():  # else nobody here is not root
        said = rf"Host locked: \[Errno 13\] Permission denied: '{locked}/.*'; let the user read and write there, or"
        assert re.search(said, run.sentence)


def _write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
