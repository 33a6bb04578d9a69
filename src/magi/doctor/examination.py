"""The doctor's visit: facts about this machine, and from a run of playbooks/doctor.yml."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from magi.doctor import checks
from magi.doctor.checks import OK, PROBLEM, WARNING, Finding, Machine
from magi.domain import Profile, printable
from magi.errors import ExitCode, ProfileError
from magi.events import Run
from magi.profiles import files
from magi.project import Project
from magi.result import Result


def machine(project: Project) -> Machine:
    """Return the facts about this machine."""
    try:
        from ansible.release import __version__ as core
    except ImportError:
        core = None
    return Machine(
        platform.python_version(),
        core,
        str(project.collections),
        shutil.which("ssh") is not None,
    )


def findings(project: Project, run: Run) -> list[Finding]:
    """Return the findings of a run, also on the active profile; each host may have its own."""
    hosts = checks.collect(run.results())
    wanted = {
        name: (Path(host.settings.get("profiles_dir") or project.profiles), host.settings["profile"])
        for name, host in hosts.items()
        if host.settings
    }
    profiles: dict[tuple[Path, str], Profile] = {}
    problems = []
    for folder, name in sorted({*wanted.values()}):
        try:
            profiles[folder, name] = files.load_profile(files.find(folder, name))
        except ProfileError as error:
            problems.append(str(error))
    active = {host: profiles[which] for host, which in wanted.items() if which in profiles}
    return checks.findings(machine(project), hosts, active, problems)


_MARKS = {OK: "ok", WARNING: "warning", PROBLEM: "PROBLEM"}


def diagnosis(findings: Sequence[Finding], strict: bool = False) -> Result:
    """The findings of the doctor; the exit code is 1 where there is a problem, or with ``strict`` a warning."""
    lines = []
    for host in dict.fromkeys(finding.host for finding in findings):
        lines += ["", f"{host or 'This machine'}:"]
        lines += [f"  {_MARKS[item.severity]:8} {printable(item.message)}" for item in findings if item.host == host]
    problems = sum(item.severity == PROBLEM for item in findings)
    warnings = sum(item.severity == WARNING for item in findings)
    lines += ["", f"Problems: {problems}, warnings: {warnings}."]
    bad = problems or (strict and warnings)
    data = {"problems": problems, "warnings": warnings, "findings": [asdict(item) for item in findings]}
    return Result.of(data, lines[1:], ExitCode.FAILED if bad else ExitCode.OK)
