"""up, plan, status, stop, down and discover: the verbs that run a playbook and show what came of it."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from magi.cli import options as given
from magi.cli.output import Output
from magi.errors import MagiError, UsageError
from magi.junit import failed_report, junit_xml

if TYPE_CHECKING:
    from rich.console import RenderableType

    from magi.events import Event
    from magi.verbs import Session
    from magi.verdict import Outcome

Profile = Annotated[str | None, typer.Argument(help="The profile; else what MAGI_PROFILE or the inventory says.")]
Strict = Annotated[bool, typer.Option("--strict", help="Fail (exit code 1) if anything is degraded.")]


def session(
    project: Path | None,
    inventory: list[str] | None,
    limit: str | None,
    extra_vars: list[str] | None,
    *,
    tags: str | None = None,
    check: bool = False,
    diff: bool = False,
    verbosity: int = 0,
    **more: Any,
) -> Session:
    """Return the session of a verb from its options. Raises UsageError."""
    from magi.runner import Options
    from magi.verbs import Session

    _close_terminals_at_once()
    options = Options(
        tuple(inventory or ()),
        limit,
        tuple(extra_vars or ()),
        tags,
        check,
        diff,
        # Differences are Ansible's to show.
        max(verbosity, int(diff)),
    )
    return Session.of(project, options, **more)


def _close_terminals_at_once() -> None:
    """Leave out ptyprocess's pause before it looks whether the program of a terminal that it closes still runs: when
    ansible-runner closes one, it has waited for its end. For all of this process, so not for who imports Controller."""
    from ptyprocess import PtyProcess

    PtyProcess.delayafterclose = property(lambda self: 0, lambda self, seconds: None)


@contextmanager
def stopping(stop: threading.Event, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Within the block, SIGINT, SIGTERM and SIGHUP end the run at work instead of us; ``say`` is told so at once."""
    from magi.runner import GRACE

    # In a thread of its own: a signal may come in the middle of printing.
    told = threading.Thread(target=say, args=(f"Stopping; Ansible gets {GRACE} seconds to end.",))

    def end(number: int, _frame: Any) -> None:
        if number == signal.SIGHUP:
            _leave_terminal()
        if not stop.is_set():
            stop.set()
            told.start()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup(1) has it
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if told.ident:
            told.join()


def _leave_terminal() -> None:
    """Have nothing written to a terminal that is gone, which would be an error; a file or a pipe still gets all."""
    with open(os.devnull, "wb") as nowhere:
        for descriptor in (1, 2):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(nowhere.fileno(), descriptor)


def carry_out(
    output: Output, run: Session, verb: Callable[[Session], Outcome], title: str, *, steps: bool = False
) -> Outcome:
    """Run a verb with its progress shown: at a terminal at once, elsewhere when there is some."""
    from dataclasses import replace

    show: Callable[[Event], None] | None = None

    def begin() -> Callable[[Event], None]:
        from magi.cli.live import shown

        return shows.enter_context(shown(output.people, title, steps=steps, verbosity=run.options.verbosity))

    def on_event(event: Event) -> None:
        nonlocal show
        # What the end needs is imported while Ansible is at work, when it costs nobody's time.
        from magi import catalog  # noqa: F401
        from magi.cli import tables  # noqa: F401
        from magi.domain import report_lines  # noqa: F401

        show = show or begin()
        show(event)

    with stopping(run.stop, output.say), ExitStack() as shows:
        if sys.stdout.isatty():
            show = begin()
        return verb(replace(run, on_event=on_event))


def finish(output: Output, outcome: Outcome) -> int:
    """Give programs the document, tell people the problem, and return the exit code."""
    output.document(outcome.document)
    if outcome.problem:
        output.people.print(f"magi: {outcome.problem}", markup=False, emoji=False, style="red")
    return int(outcome.exit_code)


def _told(
    output: Output,
    run: Session,
    verb: Callable[[Session], Outcome],
    title: str,
    table: Callable[[ModuleType, Mapping[str, Any]], RenderableType],
) -> int:
    """Run a verb, show people what it came to by a function of the module tables, and return the exit code."""
    outcome = carry_out(output, run, verb, title)
    from magi.cli import tables

    output.people.print(table(tables, outcome.document))
    return finish(output, outcome)


def up(
    profile: Profile = None,
    strict: Strict = False,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write the result as JUnit XML.")] = None,
    as_json: given.Json = False,
    inventory: given.Inventory = None,
    limit: given.Limit = None,
    extra_vars: given.ExtraVars = None,
    tags: given.Tags = None,
    check: given.Check = False,
    diff: given.Diff = False,
    verbose: given.Verbose = 0,
    project: given.Project = None,
) -> int:
    """Deploy a profile. Finds the models, starts what it enables, waits until all are ready, reports."""
    from magi import verbs

    if check and junit:
        raise UsageError("--check deploys nothing, so there is no result for --junit: leave out one of the two.")
    output = Output(as_json)
    _empty(junit)
    try:
        run = session(
            project, inventory, limit, extra_vars,
            tags=tags, check=check, diff=diff, verbosity=verbose, profile=profile, strict=strict,
        )  # fmt: skip
        outcome = carry_out(output, run, verbs.up, f"magi up {profile or ''}".rstrip(), steps=True)
    except MagiError as error:  # what shows results shall show this too
        _write_junit(output, junit, failed_report(profile, str(error)))
        raise
    from magi.cli import tables

    if "servers" in outcome.document:
        output.people.print(tables.report(output.people, outcome.document))
        _write_junit(output, junit, outcome.document)
    else:
        if outcome.document["hosts"]:
            output.people.print(tables.plan(output.people, outcome.document))
        if tags:
            output.say(f"Only what has a tag of {tags} was run: there is no report.")
        if junit:
            junit.unlink(missing_ok=True)
    return finish(output, outcome)


def plan(
    profile: Profile = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="The plan as Markdown, on standard output.")] = False,
    as_json: given.Json = False,
    inventory: given.Inventory = None,
    limit: given.Limit = None,
    extra_vars: given.ExtraVars = None,
    verbose: given.Verbose = 0,
    project: given.Project = None,
) -> int:
    """Show what a deployment would do, and why. Changes nothing; exits with 4 if there is something to do."""
    from magi import verbs

    if markdown and as_json:
        raise UsageError("--markdown and --json both want standard output: give one of the two.")
    output = Output(as_json or markdown)
    run = session(project, inventory, limit, extra_vars, verbosity=verbose, profile=profile)
    outcome = carry_out(output, run, verbs.plan, f"magi plan {profile or ''}".rstrip())
    from magi.cli import tables

    if markdown:
        output.as_json = False
        print(tables.plan_markdown(outcome.document, profile), end="")
    else:
        output.people.print(tables.plan(output.people, outcome.document))
    return finish(output, outcome)


def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option("--interval", help="Seconds between two refreshes.", min=0.5)] = 2,
    as_json: given.Json = False,
    inventory: given.Inventory = None,
    limit: given.Limit = None,
    extra_vars: given.ExtraVars = None,
    verbose: given.Verbose = 0,
    project: given.Project = None,
) -> int:
    """Show what runs. Where, since when, ready or not; exits with 3 if a server is not ready."""
    from magi import verbs

    if watch and as_json:
        raise UsageError("--watch never ends, and --json is one document: give one of the two.")
    output = Output(as_json)
    run = session(project, inventory, limit, extra_vars, verbosity=verbose)
    if watch:
        return _watch(output, run, interval)
    return _told(output, run, verbs.status, "magi status", lambda tables, it: tables.status(output.people, it))


def health(
    deep: Annotated[bool, typer.Option("--deep", help="Also for one token, embedding or rerank.")] = False,
    as_json: given.Json = False,
    inventory: given.Inventory = None,
    limit: given.Limit = None,
    extra_vars: given.ExtraVars = None,
    verbose: given.Verbose = 0,
    project: given.Project = None,
) -> int:
    """Ask every server as its clients do. For cron, CI and monitors: exits with 3 if one does not serve, 1 if none."""
    from magi import verbs

    output = Output(as_json)
    run = session(project, inventory, limit, extra_vars, verbosity=verbose)
    title, verb = "magi health", lambda s: verbs.health(s, deep=deep)
    return _told(output, run, verb, title, lambda tables, it: tables.health(output.people, it))


def _watch(output: Output, run: Session, interval: float) -> int:
    """Show what runs, again and again; return the exit code of the last look. Raises Interrupted if there was none."""
    from contextlib import nullcontext

    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from magi import verbs
    from magi.cli import tables
    from magi.errors import Interrupted

    console = output.people
    live = Live(console=console, screen=True, auto_refresh=False) if console.is_terminal else nullcontext()
    code = None
    with stopping(run.stop), live:
        while not run.stop.is_set():
            try:
                outcome = verbs.status(run)
                code, picture = outcome.exit_code, tables.status(console, outcome.document)
            except Interrupted:
                break
            except MagiError as error:  # it may be back at the next look
                code, picture = error.exit_code, Text(f"✗ {error}", style="red")
            foot = Text(f"every {interval:g} s, Ctrl-C ends", style="dim")
            if console.is_terminal:
                live.update(Group(Text("magi status", style="bold"), Text(), picture, Text(), foot), refresh=True)
            else:
                console.print(picture)
            run.stop.wait(interval)
    if code is None:
        raise Interrupted("Stopped before anything of the hosts was seen; nothing was changed.")
    return int(code)


def stop(
    instances: Annotated[list[str] | None, typer.Argument(help="Names of instances; without any, all.")] = None,
    as_json: given.Json = False,
    inventory: given.Inventory = None,
    limit: given.Limit = None,
    extra_vars: given.ExtraVars = None,
    check: given.Check = False,
    verbose: given.Verbose = 0,
    project: given.Project = None,
) -> int:
    """Stop instances gracefully. Their requests may end first; the next deployment starts them again."""
    from magi import verbs

    output = Output(as_json)
    run = session(project, inventory, limit, extra_vars, check=check, verbosity=verbose)
    return _told(
        output,
        run,
        lambda s: verbs.stop(s, instances or ()),
        "magi stop",
        lambda tables, it: tables.actions("stopped", it),
    )


def down(
    as_json: given.Json = False,
    inventory: given.Inventory = None,
    limit: given.Limit = None,
    extra_vars: given.ExtraVars = None,
    check: given.Check = False,
    diff: given.Diff = False,
    verbose: given.Verbose = 0,
    project: given.Project = None,
) -> int:
    """Stop and remove what was deployed. Nothing else is touched."""
    from magi import verbs

    output = Output(as_json)
    run = session(project, inventory, limit, extra_vars, check=check, diff=diff, verbosity=verbose)
    return _told(output, run, verbs.down, "magi down", lambda tables, it: tables.actions("removed", it))


def discover(
    as_json: given.Json = False,
    inventory: given.Inventory = None,
    limit: given.Limit = None,
    extra_vars: given.ExtraVars = None,
    verbose: given.Verbose = 0,
    project: given.Project = None,
) -> int:
    """Show the models of each host. Also what was set aside and why, and what differs between hosts."""
    from magi import verbs

    output = Output(as_json)
    run = session(project, inventory, limit, extra_vars, verbosity=verbose)
    return _told(output, run, verbs.discover, "magi discover", lambda tables, it: tables.models(it))


def _empty(junit: Path | None) -> None:
    """Empty the file, so that no older result is taken for that of a run that is killed. Raises UsageError."""
    try:
        if junit:
            junit.write_bytes(b"")
    except OSError as error:
        raise UsageError(f"{junit} can't be written ({error.strerror}): give another path to --junit.") from None


def _write_junit(output: Output, path: Path | None, report: Mapping[str, Any]) -> None:
    """Write the file; where that fails now, what the run came to still counts, so people are only warned."""
    try:
        if path:
            path.write_text(junit_xml(report), encoding="utf-8")
    except OSError as error:
        output.say(f"Warning: {path} can't be written ({error.strerror}), so the result is not in it.")


EXAMPLES = {
    up: (
        "magi up production",
        "magi up production -i inventories/example --limit gpu1 --strict",
        "magi up --check --diff",
    ),
    plan: ("magi plan production", "magi plan production --markdown > plan.md"),
    status: ("magi status", "magi status --watch", "magi status --json | jq '.servers[].port'"),
    health: ("magi health", "magi health --deep --json | jq '.summary.failed'"),
    stop: ("magi stop", "magi stop smollm2-135m-instruct.q2_k"),
    down: ("magi down", "magi down --limit gpu1"),
    discover: ("magi discover", "magi discover --json | jq '.hosts[].models[].id'"),
}
