"""Profiles, without hosts: the last look at the hosts, or a registry file, tells what they have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magi.cli import completion
from magi.cli.options import Bench, takes
from magi.cli.output import Output
from magi.cli.pipeline import show as show_result

if TYPE_CHECKING:
    from magi.profiles.workbench import Workbench

Name = Annotated[
    str, typer.Argument(help="Name of a profile, or the path of its file.", autocompletion=completion.profiles)
]

app = typer.Typer(
    name="profile",
    help="List, show, check and write profiles. No host is asked.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _workbench(given: Bench) -> Workbench:
    from magi.profiles.workbench import Workbench

    return Workbench(given.project, given.folder, given.registry, given.inventory)


@app.command("list", epilog="Examples:  magi profile list")
@takes(Bench, without=("registry", "inventory"))
def list_(given: Bench) -> int:
    """List the profiles."""
    from magi.profiles import verbs

    return show_result(Output(given.as_json), verbs.list_(_workbench(given)))


@app.command(epilog="Examples:  magi profile show production --registry data/model_registry.json")
@takes(Bench)
def show(given: Bench, name: Name) -> int:
    """Show the instances that a profile results in on each host, with their resolved options."""
    from magi.profiles import verbs

    return show_result(Output(given.as_json), verbs.show(_workbench(given), name))


@app.command(epilog="Examples:  magi profile validate  ·  magi profile validate production mine/profiles/x.yml")
@takes(Bench)
def validate(
    given: Bench,
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Names or paths of profiles (default: all).", autocompletion=completion.profiles),
    ] = None,
) -> int:
    """Report every mistake in profiles, with file and line; exit code 2 if there is one."""
    from magi.profiles import verbs

    return show_result(Output(given.as_json), verbs.validate(_workbench(given), names or ()))


@app.command(epilog="Examples:  magi profile new mine")
@takes(Bench)
def new(given: Bench, name: Annotated[str, typer.Argument(help="The new profile.")]) -> int:
    """Write a commented profile with every discovered model. Never overwrites a file."""
    from magi.profiles import verbs

    return show_result(Output(given.as_json), verbs.new(_workbench(given), name))


@takes(Bench)
def migrate(
    given: Bench,
    file: Annotated[Path, typer.Argument(help="YAML or JSON: models: {Q2_FAST_1: {name, tier, url, port}}")],
    name: Annotated[str, typer.Option("--name", help="The new profile.")] = "migrated",
) -> int:
    """Turn an older configuration into a profile. It has the same models and ports."""
    from magi.profiles import verbs

    return show_result(Output(given.as_json), verbs.migrated(_workbench(given), file, name))


EXAMPLES = {migrate: ("magi migrate old/config.yml --name production",)}
