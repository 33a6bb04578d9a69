"""config, doctor, logs and ask: the verbs that look at what is there, and talk to it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from magi.cli import options as given
from magi.cli.deploy import carry_out, finish, session, stopping
from magi.cli.output import Output, say
from magi.errors import ExitCode, HostUnreachable, Interrupted, UsageError

if TYPE_CHECKING:
    from magi.events import Event, Run
    from magi.verbs import Session

Instance = Annotated[str, typer.Argument(help="Name of an instance, as magi status shows it.")]


def config(
    as_json: given.Json = False,
    inventory: given.Inventory = None,
    limit: given.Limit = None,
    extra_vars: given.ExtraVars = None,
    verbose: given.Verbose = 0,
    project: given.Project = None,
) -> int:
    """Show the settings of each host and where each comes from; secrets are left out. No host is asked."""
    output = Output(as_json)
    run = session(project, inventory, limit, extra_vars, verbosity=verbose)
    done = carry_out(output, run, lambda s: s.play("config"), "magi config")
    from magi import views
    from magi.verdict import Outcome, lost

    view, error = views.settings(done.of("settings", "origins"), run.options.environment), lost(done)
    if not as_json:
        for line in view.lines:
            output.say(line)
    return finish(output, Outcome(view.document, error.exit_code if error else ExitCode.OK, str(error or "")))


def doctor(
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as problems.")] = False,
    as_json: given.Json = False,
    inventory: given.Inventory = None,
    limit: given.Limit = None,
    extra_vars: given.ExtraVars = None,
    verbose: given.Verbose = 0,
    project: given.Project = None,
) -> int:
    """Examine this machine and the hosts; each finding says what to do. Exits with 1 if there is a problem."""
    output = Output(as_json)
    run = session(project, inventory, limit, extra_vars, verbosity=verbose)
    done = carry_out(output, run, lambda s: s.play("doctor"), "magi doctor")
    from magi import examination, views

    return say(output, views.diagnosis(examination.findings(run.project, done), strict))


def logs(
    instance: Instance,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many of its last lines.", min=0)] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines, until Ctrl-C.")] = False,
    as_json: given.Json = False,
    inventory: given.Inventory = None,
    limit: given.Limit = None,
    extra_vars: given.ExtraVars = None,
    verbose: given.Verbose = 0,
    project: given.Project = None,
) -> int:
    """Show what the last run of an instance printed, from journald or supervisor, wherever it runs."""
    if follow and as_json:
        raise UsageError("--follow never ends, and --json is one document: give one of the two.")
    from magi.verbs import slug

    output = Output(as_json)
    run = session(project, inventory, limit, extra_vars, verbosity=verbose)
    variables = {"instance": slug("The instance", instance), "lines": lines, "follow": follow}
    if follow:
        try:
            done = _followed(output, run, variables)
        except Interrupted:
            raise Interrupted("Its log is no longer followed; nothing was changed.") from None
    else:
        done = carry_out(output, run, lambda s: s.play("logs", variables), "magi logs")
    from magi import views
    from magi.verdict import Outcome, not_reached

    view = views.logs(instance, _reached(done))
    if not (as_json or follow):  # what was asked for: also where it is piped
        print("\n".join(view.lines))
    code = ExitCode.UNREACHABLE if done.unreachable else ExitCode.OK
    return finish(output, Outcome(view.document, code, not_reached(done)))


def _followed(output: Output, run: Session, variables: dict[str, object]) -> Run:
    """Follow a log, line for line."""
    from dataclasses import replace

    from magi.cli.live import echo
    from magi.instances import log_line

    hosts: set[str] = set()

    def show(event: Event) -> None:
        if event.host:
            hosts.add(event.host)
        for shown in event.text.splitlines():
            found = log_line(shown, hosts) if event.kind == "message" else None
            if found:
                print(shown if len(hosts) > 1 else found[1], flush=True)
            elif run.options.verbosity:
                echo(output.people, shown)

    with stopping(run.stop):
        return replace(run, on_event=show).play("logs", variables)


def ask(
    instance: Instance,
    question: Annotated[str, typer.Argument(help="What to ask; - reads it from standard input.")],
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="The longest answer.", min=1)] = 512,
    as_json: given.Json = False,
    inventory: given.Inventory = None,
    limit: given.Limit = None,
    extra_vars: given.ExtraVars = None,
    verbose: given.Verbose = 0,
    project: given.Project = None,
) -> int:
    """Ask an instance, and show the answer as it comes. It is asked on its own host, so its port need not be open."""
    from magi.verbs import slug
    from magi.workbench import passed_by_file

    output = Output(as_json)
    run = session(project, inventory, limit, extra_vars, verbosity=verbose)
    text = sys.stdin.read() if question == "-" else question
    if not text.strip():
        raise UsageError("The question is empty: give it behind the instance, or - and standard input.")
    with passed_by_file(text) as path:
        variables = {
            "instance": slug("The instance", instance),
            "question_file": str(path),
            "max_tokens": max_tokens,
        }
        done = _answered(output, run, variables)
    from magi import views

    view = views.answer(instance, _reached(done))
    if as_json:
        return say(output, view)
    print(flush=True)
    for line in view.lines:
        output.people.print(line, markup=False, style="dim")
    return view.exit_code


def _answered(output: Output, run: Session, variables: dict[str, object]) -> Run:
    """Ask, and unless programs want a document show the pieces as they come: thoughts to people alone, the answer also
    where it is piped."""
    from dataclasses import replace

    from magi.cli.live import echo
    from magi.instances import answer_piece, terminal_text

    waiting = output.people.status("Asking")  # nothing without a terminal

    def on_event(event: Event) -> None:
        for shown in event.text.splitlines():
            piece = answer_piece(shown) if event.kind == "message" and not output.as_json else None
            if not piece:
                if run.options.verbosity:
                    echo(output.people, shown)
                continue
            waiting.stop()
            kind, words = piece
            if kind == "reasoning":
                output.people.print(terminal_text(words), markup=False, style="dim", end="")
            else:
                print(terminal_text(words), end="", flush=True)

    with stopping(run.stop), waiting:
        return replace(run, on_event=on_event).play("ask", variables)


def _reached(run: Run) -> list[tuple[str, dict[str, object]]]:
    """Return the results of a run, by host. Raises HostUnreachable or MagiError where none has what was asked for."""
    from magi.errors import MagiError
    from magi.events import said
    from magi.verdict import not_reached

    good = [(host, dict(result)) for host, kind, result in run.results() if kind == "ok"]
    failed = [f"{item.host}: {said(item.result)}" for item in run.failures]
    if failed:
        raise MagiError(" ".join(failed))
    if run.unreachable and not any("host" in result or "log" in result for _host, result in good):
        raise HostUnreachable(not_reached(run))
    return good


EXAMPLES = {
    config: ("magi config", "magi config -i inventories/example --json"),
    doctor: ("magi doctor", "magi doctor --strict --limit gpu1"),
    logs: ("magi logs smollm2-135m-instruct.q2_k -n 20", "magi logs smollm2-135m-instruct.q2_k -f"),
    ask: ("magi ask smollm2-135m-instruct.q2_k 'What is the capital of France?'",),
}
