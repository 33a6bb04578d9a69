"""init, which makes a project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from magi.cli.options import Json
from magi.cli.output import Output
from magi.cli.pipeline import show


def init(
    folder: Annotated[Path, typer.Argument(help="The project's folder; made if it does not exist.")] = Path(),
    hosts: Annotated[
        list[str] | None,
        typer.Option("--host", help="A host; may be repeated (default: this machine)."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Make a project. Writes inventory, profiles and ansible.cfg; leaves what is there as it is."""
    from magi.init import init as init_project

    return show(Output(as_json), init_project(folder, hosts or ()))


EXAMPLES = {init: ("magi init", "magi init fleet --host gpu1 --host gpu2")}
