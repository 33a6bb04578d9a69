"""A new project: the files that magi needs in a folder. Existing files are never overwritten."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from pathlib import Path

from magi import project
from magi.domain import FileWriteError, write_atomic
from magi.errors import UsageError
from magi.result import Result

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
PROFILES = ("development", "fast-only", "production")
"""The profiles that come with magi; a checkout may have more, which are somebody's own."""
_SKELETON = Path(__file__).with_name("skeleton")


def init(folder: Path, hosts: Sequence[str] = ()) -> Result:
    """Write a project into the folder: for these hosts, or for this machine. Raises UsageError."""
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise UsageError(f"--host {host}: give a host's name; address and user belong in the inventory.")
    written, kept = [], []
    for name, text in files(hosts).items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text.encode(), 0o644, replace=False)
            written.append(name)
        except FileExistsError:  # a file is in the place of a folder
            raise UsageError(f"{path.parent} is not a folder: move it away, or name another folder.") from None
        except FileWriteError as error:
            if error.errno != errno.EEXIST:
                raise UsageError(f"{error} Nothing else is written; name another folder.") from None
            kept.append(name)
        except OSError as error:
            raise UsageError(f"{error.filename or path} can't be made ({error.strerror}): name another.") from None
    where = folder.resolve()
    lines = [f"{where / name} is written." for name in written] + [f"{where / name} stays as it is." for name in kept]
    enter = "" if where == Path.cwd() else f"cd {folder}, then "
    lines += ["", f"Next: {enter}{'magi prepare and ' if hosts else ''}magi up"]
    return Result.of({"folder": str(where), "written": written, "kept": kept}, lines)


def files(hosts: Sequence[str]) -> dict[str, str]:
    """Return the content of each file of a project by path: those that come with magi, and those that depend on
    hosts."""
    inventory = "inventories/fleet" if hosts else "inventories/local"
    configuration = project.carried("ansible.cfg").read_text(encoding="utf-8")
    # magi brings its own collection; ansible-playbook looks for it where ansible-galaxy puts it.
    configuration = re.sub(r"^collections_path = .*\n", "", configuration, flags=re.MULTILINE)
    found = {"ansible.cfg": re.sub(r"^inventory = .*", f"inventory = {inventory}", configuration, flags=re.MULTILINE)}
    carried = project.carried("profiles")
    found |= {f"profiles/{name}.yml": (carried / f"{name}.yml").read_text(encoding="utf-8") for name in PROFILES}
    if hosts:
        example = (_SKELETON / "hosts.yml").read_text(encoding="utf-8")
        named = "".join(f"    {host}:\n" for host in dict.fromkeys(hosts))
        found[f"{inventory}/hosts.yml"] = example.replace("  hosts:\n", f"  hosts:\n{named}", 1)
    else:
        local = project.carried(inventory)
        found |= {f"{inventory}/{path.relative_to(local)}": path.read_text() for path in sorted(local.rglob("*.yml"))}
    return found | {f".{name}": (_SKELETON / name).read_text(encoding="utf-8") for name in ("env.example", "gitignore")}
