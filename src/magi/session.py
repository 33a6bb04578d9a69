"""Where and how verbs run, with checked arguments."""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from magi import domain
from magi.errors import UsageError
from magi.events import Event, Run
from magi.project import Project, find_project
from magi.runner.options import Options
from magi.runner.playbook import run
from magi.verdict.belief import SERVERS, checked

# The strictest rule of those that names of profiles, models and instances go by (_settings, _model).
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


# What clients may ask a gateway for: aliases have some characters more (_config.profile).
_ROUTED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")


def slug(what: str, text: str) -> str:
    """Return ``text`` if it is a name, else raise UsageError: as a variable it would be a template to Ansible."""
    if not _SLUG.fullmatch(text):
        raise UsageError(f"{what} must be a name of letters, digits, '.', '_' and '-', not {text!r}.")
    return text


def routed(text: str) -> str:
    """Return ``text`` if a gateway may know that name, else raise UsageError."""
    if not _ROUTED.fullmatch(text):
        raise UsageError(f"The model must be a name of letters, digits and . _ - : / @, not {text!r}.")
    return text


def dotenv(folders: Sequence[Path]) -> dict[str, str]:
    """Return what ``.env`` sets for Ansible, in the first of ``folders`` that has one, and the real environment does
    not. Settings are left out: the playbooks read them there. Raises UsageError."""
    path = domain.find_dotenv(folders, os.environ)
    if path is None:
        return {}
    try:
        values = domain.read_dotenv(path, os.environ)
    except domain.DotenvError as error:
        raise UsageError(str(error)) from None
    settings = {setting.environment for setting in domain.SETTINGS}
    return {key: value for key, value in values.items() if key not in settings and key not in os.environ}


@dataclass(frozen=True)
class Session:
    """Where and how verbs run."""

    project: Project
    options: Options = field(default_factory=Options)
    profile: str | None = None
    strict: bool = False
    on_event: Callable[[Event], bool | None] = lambda event: None
    """Called with each event as it comes; one for which it returns True is kept nowhere."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set it to end the present run."""

    @classmethod
    def of(cls, project: str | os.PathLike[str] | None = None, options: Options | None = None, **more: Any) -> Session:
        """Return a session of the project, with the environment that .env adds. Raises UsageError."""
        options = options or Options()
        inventory = tuple(_inventory(item) for item in options.inventory)
        extra_vars = tuple(_extra_vars(item) for item in options.extra_vars)
        found = find_project(project)
        environment = dotenv([Path.cwd(), found.root])
        options = replace(options, inventory=inventory, extra_vars=extra_vars, environment=environment)
        return cls(found, options, **more)

    def play(self, playbook: str, variables: Mapping[str, Any] | None = None, *, group: str = SERVERS) -> Run:
        """Run a playbook, which is for the hosts of ``group``, to its end. Raises what ``checked`` raises."""
        ours = {
            **({"profile": slug("The profile", self.profile)} if self.profile is not None else {}),
            **({"model_server_strict": True} if self.strict else {}),
            **(variables or {}),
        }
        done = run(self.project, playbook, self.options, ours, on_event=self.on_event, stop=self.stop)
        done = checked(done, self.options.inventory, self.options.limit, group)
        from magi.state.catalog import remember  # slow to import: while Ansible was at work, others did

        remember(self.project, self.options, done)
        return done


def _inventory(given: str) -> str:
    """Return an inventory as Ansible finds it from any folder; a list of hosts (with a comma) stays."""
    if "," in given:
        return given
    path = Path(given).expanduser()
    if not path.exists():
        raise UsageError(f"There is no inventory {given}: correct -i, or leave it out for that of ansible.cfg.")
    return str(path.resolve())


def _extra_vars(given: str) -> str:
    """Return the value of -e, with the path of a file as Ansible finds it from any folder.

    Raises UsageError for what Ansible can't read: Ansible would blame the inventory, which it reads first, and show
    what may be a secret.
    """
    if given[:1] in ("/", "."):
        raise UsageError(f"-e {given} names a file: put @ before it, -e @{given}.")
    if given.startswith("@"):
        path = Path(given[1:]).expanduser().absolute()
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{path} can't be read ({error.strerror}): correct -e {given}.") from None
        if not content.startswith(b"$ANSIBLE_VAULT;"):
            _check_mapping(content, f"-e {given}")
        return f"@{path}"
    if given[:1] in ("{", "["):
        _check_mapping(given, "What -e gives")
    elif set("'\"{") & {*given}:
        from ansible.errors import AnsibleError
        from ansible.parsing.splitter import parse_kv

        try:
            parse_kv(given)
        except AnsibleError:
            name = given.partition("=")[0]
            raise UsageError(f"-e {name}=… has quotes or braces that nothing closes: close them.") from None
    return given


def _check_mapping(content: str | bytes, what: str) -> None:
    """Raise UsageError unless the content is a mapping in JSON or YAML; its tags are up to Ansible."""
    import yaml

    with contextlib.suppress(ValueError):
        if isinstance(json.loads(content), dict):
            return
    try:
        node = yaml.compose(content, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        why = getattr(error, "problem", None) or getattr(error, "reason", None) or "it can't be decoded"
        where = f", line {mark.line + 1}," if mark and isinstance(content, bytes) else ""
        raise UsageError(f"{what}{where} is neither JSON nor YAML ({why}): correct it.") from None
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(f"{what} has no variables: give a mapping of names and values.")
