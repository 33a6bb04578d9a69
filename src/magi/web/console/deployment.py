"""The pages that change what runs: what a deployment would do, jobs with their steps, and the way back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, StreamingResponse
from pydantic import ValidationError

from magi import lines, verbs
from magi.profiles import verbs as profile_verbs
from magi.progress import STEPS
from magi.result import Result
from magi.session import Session
from magi.web import changes, shapes
from magi.web.console.render import page, path, rendered
from magi.web.console.routing import Change, Fields, Page
from magi.web.jobs import Job
from magi.web.routing import Here
from magi.web.service import Service

looking = APIRouter(route_class=Page)
changing = APIRouter(route_class=Change)
Verb = Literal["up", "rollback", "stop", "down"]
Names = Annotated[list[shapes.Name], Query(max_length=1000)]


@looking.get("/deploy", name="console_deploy")
def deploy(request: Request, here: Here, profile: shapes.Name | None = None) -> Response:
    """What a deployment of a profile would do."""
    names = [item["name"] for item in profile_verbs.list_(here.bench).document["profiles"] if item["valid"]]
    return page(request, "deploy.html", profiles=names, profile=profile)


@looking.get("/deploy/plan", name="console_plan")
async def plan(request: Request, here: Here, profile: shapes.Name | None = None) -> Response:
    """The plan, once the hosts have answered."""

    def of_profile(session: Session) -> Result:
        return verbs.plan(replace(session, profile=profile))

    found = (await here.looks.see(("plan", profile), of_profile, 0)).result
    return plan_part(request, found, profile, "up")


@looking.get("/rollback/plan", name="console_rollback_plan")
async def rollback_plan(request: Request, here: Here) -> Response:
    """What a rollback would do."""

    def checked(session: Session) -> Result:
        return verbs.rollback(replace(session, options=replace(session.options, check=True)))

    found = (await here.looks.see(("rollback",), checked, 0)).result
    return plan_part(request, found, None, "rollback")


def plan_part(request: Request, found: Result, profile: str | None, verb: str | None) -> Response:
    """Return a plan as a part of a page, with the button for its ``verb``, if any."""
    hosts = {
        host: {
            "profile": item["profile"],
            "applied": item["generation"],
            "summary": lines.plan_summary(item),
            "memory": lines.plan_memory(item),
            "rows": lines.plan_rows(item),
            "remarks": [*item["degraded"], *item["warnings"], *item["notes"]],
        }
        for host, item in found.document["hosts"].items()
    }
    given = {"hosts": hosts, "changes": found.document["changes"], "problem": found.problem}
    given["gateways"] = lines.plan_gateways(found.document)
    return page(request, "_plan.html", **given, profile=profile, verb=verb)


@looking.get("/confirm", name="console_confirm")
async def confirm(
    request: Request,
    verb: Literal["rollback", "stop", "down"],
    instances: Names = [],  # noqa: B006 - FastAPI reads it, and nobody changes it
    limit: shapes.Hosts | None = None,
) -> Response:
    """The question before a change."""
    return page(request, "confirm.html", verb=verb, instances=instances, limit=limit)


@changing.post("/start", name="console_start")
async def start(request: Request, here: Here, verb: Verb, given: Fields) -> Response:
    """Begin a change, and lead to its job."""
    named = [name for name in given.get("instances", "").split(",") if name]
    change = {"limit": given.get("limit") or None}
    try:
        if verb == "up":
            up = {**change, "profile": given.get("profile") or None}
            job = changes.start_up(request, here, shapes.Up.model_validate(up))
        elif verb == "stop":
            job = changes.start_stop(request, here, shapes.Stop.model_validate({**change, "instances": named}))
        elif verb == "rollback":
            job = changes.start_rollback(request, here, shapes.Change.model_validate(change))
        else:
            job = changes.start_down(request, here, shapes.Change.model_validate(change))
    except ValidationError as error:
        raise RequestValidationError([{**item, "loc": ("body", *item["loc"])} for item in error.errors()]) from None
    return RedirectResponse(path(request, "job", job_id=job.id), 303)


@looking.get("/jobs", name="console_jobs")
async def jobs(request: Request, here: Here) -> Response:
    """The history."""
    return page(request, "jobs.html", jobs=[*here.jobs])


@looking.get("/job", name="console_job")
async def job(request: Request, here: Here, job_id: str) -> Response:
    """A job: its steps while it is at work, and then its result."""
    found = here.jobs.get(job_id)
    return page(request, "job.html", job=found, progress=_progress(request, found, {}))


@changing.post("/job/cancel", name="console_cancel")
async def cancel(request: Request, here: Here, job_id: str) -> Response:
    changes.cancel_job(request, here, job_id)
    return RedirectResponse(path(request, "job", job_id=job_id), 303)


@looking.get("/job/events", name="console_job_events")
async def job_events(request: Request, here: Here, job_id: str) -> Response:
    """Server-sent events: ``progress`` with the part of the page that shows the steps, and ``end``."""
    stream = _stream(request, here, here.jobs.get(job_id))
    return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _stream(request: Request, here: Service, job: Job) -> AsyncIterator[str]:
    known: dict[str, Any] = {}
    past, news = len(job.entries), False
    async for item in job.follow():
        if item is None:
            if here.closing:
                return
            yield ": still at work\n\n"
            continue
        number, entry = item
        if entry.kind == "progress":
            data = json.loads(entry.data)
            known, news = {**data, "hosts": {**known.get("hosts", {}), **data["hosts"]}}, True
        if news and number >= past:  # of what was before, the last is enough
            news = False
            yield f"event: progress\ndata: {json.dumps(_progress(request, job, known))}\n\n"
        if entry.kind == "end":
            yield "event: end\ndata: {}\n\n"


def _progress(request: Request, job: Job, now: dict[str, Any]) -> str:
    given = {"step": now.get("step", 0), "task": now.get("name", ""), "hosts": now.get("hosts", {})}
    return rendered(request, "_progress.html", steps=STEPS if job.verb in ("up", "rollback") else {}, **given)
