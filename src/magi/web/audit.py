"""The audit log: one JSON line for each change that somebody asked for, written before it begins."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from magi.errors import MagiError
from magi.state.folder import unwritable
from magi.web.guard import Role


class Audit:
    def __init__(self, path: Path):
        self.path = path

    def write(self, role: Role, client: str, action: str, **what: Any) -> None:
        """Add a line. Raises MagiError, and then the change must not begin."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "role": str(role), "client": client, "action": action, **what})
        try:
            # One write with O_APPEND: lines of several processes don't mix.
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, f"{line}\n".encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise MagiError(f"Nothing was changed, since {unwritable(error, self.path)}") from None
