"""config, doctor, top, fit, logs and ask: the verbs that look at settings and instances, or talk to them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from magi.activity import Sort
from magi.cli import completion
from magi.cli.options import Bench, Given, Instance, takes
from magi.cli.output import Output
from magi.cli.pipeline import carry_out, session, show, shown
from magi.cli.signals import stopping
from magi.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from magi.events import Event
    from magi.result import Result
    from magi.session import Session


@takes(Given)
def config(given: Given) -> int:
    """Show the settings and their sources. Of each host, with secrets left out; no host is asked."""
    from magi import verbs

    output = Output(given.as_json)
    return show(output, carry_out(output, session(given), verbs.config, "magi config"))


@takes(Given)
def doctor(
    given: Given,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as problems.")] = False,
) -> int:
    """Examine this machine and the hosts. Each finding says what to do; exits with 1 if there is a problem."""
    from magi import verbs

    output = Output(given.as_json)
    return show(output, carry_out(output, session(given), lambda s: verbs.doctor(s, strict=strict), "magi doctor"))


@takes(Bench, without=("folder", "registry"))
def fit(
    given: Bench,
    model: Annotated[
        str, typer.Argument(help="Id of a model, as magi discover shows it.", autocompletion=completion.models)
    ],
    ctx_size: Annotated[
        int | None,
        typer.Option("--ctx-size", help="Tokens of context, of all slots together (default: the model's).", min=1),
    ] = None,
    parallel: Annotated[int | None, typer.Option("--parallel", help="How many requests at a time.", min=1)] = None,
    options: Annotated[
        list[str] | None, typer.Option("--option", help="KEY=VALUE: one more option of llama-server, as in a profile.")
    ] = None,
) -> int:
    """Say whether one more server of a model fits, and where. By the last look at the hosts: none is asked."""
    import time

    from magi.profiles.fit import fit as fitted
    from magi.profiles.workbench import Workbench

    chosen = {"ctx_size": ctx_size, "parallel": parallel, **dict(_option(item) for item in options or ())}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    hosts = Workbench(given.project, inventory=given.inventory).hosts
    return show(Output(given.as_json), fitted(hosts, model, chosen, time.time()))


def _option(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not (name and equals):
        raise UsageError(f"--option {given}: give KEY=VALUE, such as --option cache_type_k=q8_0.")
    return name.replace("-", "_"), value


@takes(Given)
def logs(
    given: Given,
    instance: Instance,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many of its last lines.", min=0)] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new lines as they come, until Ctrl-C.")] = False,
) -> int:
    """Show what an instance printed. Its last run, from journald or supervisor, wherever it runs."""
    from magi import verbs

    if follow and given.as_json:
        raise UsageError("--follow never ends, and --json is one document: give one of the two.")
    output = Output(given.as_json)
    run = session(given)
    if follow:
        try:
            return shown(output, _followed(output, run, instance, lines))
        except Interrupted:
            raise Interrupted("Its log is no longer followed; nothing was changed.") from None
    result = carry_out(output, run, lambda s: verbs.logs(s, instance, lines), "magi logs")
    if not given.as_json:  # what was asked for: also where it is piped
        print("\n".join(result.lines))
    return shown(output, result)


def _followed(output: Output, run: Session, instance: str, lines: int) -> Result:
    """Follow a log, line for line."""
    from dataclasses import replace

    from magi import verbs
    from magi.cli.live import echo
    from magi.instances import log_line

    hosts: set[str] = set()

    def on_event(event: Event) -> None:
        if event.host:
            hosts.add(event.host)
        for printed in event.text.splitlines():
            found = log_line(printed, hosts) if event.kind == "message" else None
            if found:
                print(printed if len(hosts) > 1 else found[1], flush=True)
            elif run.options.verbosity:
                echo(output.people, printed)

    with stopping(run.stop):
        return verbs.logs(replace(run, on_event=on_event), instance, lines, follow=True)


@takes(Given)
def top(
    given: Given,
    sort: Annotated[Sort, typer.Option("--sort", help="What comes first: the most of it, or by name.")] = Sort.TOKENS,
    interval: Annotated[float, typer.Option("--interval", help="Seconds between two looks.", min=0.5)] = 1,
) -> int:
    """Show what servers and gateways do. Live until Ctrl-C; once with --json or no terminal. Wakes no server."""
    from magi import verbs

    output = Output(given.as_json)
    run = session(given)
    if not given.as_json and output.people.is_terminal:
        from magi.cli.top import live

        return live(output, run, interval, sort)
    result = carry_out(output, run, lambda s: verbs.top(s, sort, interval=interval), "magi top")
    return show(output, result)


@takes(Given)
def ask(
    given: Given,
    model: Annotated[
        str,
        typer.Argument(
            help="What to ask: a model, an alias or an instance, as magi routes shows it.",
            autocompletion=completion.instances,
        ),
    ],
    question: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")],
    one: Annotated[
        bool, typer.Option("--instance", help="MODEL is an instance: ask it on its own host, and no gateway.")
    ] = False,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="The longest answer.", min=1)] = 512,
) -> int:
    """Ask a model a question. Through the gateway if there is one; shows the answer as it is written."""
    from magi import verbs

    output = Output(given.as_json)
    run = session(given)
    try:
        text = sys.stdin.read() if question == "-" else question
    except UnicodeError:
        raise UsageError("The question is not UTF-8: convert it to UTF-8.") from None
    result = _answered(output, run, lambda s: verbs.ask(s, model, text, max_tokens, instance=one))
    if not given.as_json:
        print(flush=True)
        for line in result.lines:
            output.people.print(line, markup=False, style="dim")
    return shown(output, result)


def _answered(output: Output, run: Session, verb: Callable[[Session], Result]) -> Result:
    """Ask, and unless a program wants a document, show the pieces as they are written: thoughts only to people, the
    answer also to a pipe."""
    from dataclasses import replace

    from magi.cli.live import echo
    from magi.instances import answer_piece, terminal_text

    waiting = output.people.status("Asking")  # nothing without a terminal

    def on_event(event: Event) -> None:
        for printed in event.text.splitlines():
            piece = answer_piece(printed) if event.kind == "message" and not output.as_json else None
            if not piece:
                if run.options.verbosity:
                    echo(output.people, printed)
                continue
            waiting.stop()
            kind, words = piece
            if kind == "reasoning":
                output.people.print(terminal_text(words), markup=False, style="dim", end="")
            else:
                print(terminal_text(words), end="", flush=True)

    with stopping(run.stop, output.say), waiting:
        return verb(replace(run, on_event=on_event))


EXAMPLES = {
    config: ("magi config", "magi config -i inventories/example --json"),
    doctor: ("magi doctor", "magi doctor --strict --limit gpu1"),
    fit: (
        "magi fit smollm2-135m-instruct.q2_k",
        "magi fit smollm2-135m-instruct.q2_k --ctx-size 8192 --parallel 2 --option cache_type_k=q8_0",
    ),
    top: ("magi top", "magi top --sort queue", "magi top --json | jq '.models[].tokens_per_second'"),
    logs: ("magi logs smollm2-135m-instruct.q2_k -n 20", "magi logs smollm2-135m-instruct.q2_k -f"),
    ask: (
        "magi ask smollm2-135m-instruct.q2_k 'What is the capital of France?'",
        "magi ask --instance smollm2-135m-instruct.q2_k 'What is the capital of France?'",
    ),
}
