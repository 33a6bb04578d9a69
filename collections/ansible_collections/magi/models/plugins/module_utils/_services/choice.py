# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The service manager of a host, and the class that knows how to use it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ansible_collections.magi.models.plugins.module_utils._base.managers import (
    ENGINES,
    MANAGERS,
    SERVER_CHOICES,
)
from ansible_collections.magi.models.plugins.module_utils._services.manager import ServiceManager
from ansible_collections.magi.models.plugins.module_utils._services.values import ServiceError

SERVICE_OPTIONS = {
    "home": {"type": "path", "required": True},
    "manager": {"type": "str", "choices": list(SERVER_CHOICES), "default": "auto"},
    "supervisord_path": {"type": "path", "default": "supervisord"},
}
"""The arguments of every module that looks at the services of a host (argument specification)."""


_UNIT = Path("/etc/systemd/system/magi-llama@.service")
_LEFT = {
    "supervisor": ("supervisor/supervisord.conf",),
    **{name: (f"{name}/*.args", f"{name}/pulled", f"{name}/boot.service") for name in ENGINES},
}
"""By manager, the files that tell that a home folder has something of its."""


def others(manager: ServiceManager, home: str) -> list[ServiceManager]:
    """Return the managers that have something of ours for the folder ``home`` beside ``manager``: the setting was
    another before."""
    found = [name for name, files in _LEFT.items() if any(any(Path(home).glob(pattern)) for pattern in files)]
    with contextlib.suppress(OSError):
        found += ["systemd"] if f"={home}/instances/" in _UNIT.read_text() else []
    return [chosen(name, home, left=True) for name in found if name != manager.name]


def usable(manager: ServiceManager) -> ServiceManager:
    """Return ``manager`` if this process may use it. Raises ServiceError."""
    if manager.capabilities.needs_root and os.geteuid():
        raise ServiceError(
            f"{manager.name} can only be used by root, but the connection is user {os.geteuid()}'s: connect as root "
            "(ansible_user: root), or set ansible_become: true."
        )
    return manager


_SIGNS = {"systemd": "/run/systemd/system", "supervisor": "/"}
"""By manager, the folder that shows that it can be used on a machine (systemd: sd_booted(3))."""


def chosen(manager: str, home: str, program: str = "", *, left: bool = False) -> ServiceManager:
    """Return the service manager for the folder ``home``; ``manager`` is its name or auto.

    ``program`` is the manager's program, if it is not the usual one (supervisord). ``left``: it was chosen before, and
    another is now.
    """
    name = next(name for name in MANAGERS if Path(_SIGNS[name]).is_dir()) if manager == "auto" else manager
    # Imported here: a host needs only one of them, and each import there is compiled again in every call.
    if name == "systemd":
        from ansible_collections.magi.models.plugins.module_utils._services.systemd import Systemd

        return Systemd(Path(home))
    if name in ENGINES:
        from ansible_collections.magi.models.plugins.module_utils._services.containers import Docker, Podman

        return Docker(Path(home), left=left) if name == Docker.name else Podman(Path(home), left=left)
    from ansible_collections.magi.models.plugins.module_utils._services.supervisor import Supervisor

    return Supervisor(Path(home), program or "supervisord")
