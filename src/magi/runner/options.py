"""Command line and environment of a run of a playbook."""

from __future__ import annotations

import json
import locale
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from magi.project import Project

CALLBACK = ("ANSIBLE_CALLBACK_PLUGINS", "ANSIBLE_STDOUT_CALLBACK", "ORIGINAL_STDOUT_CALLBACK", "AWX_ISOLATED_DATA_DIR")
"""Variables of ansible-runner through which Ansible finds its callback and reports to it. It sets others that are ours
or the user's to decide: a cache of facts, and that SSH accepts any host key (ansible_runner/config/_base.py)."""
MARK = "MAGI_RUN"
"""Variable that marks the processes of a run, wherever they go: workers leave their process group."""
FORKS = 200
"""How many hosts Ansible works on at once at most; it starts no more workers than a play has hosts. So hosts that don't
answer hold up no others."""


@dataclass(frozen=True)
class Options:
    """What is passed on to ansible-playbook."""

    inventory: tuple[str, ...] = ()
    limit: str | None = None
    extra_vars: tuple[str, ...] = ()
    """As for -e: ``key=value``, JSON, or ``@file``."""
    tags: str | None = None
    check: bool = False
    diff: bool = False
    verbosity: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    """From .env; the real environment beats it."""


def command_line(playbook: str, options: Options, variables: Mapping[str, Any]) -> list[str]:
    """Return the arguments of ansible-playbook. ``variables`` are ours, and go in as one JSON document."""
    arguments = ["ansible-playbook"]
    for inventory in options.inventory:
        arguments += ["-i", inventory]
    arguments += ["--limit", options.limit] if options.limit else []
    arguments += ["--tags", options.tags] if options.tags else []
    for given in options.extra_vars:
        arguments += ["-e", given]
    arguments += ["-e", json.dumps(variables, sort_keys=True)] if variables else []
    arguments += ["--check"] if options.check else []
    arguments += ["--diff"] if options.diff else []
    arguments += ["-" + "v" * options.verbosity] if options.verbosity else []
    return [*arguments, playbook]


def utf8(environment: Mapping[str, str]) -> dict[str, str]:
    """Return a locale for Ansible, which refuses one that is not UTF-8 or not installed, as often in cron or over SSH;
    nothing if that of ``environment`` will do."""
    named = next((environment[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if environment.get(name)), "C")
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, named)
        good = locale.nl_langinfo(locale.CODESET).upper() == "UTF-8"
    except locale.Error:
        good = False
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    return {} if good else {"LC_ALL": "C.UTF-8"}


def environment(project: Project, options: Options, runner: Mapping[str, str], ident: str) -> dict[str, str]:
    """Return the environment of ansible-playbook: .env, over it the real one, over it what a run needs."""
    given = {key: runner[key] for key in CALLBACK if key in runner}
    merged = {**options.environment, **os.environ, **given}
    return {
        **merged,
        # Our programs are those of our virtual environment, even if it is not activated.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), merged.get("PATH", os.defpath)]),
        **project.environment(merged),
        **utf8(merged),
        "ANSIBLE_FORKS": merged.get("ANSIBLE_FORKS") or str(max(FORKS, project.forks(merged))),
        "ANSIBLE_RETRY_FILES_ENABLED": "False",
        # As in the project's ansible.cfg: half of the wanted hosts is not a success.
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "True",
        "ANSIBLE_HOST_PATTERN_MISMATCH": "error",
        MARK: ident,
    }
