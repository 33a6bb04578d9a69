"""Progress while a playbook runs: a calm picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from magi.events import Event
from magi.progress import FAILED, LEFT, READY, RUNNING, STARTING, STEPS, WAITING, Progress

STYLES = {
    READY: ("●", "green"),
    RUNNING: ("●", "cyan"),
    STARTING: ("◌", "cyan"),
    WAITING: ("○", "dim"),
    FAILED: ("✗", "red"),
    LEFT: ("✗", "yellow"),
}


def picture(
    progress: Progress, title: str, at_work: RenderableType | None = None, *, steps: bool = True
) -> RenderableType:
    """Return the deployment as it stands: the five steps, then each host with its instances.

    ``at_work`` marks the current step, or the one at which it ended; without it, all are done.
    """
    parts: list[RenderableType] = [Text(title, style="bold")]
    if steps:
        grid = Table.grid(padding=(0, 1))
        for number, name in STEPS.items():
            if number < progress.step or at_work is None:
                mark: RenderableType = Text("✔", style="green")
            elif number == progress.step:
                mark = at_work
            else:
                mark = Text("·", style="dim")
            grid.add_row(mark, Text(f"[{number}/5] {name}", style="" if number <= progress.step else "dim"))
        parts.append(grid)
    elif at_work is not None:
        grid = Table.grid(padding=(0, 1))
        grid.add_row(at_work, progress.verb or "Starting")
        parts.append(grid)
    hosts = Table.grid(padding=(0, 2))
    for name, host in progress.hosts.items():
        row: RenderableType = Columns((_instance(*item) for item in host.instances.items()), padding=(0, 2))
        if host.problem:
            row = Text(f"✗ {host.problem}", style="red", overflow="ellipsis", no_wrap=True)
        hosts.add_row(Text(name, style="bold"), row)
    if progress.hosts:
        parts += [Text(), hosts] if any(h.instances or h.problem for h in progress.hosts.values()) else []
    return Group(*parts)


def _instance(name: str, state: str) -> Text:
    mark, style = STYLES[state]
    return Text(f"{mark} ", style=style).append(name, style="default" if state == READY else style)


_BUILDING = re.compile(r"\S+: llama\.cpp .*")


def building(event: Event) -> Text | None:
    """Return what the action plugins of llama_build and llama_release say while they work."""
    return Text(event.text) if event.kind == "message" and _BUILDING.fullmatch(event.text.strip()) else None


def echo(console: Console, text: str) -> None:
    """Show what Ansible printed, with its colours."""
    if text:
        console.print(Text.from_ansi(text))


@contextmanager
def shown(console: Console, title: str, *, steps: bool, verbosity: int = 0) -> Iterator[Callable[[Event], None]]:
    """Show what happens within the block; yields the function that takes the events."""
    progress = Progress()
    if verbosity:  # with -v, people get Ansible's own words, and nothing on top
        yield lambda event: echo(console, event.text)
    elif console.is_terminal:
        spinner = Spinner("dots", style="cyan")

        def now() -> RenderableType:
            # The cursor waits on a line of its own: elsewhere the terminal's echo (^C) would wrap, and move everything.
            return Group(picture(progress, title, spinner, steps=steps), Text())

        with Live(now(), console=console, refresh_per_second=8) as live:

            def draw(event: Event) -> None:
                progress.add(event)
                if line := building(event):
                    console.print(line)
                live.update(now())

            ended: RenderableType | None = Text("✗", style="red")
            try:
                yield draw
                ended = None
            finally:
                live.update(picture(progress, title, ended) if steps else Text(), refresh=True)
    else:
        told: set[str] = set()

        def tell(event: Event) -> None:
            progress.add(event)
            if built := building(event):
                console.print(built)
            lines = [f"[{progress.step}/5] {STEPS[progress.step]}"] if steps and progress.step else []
            # The sentence at the end says why; it stands alone where programs and people look first.
            lines += [f"{name}: failed (reason below)" for name, host in progress.hosts.items() if host.problem]
            for line in lines:
                if line not in told:
                    told.add(line)
                    console.print(Text(line))

        yield tell
