# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the last deployments made of a host or a gateway, in a file each, so that a rollback can bring it back."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.files import make_folder, write_atomic, writing

KEPT = 3
"""Deployments that are remembered, with the present one."""


def generations(home: str) -> list[Path]:
    """Return the files of what is remembered below ``home``, the oldest first. Each is named after the time at which
    its deployment began, in seconds since the epoch by the controller's clock."""
    found = []
    for path in (Path(home) / "generations").glob("*.json"):
        with contextlib.suppress(ValueError):
            found.append((float(path.stem), path))
    return [path for _began, path in sorted(found)]


def history(home: str) -> list[dict[str, Any]]:
    """Return what is remembered, the oldest first; a file that can't be read is left out."""
    entries = []
    for path in generations(home):
        with contextlib.suppress(OSError, ValueError):
            entries.append({**json.loads(path.read_bytes()), "began_at": float(path.stem)})
    return entries


def remember(home: str, began_at: float, made: Mapping[str, Any]) -> None:
    """Remember what a deployment ``made``, and the two before it; what came later is forgotten, for a rollback went
    back behind it. Only the owner may read it. Raises FileWriteError."""
    folder = Path(home) / "generations"
    make_folder(folder)
    path = folder / f"{began_at!r}.json"
    write_atomic(path, json.dumps(made).encode(), 0o600)
    there = generations(home)
    place = there.index(path)
    for old in (*there[: max(0, place + 1 - KEPT)], *there[place + 1 :]):
        with writing(old):
            old.unlink(missing_ok=True)


def forget(home: str) -> None:
    """Remove all that is remembered. Raises FileWriteError."""
    for path in generations(home):
        with writing(path):
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (Path(home) / "generations").rmdir()  # only when nothing else is in it
