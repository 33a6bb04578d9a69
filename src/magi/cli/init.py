"""init, which makes a project, and prepare, which gets its hosts what a deployment needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from magi.cli import deploy
from magi.cli import options as given
from magi.cli.output import Output, say


def init(
    folder: Annotated[Path, typer.Argument(help="Where; made if it is not there.")] = Path(),
    hosts: Annotated[
        list[str] | None, typer.Option("--host", help="A host to serve models; repeat it. Without: this machine.")
    ] = None,
    as_json: given.Json = False,
) -> int:
    """Make a project. Writes inventory, profiles and ansible.cfg; leaves what is there as it is."""
    from magi.init import init as init_project

    return say(Output(as_json), init_project(folder, hosts or ()))


def prepare(
    as_json: given.Json = False,
    inventory: given.Inventory = None,
    limit: given.Limit = None,
    extra_vars: given.ExtraVars = None,
    check: given.Check = False,
    verbose: given.Verbose = 0,
    project: given.Project = None,
) -> int:
    """Get what a deployment needs. That is llama-server, and demo models where the inventory wants them."""
    from magi import verbs

    output = Output(as_json)
    run = deploy.session(project, inventory, limit, extra_vars, check=check, verbosity=verbose)
    outcome = deploy.carry_out(output, run, verbs.prepare, "magi prepare")
    output.say(f"Ready to deploy on: {', '.join(outcome.document['hosts'])}")
    return deploy.finish(output, outcome)


EXAMPLES = {
    init: ("magi init", "magi init fleet --host gpu1 --host gpu2"),
    prepare: ("magi prepare", "magi prepare --limit gpu1"),
}
