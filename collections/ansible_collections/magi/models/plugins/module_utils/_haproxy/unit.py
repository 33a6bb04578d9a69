# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The gateway under systemd: a hardened unit of its own, beside the distribution's."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from ansible_collections.magi.models.plugins.module_utils._haproxy.sockets import Sockets
from ansible_collections.magi.models.plugins.module_utils._services.systemd import (
    UNITS,
    Systemd,
    systemctl,
    systemd_argument,
    systemd_program,
)
from ansible_collections.magi.models.plugins.module_utils._services.values import Filters, ServiceError, Template

UNIT = "magi-gateway.service"


class Unit:
    name: ClassVar[str] = Systemd.name
    templates: ClassVar[Sequence[Template]] = (Template("magi-gateway.service.j2", str(UNITS / UNIT), 0o644),)
    filters: ClassVar[Filters] = {"systemd_argument": systemd_argument, "systemd_program": systemd_program}

    def __init__(self, home: Path):
        self.home = home
        folder = "/run/magi-gateway"  # RuntimeDirectory= of the unit
        self.sockets = Sockets.at(lambda name: f"{folder}/{name}.sock")
        self.secrets = f"{folder}/secrets"  # where the unit copies them: its user is made at its start

    def values(self) -> dict[str, str]:
        return {}

    def owned(self) -> list[Path]:
        return [path for path in (UNITS / UNIT,) if path.exists()]

    def running(self) -> bool:
        return systemctl("show", "--value", "--property=ActiveState", UNIT).strip() in (
            "active",
            "reloading",
            "activating",
        )

    def start(self) -> None:
        systemctl("daemon-reload")
        with contextlib.suppress(ServiceError):  # one that was never loaded has nothing to reset
            systemctl("reset-failed", UNIT)
        with contextlib.suppress(ServiceError):  # what HAProxy said is in its log
            systemctl("enable", "--now", UNIT)

    def reload(self) -> None:
        systemctl("daemon-reload")
        systemctl("reload", UNIT)

    def logs(self, lines: int) -> list[str]:
        return subprocess.run(
            ["journalctl", "--unit", UNIT, "--lines", str(lines), "--output", "cat", "--no-pager", "--quiet"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        ).stdout.splitlines()

    def remove(self) -> None:
        with contextlib.suppress(ServiceError):  # without its file, there is nothing to disable
            systemctl("disable", "--now", UNIT)
        for path in self.owned():
            path.unlink()
        systemctl("daemon-reload")
        with contextlib.suppress(ServiceError):
            systemctl("reset-failed", UNIT)
