"""The keys of the gateways' clients."""

from __future__ import annotations

from typing import Annotated

import typer

from magi.cli.options import Given, takes
from magi.cli.output import Output
from magi.cli.pipeline import carry_out, session, show, shown

app = typer.Typer(
    name="key",
    help="Add, list and revoke keys of the gateways' clients, on all hosts of the group model_gateways.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Name = Annotated[str, typer.Argument(help="Name of the key: who has it, as the gateway's log shows it.")]


@app.command(epilog="Examples:  magi key add alice  ·  magi key add ci --models 'qwen3-*' --per-minute 60")
@takes(Given)
def add(
    given: Given,
    name: Name,
    models: Annotated[
        list[str] | None,
        typer.Option("--models", help="GLOB of models that it may use; may be repeated. [default: all]"),
    ] = None,
    concurrent: Annotated[int | None, typer.Option("--concurrent", help="Requests at the same time.", min=1)] = None,
    per_minute: Annotated[int | None, typer.Option("--per-minute", help="Requests a minute.", min=1)] = None,
    expires: Annotated[str | None, typer.Option("--expires", help="Its last day, YYYY-MM-DD (UTC).")] = None,
) -> int:
    """Make a key and print it once. The gateways get its SHA-256 alone, and take it at once."""
    from magi import verbs

    output = Output(given.as_json)
    result = carry_out(
        output,
        session(given),
        lambda s: verbs.add_key(
            s, name, models=models or (), concurrent=concurrent, per_minute=per_minute, expires=expires
        ),
        "magi key add",
    )
    if not given.as_json and result.document["hosts"]:
        print(result.document["key"])  # alone on standard output: a pipe or a file may take it
        for line in result.lines:
            output.say(line)
    return shown(output, result)


@app.command("list", epilog="Examples:  magi key list  ·  magi key list --limit gw1 --json")
@takes(Given)
def list_(given: Given) -> int:
    """Show the keys of each gateway, by name."""
    from magi import verbs

    output = Output(given.as_json)
    return show(output, carry_out(output, session(given), verbs.keys, "magi key list"), as_lines=not given.as_json)


@app.command(epilog="Examples:  magi key revoke alice")
@takes(Given)
def revoke(given: Given, name: Name) -> int:
    """Take a key from all gateways, at once. Requests that have begun go on."""
    from magi import verbs

    output = Output(given.as_json)
    return show(output, carry_out(output, session(given), lambda s: verbs.revoke_key(s, name), "magi key revoke"))
