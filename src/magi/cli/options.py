"""The options that verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_ANSIBLE = "Passed through to Ansible"

Project = Annotated[
    Path | None,
    typer.Option("--project", envvar="MAGI_PROJECT", help="Folder with the playbooks; else the one at or above this."),
]
Inventory = Annotated[
    list[str] | None,
    typer.Option("--inventory", "-i", help="The hosts; else what ansible.cfg names.", rich_help_panel=_ANSIBLE),
]
Limit = Annotated[str | None, typer.Option("--limit", "-l", help="Only these hosts.", rich_help_panel=_ANSIBLE)]
ExtraVars = Annotated[
    list[str] | None,
    typer.Option("--extra-vars", "-e", help="key=value, JSON or @FILE; beats all.", rich_help_panel=_ANSIBLE),
]
Tags = Annotated[str | None, typer.Option("--tags", "-t", help="Only tasks with these tags.", rich_help_panel=_ANSIBLE)]
Check = Annotated[bool, typer.Option("--check", help="Change nothing.", rich_help_panel=_ANSIBLE)]
Diff = Annotated[bool, typer.Option("--diff", help="Show what changes in files.", rich_help_panel=_ANSIBLE)]
Verbose = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, help="Ansible's own output; more with -vvv.", rich_help_panel=_ANSIBLE),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, and nothing else there.")]
