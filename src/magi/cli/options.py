"""The options that verbs share: each set is a dataclass, and a verb gets one of its values."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar, get_type_hints

import typer

from magi.cli import completion

_ANSIBLE = "Passed through to Ansible"

Project = Annotated[
    Path | None,
    typer.Option("--project", help="The project (default: MAGI_PROJECT, or the one at or above this folder)."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, and nothing else there.")]
Inventory = Annotated[
    list[str] | None,
    typer.Option("--inventory", "-i", help="The hosts (default: those of ansible.cfg).", rich_help_panel=_ANSIBLE),
]
Instance = Annotated[
    str, typer.Argument(help="Name of an instance, as magi status shows it.", autocompletion=completion.instances)
]


@dataclass(frozen=True)
class Given:
    """The options of verbs that run a playbook; those of ``EXTRA`` only if a verb says so."""

    as_json: Json = False
    inventory: Inventory = None
    limit: Annotated[str | None, typer.Option("--limit", "-l", help="Only these hosts.", rich_help_panel=_ANSIBLE)] = (
        None
    )
    extra_vars: Annotated[
        list[str] | None,
        typer.Option("--extra-vars", "-e", help="key=value, JSON or @FILE; beats all.", rich_help_panel=_ANSIBLE),
    ] = None
    tags: Annotated[
        str | None, typer.Option("--tags", "-t", help="Only tasks with these tags.", rich_help_panel=_ANSIBLE)
    ] = None
    check: Annotated[bool, typer.Option("--check", help="Change nothing.", rich_help_panel=_ANSIBLE)] = False
    diff: Annotated[bool, typer.Option("--diff", help="Show what changes in files.", rich_help_panel=_ANSIBLE)] = False
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose", "-v", count=True, help="Ansible's own output; more with -vvv.", rich_help_panel=_ANSIBLE
        ),
    ] = 0
    project: Project = None


EXTRA = {"tags", "check", "diff"}


@dataclass(frozen=True)
class Bench:
    """The options of verbs that work on profiles."""

    project: Project = None
    folder: Annotated[
        Path | None,
        typer.Option("--dir", help="Folder of the profiles (default: the project's, whatever the inventory says)."),
    ] = None
    registry: Annotated[
        Path | None,
        typer.Option("--registry", help="A registry file (default: what the last magi discover, plan or up saw)."),
    ] = None
    inventory: Inventory = None
    as_json: Json = False


Options = TypeVar("Options", Given, Bench)
Own = ParamSpec("Own")


def takes(
    options: type[Options], *extra: str, without: Sequence[str] = ()
) -> Callable[[Callable[Concatenate[Options, Own], int]], Callable[..., int]]:
    """Make typer give a verb its own options and, as its first argument, those that it shares with others.

    ``extra`` are the ones of EXTRA that it takes, ``without`` others that it does not. ``magi --project X VERB`` is the
    same as ``magi VERB --project X``.
    """
    hints: dict[str, Any] = get_type_hints(options, include_extras=True)
    shared: dict[str, Any] = {
        item.name: item.default for item in fields(options) if item.name not in EXTRA.difference(extra).union(without)
    }

    def decorate(verb: Callable[Concatenate[Options, Own], int]) -> Callable[..., int]:
        def parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
            return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

        def command(context: typer.Context, **given: Any) -> int:
            values = {name: given.pop(name) for name in shared}
            values["project"] = values["project"] or context.obj
            return verb(options(**values), **given)  # type: ignore[call-arg]  # the names are those of its fields

        own: list[inspect.Parameter] = [*inspect.signature(verb, eval_str=True).parameters.values()][1:]
        parameters = [
            parameter("context", inspect.Parameter.empty, typer.Context),
            *(parameter(item.name, item.default, item.annotation) for item in own),
            *(parameter(name, default, hints[name]) for name, default in shared.items()),
        ]
        functools.update_wrapper(command, verb)
        del command.__wrapped__  # type: ignore[attr-defined]  # its signature is not that of the verb
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # Typer reads it
        command.__annotations__ = {item.name: item.annotation for item in parameters}
        return command

    return decorate
