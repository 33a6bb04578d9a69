# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who deploys: this run of Ansible, as the hosts come to know it."""

from __future__ import annotations

import getpass
import hashlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def controller() -> str:
    """Return what tells this machine, its boot and our process namespace from all others, or an empty text where that
    can't be told (no /proc): pids mean something only within it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return hashlib.sha256(f"{socket.gethostname()} {boot} {namespace}".encode()).hexdigest()[:16]


def user() -> str:
    """Return the name of our user, or the number of one without a name, as containers have."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the latter from Python 3.13 on
        return f"uid {os.getuid()}"


def job(**more: Any) -> dict[str, Any]:
    """Return what the module llama_instances is handed: ``more``, and the identity of this run, as an action sees it:
    its parent is the ansible-playbook process."""
    pid = os.getppid()
    return {
        "files": [],
        "instances": [],
        "actions": [],
        "generation": {},
        "profile": "",
        "deployment": f"{user()}@{socket.gethostname()}, process {pid}",
        "controller": controller(),
        "controller_pid": pid,
        **more,
    }


def gone(worker: Mapping[str, Any]) -> bool:
    """Whether the controller of ``worker`` (a Worker as a mapping) ran here and has ended. False where that can't be
    known, and for a pid that has come to another process since: then a person has to look."""
    if not worker["controller"] or worker["controller"] != controller():
        return False
    try:
        os.kill(worker["controller_pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
