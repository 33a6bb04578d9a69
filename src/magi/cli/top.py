"""magi top: what servers and gateways do, live."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from magi import lines, verbs
from magi.activity import Sort, document, shown_line
from magi.cli.output import Output
from magi.cli.signals import stopping
from magi.domain import printable
from magi.errors import ExitCode, Interrupted, MagiError
from magi.events import Event
from magi.session import Session

_STATES = {"ready": "green", "asleep": "cyan", "loading": "yellow", "starting": "yellow"}
LATE = 5
"""Seconds without a word from a host, beyond the interval, after which that is said."""


def live(output: Output, run: Session, interval: float, sort: Sort) -> int:
    """Show what servers and gateways do until Ctrl-C; return the exit code. Raises Interrupted if nothing was seen."""
    seen: dict[str, Any] = {}
    problems: dict[str, str] = {}
    heard: dict[str, float] = {}
    trouble = ""

    def on_event(event: Event) -> bool:
        found = shown_line(event.text) if event.kind == "message" else None
        if not found:
            return False
        host, kind, what = found
        if kind == "problem":
            problems[host] = what
            seen.pop(host, None)
        else:
            problems.pop(host, None)
            seen[host], heard[host] = what, time.monotonic()
        return True

    def now() -> RenderableType:
        late = {
            host: f"nothing heard for {time.monotonic() - heard[host]:.0f} s"
            for host in [*seen]
            if time.monotonic() - heard[host] > interval + LATE
        }
        foot = f"every {interval:g} s, sorted by {sort.value}, Ctrl-C ends"
        return Group(picture(document({**seen}, sort), {**late, **problems}, trouble), Text(), Text(foot, style="dim"))

    screen = Live(console=output.people, screen=True, get_renderable=now, refresh_per_second=2 / interval)
    session = replace(run, on_event=on_event)
    with stopping(run.stop), screen:
        while not run.stop.is_set():
            try:
                verbs.top(session, interval=interval, follow=True)
            except Interrupted:
                break
            except MagiError as error:  # it may be better at the next try
                trouble = str(error)
            run.stop.wait(interval)
    if not heard:
        raise Interrupted("Stopped before the first look at the hosts ended; nothing was changed.")
    return int(ExitCode.OK)


def picture(found: Mapping[str, Any], problems: Mapping[str, str], trouble: str = "") -> RenderableType:
    """Return the tables of what all do, which hosts are lost, and what kept us from looking."""
    parts: list[RenderableType] = []
    if not found["servers"]:
        parts.append(Text("Nothing runs." if found["hosts"] else "Looking at the hosts …", style="bold"))
    for head, rows in lines.top_tables(found):
        parts += [_table(head, rows), Text()]
    if found["servers"]:
        parts.append(Text(lines.first_token_source(found["gateways"]), style="dim"))
    parts += [Text(f"✗ {printable(host)}: {printable(what)}", style="red") for host, what in sorted(problems.items())]
    parts += [Text(f"✗ {trouble}", style="red")] if trouble else []
    return Group(*parts)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table in which only names are cut where the terminal is narrow."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for number, head in enumerate(heads):
        name = head in lines.TOP_NAMES
        width = max(map(len, (head, *(row[number] for row in rows))))
        justify: JustifyMethod = "left" if name or head == "state" else "right"
        table.add_column(
            head, justify=justify, no_wrap=not name, overflow="ellipsis", min_width=None if name else width
        )
    for row in rows:
        table.add_row(*(Text(cell, style=_STATES.get(cell, "")) for cell in row))
    return table
