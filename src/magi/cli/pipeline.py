"""From the options of a verb to its output: one way for all verbs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from magi.cli.options import Given
from magi.cli.output import Output
from magi.cli.signals import stopping

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from magi.events import Event
    from magi.result import Result
    from magi.session import Session

Picture = Callable[["Console", Mapping[str, Any]], "RenderableType"]
"""What a terminal shows of a document."""


def session(given: Given, *, profile: str | None = None, strict: bool = False) -> Session:
    """Return the session of a verb from its options. Raises UsageError."""
    from magi.runner.options import Options
    from magi.runner.terminals import close_at_once
    from magi.session import Session

    close_at_once()
    options = Options(
        tuple(given.inventory or ()),
        given.limit,
        tuple(given.extra_vars or ()),
        given.tags,
        given.check,
        given.diff,
        max(given.verbose, int(given.diff)),  # Ansible shows the differences
    )
    return Session.of(given.project, options, profile=profile, strict=strict)


def carry_out(
    output: Output, run: Session, verb: Callable[[Session], Result], title: str, *, steps: bool = False
) -> Result:
    """Run a verb and show its progress: at a terminal at once, elsewhere as soon as there is some."""
    from dataclasses import replace

    show: Callable[[Event], None] | None = None

    def begin() -> Callable[[Event], None]:
        from magi.cli.live import shown

        return shows.enter_context(shown(output.people, title, steps=steps, verbosity=run.options.verbosity))

    def on_event(event: Event) -> None:
        nonlocal show
        # Import what the end needs while Ansible works: that costs no time.
        from magi.cli import tables  # noqa: F401
        from magi.domain import report_lines  # noqa: F401
        from magi.state import catalog  # noqa: F401

        show = show or begin()
        show(event)

    with stopping(run.stop, output.say), ExitStack() as shows:
        if sys.stdout.isatty():
            show = begin()
        return verb(replace(run, on_event=on_event))


def show(output: Output, result: Result, picture: Picture | None = None, *, as_lines: bool = False) -> int:
    """Show people and programs what a verb found or did, and return its exit code.

    A terminal shows ``picture`` instead of the lines. A result with a picture, or ``as_lines``, is shown to people even
    with --json.
    """
    if picture and output.people.is_terminal:
        output.people.print(picture(output.people, result.document))
    elif picture or as_lines or not output.as_json:
        for line in result.lines:
            output.say(line)
    return shown(output, result)


def shown(output: Output, result: Result) -> int:
    """Give programs the document, and people the problem of a result that is already shown; return the exit code."""
    output.document(result.document)
    if result.problem:
        output.people.print(f"magi: {result.problem}", markup=False, emoji=False, style="red")
    return int(result.exit_code)
