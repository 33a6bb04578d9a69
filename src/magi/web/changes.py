"""The changes that somebody can ask for, as jobs: one way for the API and for the console."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastapi import Request

from magi import verbs
from magi.session import Session
from magi.web import shapes
from magi.web.jobs import Job
from magi.web.routing import client
from magi.web.runs import Verb
from magi.web.service import Service


def start_up(request: Request, here: Service, body: shapes.Up) -> Job:
    """Deploy a profile. Raises, as all of these, Problem if another change is at work, and MagiError."""

    def act(session: Session) -> Any:
        return verbs.up(replace(session, profile=body.profile, strict=body.strict))

    return _start(request, here, "up", act, body)


def start_rollback(request: Request, here: Service, body: shapes.Change) -> Job:
    return _start(request, here, "rollback", verbs.rollback, body)


def start_stop(request: Request, here: Service, body: shapes.Stop) -> Job:
    return _start(request, here, "stop", lambda session: verbs.stop(session, body.instances), body)


def start_down(request: Request, here: Service, body: shapes.Change) -> Job:
    return _start(request, here, "down", verbs.down, body)


def cancel_job(request: Request, here: Service, job_id: str) -> Job:
    """End a job early; one that has ended stays as it is."""
    found = here.jobs.get(job_id)
    here.audit.write(request.state.role, client(request), "cancel", job=job_id)
    found.stop.set()
    return found


def _start(request: Request, here: Service, verb: str, act: Verb, body: shapes.Change) -> Job:
    given = body.model_dump()

    def on(session: Session) -> Session:
        return replace(session, options=replace(session.options, limit=body.limit, check=body.check))

    def begin(job_id: str) -> None:
        here.audit.write(request.state.role, client(request), verb, job=job_id, given=given)

    return here.jobs.start(verb, lambda session: act(on(session)), given, str(request.state.role), begin)
