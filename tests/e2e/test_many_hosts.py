"""Hosts that do not answer hold up no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..playbook import start

pytestmark = pytest.mark.e2e

SILENT = 38
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


def test_silent_hosts_are_waited_for_together(tmp_path: Path):
    fake, seen = tmp_path / "fake-ssh", tmp_path / "seen"
    fake.write_text(FAKE_SSH)
    fake.chmod(0o755)
    seen.mkdir()
    silent = {f"gone{number}": {"ansible_host": f"127.0.2.{number}"} for number in range(1, SILENT + 1)}
    group = {"hosts": silent, "vars": {"ansible_ssh_executable": str(fake), "ansible_python_interpreter": "python3"}}
    run = start(tmp_path, group, "status", environment={"SEEN": str(seen), "ALL": str(SILENT)}).finish()
    assert run.output.count("UNREACHABLE!") == SILENT, run.output
    assert (tmp_path / "seen.at-work").read_text().split() == [str(SILENT)] * SILENT
