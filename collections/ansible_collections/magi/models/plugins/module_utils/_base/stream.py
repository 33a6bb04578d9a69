# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A file in which a module that runs on says what it has so far; its reader touches another beside it at each look."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any


class Stream:
    """The file at ``path``, which only its writer and root can read, a JSON object a line. Raises OSError if it is
    there."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        self.seen = self.path.with_name(f"{self.path.name}.seen")
        self.since = time.time()

    def tell(self, item: Any, *, alone: bool = False) -> None:
        """Add an object; ``alone``: in the place of all before it. A reader may then find half a line."""
        if alone:
            os.ftruncate(self.file, 0)
        os.write(self.file, json.dumps(item).encode() + b"\n")

    def unread(self) -> float:
        """Return for how many seconds nobody has looked."""
        with contextlib.suppress(OSError):
            self.since = max(self.since, self.seen.stat().st_mtime)
        return time.time() - self.since

    def end(self) -> None:
        """Say that nothing more comes."""
        self.tell({"end": True})
        os.close(self.file)

    def remove(self) -> None:
        """Remove both files: nobody reads them any more."""
        os.close(self.file)
        for path in (self.path, self.seen):
            path.unlink(missing_ok=True)
