"""config, doctor, logs and ask: the verbs that look at what is there, and talk to it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from magi.cli import options as given
from magi.cli.deploy import carry_out, finish, session, stopping
from magi.cli.output import Output, say
from magi.errors import HostUnreachable, Interrupted, MagiError, UsageError

if TYPE_CHECKING:
    from magi.events import Event, Run
    from magi.verbs import Session
    from magi.verdict import Outcome
    from magi.views import View

Instance = Annotated[str, typer.Argument(help="Name of an instance, as magi status shows it.")]


def config(
    as_json: given.Json = False,
    inventory: given.Inventory = None,
    limit: given.Limit = None,
    extra_vars: given.ExtraVars = None,
    verbose: given.Verbose = 0,
    project: given.Project = None,
) -> int:
    """Show the settings and their sources. Of each host, with secrets left out; no host is asked."""
    output = Output(as_json)
    run = session(project, inventory, limit, extra_vars, verbosity=verbose)
    done = carry_out(output, run, lambda s: s.play("config"), "magi config")
    from magi import views

    lines, outcome = _found(done, "settings", lambda results: views.settings(results, run.options.environment))
    if not as_json:
        for line in lines:
            output.say(line)
    return finish(output, outcome)


def doctor(
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as problems.")] = False,
    as_json: given.Json = False,
    inventory: given.Inventory = None,
    limit: given.Limit = None,
    extra_vars: given.ExtraVars = None,
    verbose: given.Verbose = 0,
    project: given.Project = None,
) -> int:
    """Examine this machine and the hosts. Each finding says what to do; exits with 1 if there is a problem."""
    output = Output(as_json)
    run = session(project, inventory, limit, extra_vars, verbosity=verbose)
    done = carry_out(output, run, lambda s: s.play("doctor"), "magi doctor")
    from magi import examination, views

    return say(output, views.diagnosis(examination.findings(run.project, done), strict))


def logs(
    instance: Instance,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many of its last lines.", min=0)] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new lines as they come, until Ctrl-C.")] = False,
    as_json: given.Json = False,
    inventory: given.Inventory = None,
    limit: given.Limit = None,
    extra_vars: given.ExtraVars = None,
    verbose: given.Verbose = 0,
    project: given.Project = None,
) -> int:
    """Show what an instance printed. Its last run, from journald or supervisor, wherever it runs."""
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

    lines, outcome = _found(done, "log", lambda results: views.logs(instance, results))
    if not (as_json or follow):  # what was asked for: also where it is piped
        print("\n".join(lines))
    return finish(output, outcome)


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
    """Ask an instance a question. Shows the answer as it comes; it is asked on its own host, through no open port."""
    from magi.verbs import slug
    from magi.workbench import passed_by_file

    output = Output(as_json)
    run = session(project, inventory, limit, extra_vars, verbosity=verbose)
    try:
        text = sys.stdin.read() if question == "-" else question
        text.encode()  # what was no UTF-8 on the command line is half of a pair of surrogates here
    except UnicodeError:
        raise UsageError("The question is not UTF-8: convert it to UTF-8.") from None
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

    lines, outcome = _found(done, "text", lambda results: views.answer(instance, results))
    if not as_json:
        print(flush=True)
        for line in lines:
            output.people.print(line, markup=False, style="dim")
    return finish(output, outcome)


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

    with stopping(run.stop, output.say), waiting:
        return replace(run, on_event=on_event).play("ask", variables)


def _found(run: Run, key: str, view: Callable[[list[tuple[str, Any]]], View]) -> tuple[Sequence[str], Outcome]:
    """Return what a run found, for people and for programs, and what became of the hosts that were lost in it.

    ``view`` makes it of the results, by host. Raises MagiError or HostUnreachable where hosts were lost and no other
    returned ``key``.
    """
    from magi.events import said
    from magi.verdict import Outcome, not_reached

    failed = [f"Host {item.host}: {said(item.result).removeprefix(f'Host {item.host}: ')}" for item in run.failures]
    problem = " ".join(filter(None, (not_reached(run), *failed)))
    kind = HostUnreachable if run.unreachable else MagiError
    good = [(host, result) for host, how, result in run.results() if how == "ok"]
    if problem and all(result.get(key) is None for _host, result in good):
        raise kind(problem)
    found = view(good)
    return found.lines, Outcome(found.document, kind.exit_code if problem else found.exit_code, problem)


EXAMPLES = {
    config: ("magi config", "magi config -i inventories/example --json"),
    doctor: ("magi doctor", "magi doctor --strict --limit gpu1"),
    logs: ("magi logs smollm2-135m-instruct.q2_k -n 20", "magi logs smollm2-135m-instruct.q2_k -f"),
    ask: ("magi ask smollm2-135m-instruct.q2_k 'What is the capital of France?'",),
}
