# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The service manager of a gateway's host, and the class that knows how to use it."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.magi.models.plugins.module_utils._haproxy.program import Program
from ansible_collections.magi.models.plugins.module_utils._haproxy.service import GatewayService
from ansible_collections.magi.models.plugins.module_utils._haproxy.unit import Unit
from ansible_collections.magi.models.plugins.module_utils._services.choice import chosen, usable


def gateway_service(manager: str, home: str, supervisord_path: str = "") -> GatewayService:
    """Return the service for the folder ``home``; ``manager`` is its manager's name or auto."""
    if chosen(manager, home).name == Unit.name:
        return Unit(Path(home))
    return Program(Path(home), supervisord_path or "supervisord")


def check_usable(manager: str, home: str) -> None:
    """Raise ServiceError if this process may not use the manager."""
    usable(chosen(manager, home))
