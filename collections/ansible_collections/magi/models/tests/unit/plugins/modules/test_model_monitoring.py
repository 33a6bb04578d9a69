"""The functional probe on a host: a process, arguments on standard input, one JSON result; with a fake systemctl."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.magi.models.plugins.modules import model_monitoring

FAKE_SYSTEMCTL = """#!/bin/sh
# Knows one timer: whether it runs, and whether its unit was read since it changed.
cd "$FAKE_HOST" || exit
case "$1 $2 $3" in *show*) ;; *) echo "$*" | sed 's/--no-ask-password //' >>called ;; esac
case "$2" in
  restart) touch running ;;
  disable) rm -f running ;;
  show) [ -e running ] && printf 'ActiveState=active\\nUnitFileState=enabled\\n' || printf 'ActiveState=inactive\\n' ;;
esac
"""


class Host:
    """A folder for each that the module writes to; ``systemd`` runs it."""

    def __init__(self, folder: Path):
        self.folder, self.systemd = folder, folder / "systemd"
        self.systemd.mkdir()
        (folder / "systemctl").write_text(FAKE_SYSTEMCTL)
        (folder / "systemctl").chmod(0o755)

    def run(self, program="1", interval="1", check=False, keep=()):
        """Let the module make the probe of these contents, None: no probe; return its result."""

        def part(name, files, ours):
            there = {} if program is None else files
            return {"folder": str(self.folder / name), "files": there, "ours": ours, "keep": list(keep)}

        units = {"magi-probe.service": "x", "magi-probe.timer": interval}
        job = {
            "textfile_dir": part("textfiles", {}, ["magi-probe.prom"]),
            "probe_home": part("program", {"__main__.py": program}, ["*.py"]),
            "units": part("units", units, [*units]),
        }
        given = {"probe_home": str(self.folder / "program"), "job": job, "_ansible_check_mode": check}
        code = (
            "import sys; sys.path[:0] = sys.argv.pop().split(':')\n"
            f"from {model_monitoring.__name__} import main\nimport {model_monitoring.__name__} as module\n"
            "from ansible.module_utils import basic\n"
            "basic._ANSIBLE_PROFILE = 'legacy'\n"
            f"module.BOOTED = {str(self.systemd)!r}\n"
            "main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, ":".join(entry for entry in sys.path if entry)],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": given}),
            env={**os.environ, "FAKE_HOST": str(self.folder), "PATH": f"{self.folder}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def called(self):
        """Return what systemctl was told since the last time."""
        path = self.folder / "called"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def files(self):
        parts = ("textfiles", "program", "units")
        return {path.name for part in parts for path in (self.folder / part).glob("*")}


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


STARTED = ["daemon-reload", "enable magi-probe.timer", "restart magi-probe.timer"]


def test_check_then_real_then_again_then_check_again(host):
    first = host.run(check=True)
    assert (host.files(), host.called()) == (set(), [])
    second = host.run()
    assert host.files() == {"__main__.py", "magi-probe.service", "magi-probe.timer"}
    assert host.called() == STARTED
    third, fourth = host.run(), host.run(check=True)
    assert host.called() == []
    assert [result["changed"] for result in (first, second, third, fourth)] == [True, True, False, False]
    assert first["diff"] == second["diff"]


@pytest.mark.parametrize("change", [{"program": "2"}, {"interval": "2"}])
def test_a_change_is_taken_at_once(host, change):
    host.run()
    host.called()
    assert host.run(**change)["changed"]
    assert host.called() == STARTED


def test_a_timer_that_somebody_stopped_runs_again(host):
    host.run()
    host.called()
    (host.folder / "running").unlink()
    assert host.run()["changed"]
    assert host.called() == STARTED


def test_nothing_is_left_of_it(host):
    host.run()
    (host.folder / "textfiles").mkdir()
    (host.folder / "textfiles" / "magi-probe.prom").write_text("x")
    there = host.files()
    host.called()
    assert host.run(program=None, check=True)["changed"]
    assert (host.files(), host.called()) == (there, [])
    assert host.run(program=None)["changed"]
    assert host.called() == [
        *("disable --now magi-probe.timer", "stop magi-probe.service"),
        *("daemon-reload", "reset-failed magi-probe.service magi-probe.timer"),
    ]
    assert host.files() == set()
    assert not (host.folder / "program").exists()
    assert not host.run(program=None)["changed"]
    assert host.called() == []


def test_without_systemd_there_is_none(host):
    host.systemd.rmdir()
    result = host.run()
    assert not (result["changed"] or result["timed"])
    assert (host.files(), host.called()) == (set(), [])
