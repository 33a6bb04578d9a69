"""The doctor's visit: what is collected of this machine, and of a run of playbooks/doctor.yml."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magi import doctor, profiles
from magi.errors import ProfileError
from magi.events import Run
from magi.project import Project


def controller(project: Project) -> doctor.Controller:
    """Return what is so on this machine."""
    try:
        from ansible.release import __version__ as core
    except ImportError:
        core = None
    return doctor.Controller(
        platform.python_version(),
        core,
        str(project.collections),
        shutil.which("ssh") is not None,
    )


def findings(project: Project, run: Run) -> list[doctor.Finding]:
    """Return the findings of a run, the active profile examined too. Hosts may have one each."""
    hosts = doctor.collect(run.results())
    wanted = {(_folder(project, host.settings), host.settings["profile"]) for host in hosts.values() if host.settings}
    profile, problems = None, []
    for folder, name in sorted(wanted):
        try:
            profile = profiles.load_profile(profiles.find(folder, name))
        except ProfileError as error:
            problems.append(str(error))
    return doctor.findings(controller(project), hosts, profile, problems)


def _folder(project: Project, settings: Mapping[str, Any]) -> Path:
    return Path(settings.get("profiles_dir") or project.profiles)
