# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A timer of systemd's, and the service that it starts."""

from __future__ import annotations

import contextlib
from typing import ClassVar

from ansible_collections.magi.models.plugins.module_utils._services.systemd import (
    UNITS,
    systemctl,
    systemd_argument,
    systemd_path,
    systemd_value,
)
from ansible_collections.magi.models.plugins.module_utils._services.values import Filters, ServiceError


class Timer:
    filters: ClassVar[Filters] = {
        "systemd_argument": systemd_argument,
        "systemd_path": systemd_path,
        "systemd_value": systemd_value,
    }
    """For the templates of its units."""
    folder: ClassVar[str] = str(UNITS)

    def __init__(self, service: str, timer: str):
        self.service, self.timer = service, timer

    def runs(self) -> bool:
        """Whether systemd starts the service in time, and will after the next boot. Raises ServiceError."""
        found = systemctl("show", "--property=ActiveState,UnitFileState", self.timer).split()
        return {*found} == {"ActiveState=active", "UnitFileState=enabled"}

    def start(self) -> None:
        """Let systemd read the units, and begin anew. Raises ServiceError."""
        systemctl("daemon-reload")
        systemctl("enable", self.timer)
        systemctl("restart", self.timer)

    def stop(self) -> None:
        """Stop both, while their files are still there."""
        with contextlib.suppress(ServiceError):  # what was never loaded can't be stopped
            systemctl("disable", "--now", self.timer)
        with contextlib.suppress(ServiceError):
            systemctl("stop", self.service)

    def forget(self) -> None:
        """Let systemd see that their files are gone. Raises ServiceError."""
        systemctl("daemon-reload")
        with contextlib.suppress(ServiceError):
            systemctl("reset-failed", self.service, self.timer)
