# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who deploys: this run of Ansible, as hosts know it."""

from __future__ import annotations

import getpass
import hashlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def controller() -> str:
    """Return a string for this machine, its boot and our process namespace, within which a pid is unique; empty without
    /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return hashlib.sha256(f"{socket.gethostname()} {boot} {namespace}".encode()).hexdigest()[:16]


def user() -> str:
    """Return the name of our user, or the number of one without a name, as in containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the latter from Python 3.13 on
        return f"uid {os.getuid()}"


def identity() -> dict[str, Any]:
    """Return who deploys: for an action, that is its parent, the ansible-playbook process."""
    from ansible_collections.magi.models.plugins.module_utils._host.procfs import start_time

    pid = os.getppid()
    return {
        "deployment": f"{user()}@{socket.gethostname()}, process {pid}",
        "controller": controller(),
        "controller_pid": pid,
        "controller_started": start_time(pid),
    }


def job(**more: Any) -> dict[str, Any]:
    """Return the arguments of the module llama_instances: ``more``, and the identity of this run."""
    return {
        "files": [],
        "instances": [],
        "actions": [],
        "generation": {},
        "profile": "",
        **identity(),
        **more,
    }


def gone(item: Mapping[str, Any]) -> bool:
    """Whether the controller of ``item`` (a Holder or a Claim as a mapping) ran here and has ended. False if we can't
    know that; for a Holder, also if another process has its pid by now: then a person must look."""
    if not item["controller"] or item["controller"] != controller():
        return False
    try:
        os.kill(item["controller_pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        visible = False  # another user's may be hidden from us (proc(5), hidepid)
    else:
        visible = True
    from ansible_collections.magi.models.plugins.module_utils._host.procfs import start_time

    now = start_time(item["controller_pid"])
    if not now:
        return visible  # what we could end, and has no start any more, is a zombie
    return bool(item.get("controller_started")) and now != item["controller_started"]
