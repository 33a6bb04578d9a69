# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How a host runs HAProxy for a gateway: one class for each service manager, one protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Protocol

from ansible_collections.magi.models.plugins.module_utils._haproxy.sockets import Sockets
from ansible_collections.magi.models.plugins.module_utils._services.values import Filters, Template


class GatewayService(Protocol):
    """The service of the gateway in one folder of ours (home)."""

    name: ClassVar[str]
    templates: ClassVar[Sequence[Template]]
    """On the controller, the role's templates of the files that define it."""
    filters: ClassVar[Filters]
    sockets: Sockets
    secrets: str
    """The folder in which HAProxy finds its secret files: letters, digits and /.- alone. Where it is relative, from the
    folder of the configuration."""

    def values(self) -> dict[str, str]:
        """Return the values for its templates, beyond those that all managers' templates get."""

    def owned(self) -> list[Path]:
        """Return the existing files that define it."""

    def running(self) -> bool:
        """Whether the manager runs it, or is about to."""

    def start(self) -> None:
        """Start it, with the definition that lies there now. Raises ServiceError."""

    def reload(self) -> None:
        """Let HAProxy take its new configuration; what has begun goes on. Raises ServiceError."""

    def logs(self, lines: int) -> list[str]:
        """Return the last lines that HAProxy printed, oldest first."""

    def remove(self) -> None:
        """Stop it, and remove what defines it, and the manager where it is ours. Raises ServiceError."""
