# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Making a folder hold the files that are wanted, each written whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path

from ansible_collections.magi.models.plugins.module_utils._base.files import (
    check_writable,
    content_of,
    diff_of,
    make_folder,
    write_atomic,
    writing,
)


def settle(
    folder: str, files: Mapping[str, str], ours: Collection[str], keep: Collection[str] = (), *, check_mode: bool
) -> list[dict[str, str]]:
    """Make ``folder`` hold ``files``, content by path in it, and return what changes as a module's diff.

    Of the files there that match a glob of ``ours``, others are removed, but for those to ``keep``; folders in it that
    are empty then, too. Everything else is somebody else's. Raises FileWriteError; what was written until then stays.
    """
    home = Path(folder)
    there = {str(path.relative_to(home)) for glob in ours for path in home.glob(glob) if path.is_file()}
    gone = sorted(there - {*files} - {*keep})
    diff = []
    for name, content in sorted({**dict.fromkeys(gone, ""), **files}.items()):
        with writing(home / name):
            before = content_of(home / name)
        if name in gone or before != content:
            diff.append(diff_of(str(home / name), before or "", content))
    changed = [item["after_header"] for item in diff]
    check_writable(changed)
    if check_mode:
        return diff
    for name, content in files.items():
        path = home / name
        if str(path) in changed:
            make_folder(path.parent)
            write_atomic(path, content.encode("utf-8", "surrogateescape"), 0o644)
    for name in gone:
        with writing(home / name):
            (home / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something else may be in one
            for parent in list((home / name).parents)[: name.count("/")]:
                parent.rmdir()
    return diff
