"""The command line. Each module of this package has some verbs, which import slow modules only when they run."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from typing import Annotated, Any

import typer

from magi.cli import deploy, init, key, looks, profile, serve
from magi.cli.options import Project
from magi.errors import ExitCode, MagiError

app = typer.Typer(
    name="magi",
    help="Roll out llama.cpp servers by naming a profile, on this machine or a fleet.",
    epilog="A first try: magi init, magi up, magi status, magi ask MODEL 'What is the capital of France?'.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (init, deploy, looks, profile, serve):
    for verb, examples in module.EXAMPLES.items():
        app.command(epilog="Examples:  " + "  ·  ".join(examples))(verb)
app.add_typer(profile.app)
app.add_typer(key.app)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"magi {version('magi-models')}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    project: Project = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options that belong to no verb, or to all."""
    context.obj = project


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; any error is one sentence."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for descriptor in (1, 2):
        with suppress(OSError):  # closed
            # Somebody may have left it non-blocking, and then what a slow reader has no room for would be lost.
            os.set_blocking(descriptor, True)
    try:
        code = int(app(arguments, prog_name="magi", standalone_mode=False) or ExitCode.OK)
        # Typer turns Ctrl-C into this code, without a word. During a run, the run itself says what was done.
        return (
            _fail("Interrupted while nothing was running.", code, arguments) if code == ExitCode.INTERRUPTED else code
        )
    except MagiError as error:
        return _fail(str(error), error.exit_code, arguments)
    except BrokenPipeError:  # the reader of our output is gone
        sys.stderr.close()
        return ExitCode.FAILED
    except Exception as error:
        if hasattr(error, "format_message"):  # click's own, whichever copy of it typer brings
            if type(error).__name__ == "NoArgsIsHelpError":
                print(error.format_message(), file=sys.stderr)
                return ExitCode.USAGE
            return _fail(error.format_message(), ExitCode.USAGE, arguments)
        from magi.state.defect import defect

        return _fail(defect(error), ExitCode.FAILED, arguments)


def _fail(message: str, code: int, arguments: list[str]) -> int:
    """Say what went wrong: to people, and with --json as the one document."""
    print(f"magi: {message}", file=sys.stderr)
    if "--json" in arguments:
        document: dict[str, Any] = {"error": {"message": message, "exit_code": int(code)}}
        print(json.dumps(document, indent=2))
    return int(code)
