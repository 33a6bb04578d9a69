"""magi status --watch: what runs, again and again."""

from __future__ import annotations

from contextlib import nullcontext

from rich.console import Group
from rich.live import Live
from rich.text import Text

from magi import verbs
from magi.cli import tables
from magi.cli.output import Output
from magi.cli.signals import stopping
from magi.errors import Interrupted, MagiError
from magi.session import Session


def watch(output: Output, run: Session, interval: float) -> int:
    """Show what runs, again and again; return the exit code of the last look. Raises Interrupted if there was none."""
    console = output.people
    live = Live(console=console, screen=True, auto_refresh=False) if console.is_terminal else None
    code = None
    with stopping(run.stop), live or nullcontext():
        while not run.stop.is_set():
            try:
                result = verbs.status(run)
                code, picture = (
                    result.exit_code,
                    tables.status(result.document) if console.is_terminal else Text("\n".join(result.lines)),
                )
            except Interrupted:
                break
            except MagiError as error:  # it may be back at the next look
                code, picture = error.exit_code, Text(f"✗ {error}", style="red")
            foot = Text(f"every {interval:g} s, Ctrl-C ends", style="dim")
            if live:
                live.update(Group(Text("magi status", style="bold"), Text(), picture, Text(), foot), refresh=True)
            else:
                console.print(picture)
            run.stop.wait(interval)
    if code is None:
        raise Interrupted("Stopped before the first look at the hosts ended; nothing was changed.")
    return int(code)
