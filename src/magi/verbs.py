"""The verbs that run a playbook: each is a playbook, its variables, and the meaning of its run."""

from __future__ import annotations

import datetime
import hashlib
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from magi import domain
from magi.activity import Sort
from magi.errors import UsageError
from magi.project import ANSIBLE_TAGS
from magi.result import Result
from magi.session import Session, routed, slug
from magi.state.questions import passed_by_file
from magi.verdict import deployments, looks
from magi.verdict import keys as keys_of
from magi.verdict.belief import GATEWAYS

KEY_PREFIX = "magi-"
"""What a key begins with: who finds one in a log knows what it opens."""


def prepare(session: Session) -> Result:
    """Get each host what a deployment needs: llama-server, and demo models if the inventory asks for them."""
    return deployments.prepared(session.play("prepare"))


def up(session: Session) -> Result:
    """Deploy the profile, or the part that tags select; the first time on this machine, prepare it before.

    Raises UsageError for a tag that no task has.
    """
    check, tags = session.options.check, session.options.tags
    if tags is not None:
        there = session.project.tags()
        unknown = [tag for tag in map(str.strip, tags.split(",")) if tag not in {*there, *ANSIBLE_TAGS}]
        if unknown:
            raise UsageError(f"--tags: no task has the tag {', '.join(unknown)}; there are {', '.join(there)}.")
    elsewhere = session.options.inventory or "ANSIBLE_INVENTORY" in os.environ
    if session.project.is_bare and not (check or tags or elsewhere):
        prepare(session)
    return deployments.deployed(session.play("site"), check=check, tags=tags)


def plan(session: Session) -> Result:
    """Say what a deployment would do; change nothing."""
    return deployments.planned(session.play("plan"))


def rollback(session: Session) -> Result:
    """Take back the last deployment: hosts and gateways run again what they ran before it."""
    return deployments.deployed(session.play("rollback"), check=session.options.check)


def status(session: Session) -> Result:
    """Say what runs."""
    return deployments.seen(session.play("status"))


def routes(session: Session) -> Result:
    """Say which names the gateways route, to which servers. Raises UsageError where the inventory has no gateway."""
    return looks.routes(session.play("routes", group=GATEWAYS))


def top(session: Session, sort: Sort = Sort.TOKENS, *, interval: float = 1, follow: bool = False) -> Result:
    """Say what servers and gateways do now, from two looks ``interval`` seconds apart; ``follow`` has what each look
    saw in the events (magi.activity), without end."""
    return looks.top(session.play("top", {"interval": interval, "follow": follow}), sort)


def health(session: Session, *, deep: bool = False) -> Result:
    """Ask every server and gateway as clients do; ``deep``: each for one token as well."""
    return deployments.healthy(session.play("health", {"deep": True} if deep else None))


def discover(session: Session) -> Result:
    """Find the models of each host."""
    return deployments.discovered(session.play("discover"))


def stop(session: Session, instances: Sequence[str] = ()) -> Result:
    """Stop these instances gracefully, or all if none is named."""
    names = [slug("The instance", name) for name in instances]
    done = session.play("stop", {"model_server_stop_instances": names} if names else None)
    return deployments.ended(done, names, "stopped")


def down(session: Session) -> Result:
    """Remove everything that was deployed."""
    return deployments.ended(session.play("teardown"))


def config(session: Session) -> Result:
    """Say which settings hosts have, and where each comes from; no host is asked."""
    return looks.settings(session.play("config"))


def doctor(session: Session, *, strict: bool = False) -> Result:
    """Examine this machine and the hosts; with ``strict``, warnings count as problems."""
    done = session.play("doctor")
    from magi.doctor.examination import diagnosis, findings  # slow to import

    return diagnosis(findings(session.project, done), strict)


def add_key(
    session: Session,
    name: str,
    *,
    models: Sequence[str] = (),
    concurrent: int | None = None,
    per_minute: int | None = None,
    expires: str | None = None,
) -> Result:
    """Make a key for a client of the gateways, and give these its SHA-256: the key itself is in the result alone.

    Raises UsageError for a name, globs or a day that can't be.
    """
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    made = domain.Key(hashlib.sha256(key.encode()).hexdigest(), name, tuple(models), concurrent, per_minute, expires)
    try:
        domain.checked_key(made.words(), f"Key {name!a}")
    except domain.KeysError as error:
        raise UsageError(str(error)) from None
    if any({*"{}"} & {*glob} for glob in models):  # Ansible would take it for a template
        raise UsageError("The names of models for a key can't have { or }: put ? in their place.")
    if expires and expires < datetime.datetime.now(datetime.timezone.utc).date().isoformat():
        raise UsageError(f"{expires}, the last day of the key, is over: name one to come.")
    given = {"state": "present", **{item: value for item, value in vars(made).items() if value}}
    return keys_of.added(session.play("keys", {"model_gateway_key": given}, group=GATEWAYS), name, key)


def keys(session: Session) -> Result:
    """Say which keys the gateways know, by name."""
    return keys_of.listed(session.play("keys", group=GATEWAYS))


def revoke_key(session: Session, name: str) -> Result:
    """Take a key from all gateways, also where an earlier try ended half done. Raises UsageError if none had it."""
    given = {"state": "absent", "name": name}
    return keys_of.revoked(session.play("keys", {"model_gateway_key": given}, group=GATEWAYS), name)


def fit(session: Session, model: str, options: Mapping[str, Any] | None = None) -> Result:
    """Say on which hosts one more server of a model fits, by the last look at them; no host is asked.

    Raises UsageError for a model that no host has, for an option that a llama-server does not take, and without a look.
    """
    from magi.profiles.fit import fit as fitted
    from magi.state import catalog

    try:
        hosts = catalog.load(catalog.path_of(session.project, session.options.inventory))
    except OSError:  # there is no place to remember anything, so nothing is known
        hosts = {}
    return fitted(hosts, model, options or {}, time.time())


def logs(session: Session, instance: str, lines: int = 100, *, follow: bool = False) -> Result:
    """Return the last lines that an instance printed; ``follow`` has new ones in the events, without end."""
    variables = {"instance": slug("The instance", instance), "lines": lines, "follow": follow}
    return looks.logs(instance, session.play("logs", variables))


def ask(session: Session, name: str, question: str, max_tokens: int = 512, *, instance: bool = False) -> Result:
    """Ask a model a question through a gateway, or, without one, the instance of that name on its own host, as with
    ``instance``; the pieces of the answer are in the events.

    Raises UsageError for a question that is empty or not UTF-8, and for a name that nobody has.
    """
    try:
        question.encode()
    except UnicodeError:  # bytes of a command line that are not UTF-8 are halves of surrogate pairs here
        raise UsageError("The question is not UTF-8: convert it to UTF-8.") from None
    if not question.strip():
        raise UsageError("The question is empty: give it after the model, or - to read standard input.")
    asked = {"instance": slug("The instance", name)} if instance else {"model": routed(name)}
    with passed_by_file(question) as path:
        variables = {**asked, "question_file": str(path), "max_tokens": max_tokens}
        return looks.answer(name, session.play("ask", variables))
