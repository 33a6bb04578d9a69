# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The gateway under supervisor: the only program of a supervisord of its own, so that neither the instances of the host
nor their teardown know of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.magi.models.plugins.module_utils._base.states import State
from ansible_collections.magi.models.plugins.module_utils._haproxy.sockets import Sockets
from ansible_collections.magi.models.plugins.module_utils._services.supervisor import Supervisor
from ansible_collections.magi.models.plugins.module_utils._services.values import (
    Filters,
    ServiceError,
    Status,
    Template,
)

PROGRAM = "gateway"


class Program:
    name: ClassVar[str] = Supervisor.name
    templates: ClassVar[Sequence[Template]] = (
        Template("supervisord.conf.j2", "{home}/supervisor/supervisord.conf", 0o600),
        Template("gateway.conf.j2", "{home}/supervisor/programs/gateway.conf", 0o600, per_instance=True),
    )
    filters: ClassVar[Filters] = Supervisor.filters

    def __init__(self, home: Path, supervisord_path: str):
        self.supervisor = Supervisor(home, supervisord_path)
        self.secrets = "../../secrets"  # from home/configurations/REVISION, without a character of home
        self.sockets = Sockets.at(self._path)

    def _path(self, what: str) -> str:
        """Return a path beside supervisord's socket, which is in /tmp where the path here would be too long."""
        path = Path(self.supervisor.socket)
        short = path.parent == self.supervisor.folder
        return str(path.with_name(f"{what}.sock" if short else f"{what}-{path.name}"))

    def values(self) -> dict[str, Any]:
        return dict(self.supervisor.values())

    def owned(self) -> list[Path]:
        return [*self.supervisor.common(), *self.supervisor.owned()]

    def _status(self) -> Status:
        return self.supervisor.status().get(PROGRAM, Status(State.STOPPED))

    def running(self) -> bool:
        return self._status().pid is not None

    def start(self) -> None:
        definition = self.supervisor.folder / "programs" / "gateway.conf"
        content = definition.read_bytes()
        self.supervisor.prepare()  # a new supervisord starts without programs
        definition.write_bytes(content)
        definition.chmod(0o600)
        self.supervisor.reload()
        refused = self.supervisor.start([PROGRAM])
        if refused:
            raise ServiceError(refused[PROGRAM])

    def reload(self) -> None:
        pid = self._status().pid
        if pid is None:
            raise ServiceError(f"supervisord of {self.supervisor.folder} no longer runs the gateway; run again.")
        os.kill(pid, signal.SIGUSR2)

    def logs(self, lines: int) -> list[str]:
        return self.supervisor.logs(PROGRAM, lines)

    def remove(self) -> None:
        self.supervisor.stop(PROGRAM)
        self.supervisor.forget(PROGRAM)
        for path in astuple(self.sockets):
            Path(path).unlink(missing_ok=True)
        self.supervisor.remove()
