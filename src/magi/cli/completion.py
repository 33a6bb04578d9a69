"""What a shell offers after Tab: the project's profiles, and the known instances. Never an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from magi.profiles.workbench import Workbench


def _bench(context: typer.Context) -> Workbench:
    from magi.profiles.workbench import Workbench

    given: dict[str, Any] = context.params
    project = given.get("project") or context.find_root().params.get("project")
    return Workbench(project, given.get("folder"), given.get("registry"), given.get("inventory"))


def profiles(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of profiles that begin so."""
    from magi.errors import MagiError

    try:
        return [path.stem for path in _bench(context).paths(()) if path.stem.startswith(incomplete)]
    except (MagiError, OSError):
        return []


def models(context: typer.Context, incomplete: str) -> list[str]:
    """Return the ids of models that begin so, as the last look at the hosts saw them."""
    from magi.errors import MagiError

    try:
        ids = {model["id"] for host in _bench(context).hosts.values() for model in host.models}
    except (MagiError, OSError):
        return []
    return sorted(name for name in ids if name.startswith(incomplete))


def instances(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of instances that begin so, as the last look at the hosts saw them."""
    from magi.errors import MagiError

    try:
        names = {name for host in _bench(context).hosts.values() for name in host.instances}
    except (MagiError, OSError):
        return []
    return sorted(name for name in names if name.startswith(incomplete))
