"""Profiles, which need no host: what hosts have is known from the last look at them, or from a registry file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from magi.cli import options
from magi.cli.output import Output, say
from magi.errors import UsageError

Folder = Annotated[
    Path | None,
    typer.Option("--dir", help="Folder of the profiles; else the project's: no inventory is read for it."),
]
Registry = Annotated[
    Path | None,
    typer.Option("--registry", help="A registry file; else what the last magi discover, plan or up saw of the hosts."),
]
Name = Annotated[str, typer.Argument(help="Name of a profile, or the path of its file.")]

app = typer.Typer(
    name="profile",
    help="List, show, check and write profiles. No host is asked.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list", epilog="Examples:  magi profile list")
def list_(project: options.Project = None, folder: Folder = None, as_json: options.Json = False) -> int:
    """List the profiles."""
    from magi.workbench import Workbench

    bench = Workbench(project, folder)
    return say(Output(as_json), bench.views.profile_list(bench.folder))


@app.command(epilog="Examples:  magi profile show production --registry data/model_registry.json")
def show(
    name: Name,
    project: options.Project = None,
    folder: Folder = None,
    registry: Registry = None,
    inventory: options.Inventory = None,
    as_json: options.Json = False,
) -> int:
    """Show the instances that a profile results in on each host, with their resolved options."""
    from magi.workbench import Workbench

    bench = Workbench(project, folder, registry, inventory)
    return say(Output(as_json), bench.views.profile_show(bench.find(name), bench.hosts))


@app.command(epilog="Examples:  magi profile validate  ·  magi profile validate production mine/profiles/x.yml")
def validate(
    names: Annotated[list[str] | None, typer.Argument(help="Names or paths of profiles; else all.")] = None,
    project: options.Project = None,
    folder: Folder = None,
    registry: Registry = None,
    inventory: options.Inventory = None,
    as_json: options.Json = False,
) -> int:
    """Report every mistake in profiles, with file and line; exit code 2 if there is one."""
    from magi.workbench import Workbench

    bench = Workbench(project, folder, registry, inventory)
    paths = bench.paths(names or ())
    if not paths:
        raise UsageError(
            f"There is no profile in {bench.folder}: magi profile new writes one, --dir names another folder."
        )
    return say(Output(as_json), bench.views.profile_validate(paths, bench.hosts.values()))


@app.command(epilog="Examples:  magi profile new mine")
def new(
    name: Annotated[str, typer.Argument(help="The new profile.")],
    project: options.Project = None,
    folder: Folder = None,
    registry: Registry = None,
    inventory: options.Inventory = None,
    as_json: options.Json = False,
) -> int:
    """Write a commented profile with every model that was discovered; never over an old one."""
    from magi.workbench import Workbench

    bench = Workbench(project, folder, registry, inventory)
    return say(Output(as_json), bench.views.profile_new(bench.folder, name, bench.hosts))


def migrate(
    file: Annotated[Path, typer.Argument(help="YAML or JSON: models: {Q2_FAST_1: {name, tier, url, port}}")],
    name: Annotated[str, typer.Option("--name", help="The new profile.")] = "migrated",
    project: options.Project = None,
    folder: Folder = None,
    registry: Registry = None,
    inventory: options.Inventory = None,
    as_json: options.Json = False,
) -> int:
    """Turn an older configuration into a profile. It has the same models and ports."""
    from magi.workbench import Workbench

    bench = Workbench(project, folder, registry, inventory)
    return say(Output(as_json), bench.views.migrated(file, bench.folder, name, bench.hosts))


EXAMPLES = {migrate: ("magi migrate old/config.yml --name production",)}
