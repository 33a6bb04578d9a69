"""up, plan, status, routes, health, stop, down, discover and prepare: the verbs that deploy, and show what runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from magi.cli import completion
from magi.cli.options import Given, takes
from magi.cli.output import Output
from magi.cli.pipeline import carry_out, session, show, shown
from magi.errors import MagiError, UsageError
from magi.junit import failed_report, junit_xml
from magi.lines import only_tagged

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Profile = Annotated[
    str | None,
    typer.Argument(
        help="The profile (default: that of MAGI_PROFILE or the inventory).", autocompletion=completion.profiles
    ),
]


@takes(Given, "tags", "check", "diff")
def up(
    given: Given,
    profile: Profile = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail (exit code 1) if anything is degraded.")] = False,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write the result as JUnit XML.")] = None,
) -> int:
    """Deploy a profile. Finds the models, starts what it enables, waits until all are ready, reports."""
    from magi import verbs

    if given.check and junit:
        raise UsageError("--check deploys nothing, so there is no result for --junit: leave out one of the two.")
    output = Output(given.as_json)
    _empty(junit)
    try:
        run = session(given, profile=profile, strict=strict)
        result = carry_out(output, run, verbs.up, f"magi up {profile or ''}".rstrip(), steps=True)
    except MagiError as error:  # what shows results shall show this too
        _write_junit(output, junit, failed_report(profile, str(error)))
        raise
    if "servers" in result.document:
        _write_junit(output, junit, result.document)
    elif junit:
        junit.unlink(missing_ok=True)
    return show(output, result, _deployed)


def _deployed(console: Console, document: Mapping[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from magi.cli import tables

    if "servers" in document:
        return tables.report(document)
    parts = [tables.plan(document)] if document["hosts"] else []
    tagged = [Text(only_tagged(document["tags"]))] if "tags" in document else []
    return Group(*parts, *tagged)


@takes(Given)
def plan(
    given: Given,
    profile: Profile = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="The plan as Markdown, on standard output.")] = False,
) -> int:
    """Show what a deployment would do, and why. Changes nothing; exits with 4 if there is something to do."""
    from magi import verbs

    if markdown and given.as_json:
        raise UsageError("--markdown and --json both want standard output: give one of the two.")
    output = Output(given.as_json or markdown)
    result = carry_out(output, session(given, profile=profile), verbs.plan, f"magi plan {profile or ''}".rstrip())
    if markdown:
        from magi.cli import tables

        output.as_json = False
        print(tables.plan_markdown(result.document, profile), end="")
        return shown(output, result)
    return show(output, result, lambda console, document: _tables().plan(document))


@takes(Given, "check", "diff")
def rollback(given: Given) -> int:
    """Take back the last deployment. Its hosts and the gateways run again what they ran before it, exactly."""
    from magi import verbs

    output = Output(given.as_json)
    return show(output, carry_out(output, session(given), verbs.rollback, "magi rollback", steps=True), _deployed)


@takes(Given)
def status(
    given: Given,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option("--interval", help="Seconds between two refreshes.", min=0.5)] = 2,
) -> int:
    """Show what runs. Where, since when, ready or not; exits with 3 if a server is not ready."""
    from magi import verbs

    if watch and given.as_json:
        raise UsageError("--watch never ends, and --json is one document: give one of the two.")
    output = Output(given.as_json)
    run = session(given)
    if watch:
        from magi.cli.watch import watch as look_again

        return look_again(output, run, interval)
    result = carry_out(output, run, verbs.status, "magi status")
    return show(output, result, lambda console, document: _tables().status(document))


@takes(Given)
def routes(given: Given) -> int:
    """Show what the gateways route. Names, servers, their state, slots and queue; exits with 3 if one is not up."""
    from magi import verbs

    output = Output(given.as_json)
    result = carry_out(output, session(given), verbs.routes, "magi routes")
    return show(output, result, lambda console, document: _tables().routes(document))


@takes(Given)
def health(
    given: Given,
    deep: Annotated[bool, typer.Option("--deep", help="Also for one token, embedding or rerank.")] = False,
) -> int:
    """Ask servers and gateways as clients do. For cron, CI, monitors: exits with 3 if one does not serve, 1 if none."""
    from magi import verbs

    output = Output(given.as_json)
    result = carry_out(output, session(given), lambda s: verbs.health(s, deep=deep), "magi health")
    return show(output, result, lambda console, document: _tables().health(document))


@takes(Given, "check")
def stop(
    given: Given,
    instances: Annotated[
        list[str] | None,
        typer.Argument(help="Names of instances (default: all).", autocompletion=completion.instances),
    ] = None,
) -> int:
    """Stop instances gracefully. Lets their requests end first; the next deployment starts them again."""
    from magi import verbs

    output = Output(given.as_json)
    return show(
        output, carry_out(output, session(given), lambda s: verbs.stop(s, instances or ()), "magi stop"), as_lines=True
    )


@takes(Given, "check", "diff")
def down(given: Given) -> int:
    """Stop and remove what was deployed. Nothing else is touched."""
    from magi import verbs

    output = Output(given.as_json)
    return show(output, carry_out(output, session(given), verbs.down, "magi down"), as_lines=True)


@takes(Given)
def discover(given: Given) -> int:
    """Show the models of each host. Also what was set aside and why, and what differs between hosts."""
    from magi import verbs

    output = Output(given.as_json)
    return show(output, carry_out(output, session(given), verbs.discover, "magi discover"), as_lines=True)


@takes(Given, "check")
def prepare(given: Given) -> int:
    """Get what a deployment needs. That is llama-server, and demo models where the inventory wants them."""
    from magi import verbs

    output = Output(given.as_json)
    return show(output, carry_out(output, session(given), verbs.prepare, "magi prepare"), as_lines=True)


def _tables() -> Any:
    from magi.cli import tables

    return tables


def _empty(junit: Path | None) -> None:
    """Empty the file, so that an older result is not taken for that of a killed run. Raises UsageError."""
    try:
        if junit:
            junit.write_bytes(b"")
    except OSError as error:
        raise UsageError(f"{junit} can't be written ({error.strerror}): give another path to --junit.") from None


def _write_junit(output: Output, path: Path | None, report: Mapping[str, Any]) -> None:
    """Write the file. If that fails now, the result of the run still counts, so only warn."""
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
    rollback: ("magi rollback --check", "magi rollback", "magi rollback --limit gpu1"),
    status: ("magi status", "magi status --watch", "magi status --json | jq '.servers[].port'"),
    routes: ("magi routes", "magi routes --json | jq '.gateways[].url'"),
    health: ("magi health", "magi health --deep --json | jq '.summary.failed'"),
    stop: ("magi stop", "magi stop smollm2-135m-instruct.q2_k"),
    down: ("magi down", "magi down --limit gpu1"),
    discover: ("magi discover", "magi discover --json | jq '.hosts[].models[].id'"),
    prepare: ("magi prepare", "magi prepare --limit gpu1"),
}
