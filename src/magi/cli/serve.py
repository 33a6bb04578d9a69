"""serve: the verbs over HTTP."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magi.cli.options import Given, takes
from magi.cli.output import Output
from magi.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from magi.web import Service


@takes(Given, without=("as_json", "limit", "verbose"))
def serve(
    given: Given,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen on; 0: any.", min=0, max=65535)] = 8321,
    root_path: Annotated[str, typer.Option("--root-path", help="Where a proxy serves it, such as /magi.")] = "",
    allowed_host: Annotated[
        list[str] | None,
        typer.Option("--allowed-host", help="A NAME by which clients ask, besides localhost; may be repeated."),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="The tokens (default: in magi's state folder); made if missing.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Folder of the profiles (default: the project's).")
    ] = None,
) -> int:
    """Serve the verbs over HTTP. Until Ctrl-C; on this machine alone, unless --host says otherwise."""
    try:
        from magi.web import Service
        from magi.web.server import listen
        from magi.web.server import serve as serve_until_signal
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] == "magi":
            raise
        raise UsageError(
            f"magi serve needs more packages ({error.name} is missing): pip install 'magi-models[serve]'."
        ) from None
    from magi.runner.terminals import close_at_once

    close_at_once()
    listening = listen(host, port)
    service = Service(
        given.inventory or (),
        project=given.project,
        profiles=folder,
        extra_vars=given.extra_vars or (),
        token_file=token_file,
        allowed_hosts=(host, *(allowed_host or ())),
    )
    address, port = listening.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    tell(Output(), service, f"http://{shown}:{port}")
    serve_until_signal(service, listening, root_path)
    return ExitCode.OK


def tell(output: Output, service: Service, url: str) -> None:
    """Say where it is; and new tokens, which nobody shows again, to people alone: other outputs become logs."""
    output.say(f"magi serves {service.session.project.root} on {url} until Ctrl-C.")
    if service.new_tokens and sys.stdout.isatty():
        output.say(f"Its tokens are in {service.token_file} and shown only now:")
        for role, token in service.new_tokens.items():
            output.say(f"  {role}: {token}")
    else:
        output.say(f"Its tokens are in {service.token_file}.")


EXAMPLES = {serve: ("magi serve", "magi serve --host 10.0.0.5 --allowed-host models.lan -i inventories/example")}
