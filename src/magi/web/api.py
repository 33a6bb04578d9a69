"""The API: the verbs of magi, and the endpoints of the service that it replaces."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPBearer

from magi import verbs
from magi.web import changes, console, older, profiles, shapes
from magi.web.jobs import Job
from magi.web.looks import Key, Seen
from magi.web.problems import MEDIA_TYPE
from magi.web.routing import Deploying, Here, Viewing, as_json, client
from magi.web.runs import Verb
from magi.web.service import STATUS, Service


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run the application's service: that of ``app.state.magi``, or one of the project and inventory found here."""
    if not hasattr(app.state, "magi"):
        app.state.magi = Service()
    async with app.state.magi.running():
        yield


_SCHEMA = {"schema": {"$ref": "#/components/schemas/Problem"}}
_PROBLEM = {"model": shapes.Problem, "content": {MEDIA_TYPE: _SCHEMA}, "description": "What is wrong: one sentence."}
router = APIRouter(
    lifespan=_lifespan,
    responses={"4XX": _PROBLEM, "5XX": _PROBLEM, 422: _PROBLEM},
    # For the OpenAPI document alone: each route checks the token before it reads anything.
    dependencies=[Depends(HTTPBearer(auto_error=False, description="A token of magi serve."))],
    generate_unique_id_function=lambda route: route.name,
)
"""All routes; ``app.include_router(router, prefix="/magi")`` adds them to an application."""
looking = APIRouter(route_class=Viewing)
changing = APIRouter(route_class=Deploying)

MaxAge = Annotated[
    float | None,
    Query(ge=0, le=86400, description="Wait for something that is no older, in seconds; without it, nothing waits."),
]

Count = Annotated[int | None, Query(ge=1, le=1 << 30)]


# --- what was last seen ----------------------------------------------------------------------------------------------


async def _look(here: Service, key: Key, verb: Verb, max_age: float | None) -> Response:
    seen = await here.looks.see(key, verb, max_age)
    head = {
        "seen_at": datetime.fromtimestamp(seen.at, timezone.utc).isoformat(),
        "age": round(seen.age, 3),
        "refreshing": here.looks.is_refreshing(key),
        "exit_code": int(seen.result.exit_code),
        "problem": here.looks.problem(key) or seen.result.problem or None,
    }
    body = b'%s, "document": %s}' % (json.dumps(head).encode()[:-1], seen.body)
    return Response(body, media_type="application/json", headers=_age(seen))


def _age(seen: Seen) -> dict[str, str]:
    return {"Age": str(int(seen.age))}


@looking.get("/api/v1/status", response_model=shapes.Look, tags=["looks"])
async def status(here: Here, max_age: MaxAge = None) -> Response:
    """Say what runs."""
    return await _look(here, STATUS, verbs.status, max_age)


@looking.get("/api/v1/discover", response_model=shapes.Look, tags=["looks"])
async def discover(here: Here, max_age: MaxAge = None) -> Response:
    """Say which models hosts have, what was set aside and why, and what differs between hosts."""
    return await _look(here, ("discover",), verbs.discover, max_age)


@looking.get("/api/v1/routes", response_model=shapes.Look, tags=["looks"])
async def routes(here: Here, max_age: MaxAge = None) -> Response:
    """Say which names the gateways route, to which servers."""
    return await _look(here, ("routes",), verbs.routes, max_age)


@looking.get("/api/v1/health", response_model=shapes.Look, tags=["looks"])
async def health(here: Here, deep: bool = False, max_age: MaxAge = None) -> Response:
    """Ask servers and gateways as clients do; with deep, each for one token as well."""
    return await _look(here, ("health", deep), partial(verbs.health, deep=deep), max_age)


@looking.get("/api/v1/plan", response_model=shapes.Look, tags=["looks"])
async def plan(here: Here, profile: shapes.Name | None = None, max_age: MaxAge = None) -> Response:
    """Say what a deployment would do, and why."""
    return await _look(here, ("plan", profile), _of(profile, verbs.plan), max_age)


@looking.get("/api/v1/models/{model}/fit", response_model=shapes.Look, tags=["looks"])
async def fit(here: Here, model: shapes.Name, ctx_size: Count = None, parallel: Count = None) -> Response:
    """Say on which hosts one more server of a model fits, and with which context, by the last look at their memory."""
    options = {name: count for name, count in (("ctx_size", ctx_size), ("parallel", parallel)) if count}
    return await _look(here, ("fit", model, ctx_size, parallel), partial(verbs.fit, model=model, options=options), 0)


@looking.get("/api/v1/instances/{instance}/logs", response_model=shapes.Look, tags=["looks"])
async def logs(
    here: Here,
    instance: shapes.Name,
    lines: Annotated[int, Query(ge=1, le=10_000)] = 100,
    max_age: MaxAge = 2,
) -> Response:
    """Return the last lines that an instance printed; this waits for them."""
    verb = partial(verbs.logs, instance=instance, lines=lines)
    return await _look(here, ("logs", instance, lines), verb, max_age)


def _of(profile: str | None, verb: Verb) -> Verb:
    """Return a verb for another profile than that of the settings."""
    return (lambda session: verb(replace(session, profile=profile))) if profile else verb


# --- jobs ------------------------------------------------------------------------------------------------------------


def _begun(request: Request, job: Job) -> Response:
    """Return a job that was begun, with its address."""
    return as_json(job.summary(), 202, {"Location": str(request.url_for("job", job_id=job.id).path)})


@changing.post("/api/v1/up", status_code=202, response_model=shapes.Job, tags=["jobs"])
async def up(request: Request, here: Here, body: shapes.Up) -> Any:
    """Deploy a profile, as a job."""
    return _begun(request, changes.start_up(request, here, body))


@changing.post("/api/v1/rollback", status_code=202, response_model=shapes.Job, tags=["jobs"])
async def rollback(request: Request, here: Here, body: shapes.Change) -> Any:
    """Take back the last deployment, as a job: its hosts and the gateways run again what they ran before."""
    return _begun(request, changes.start_rollback(request, here, body))


@changing.post("/api/v1/stop", status_code=202, response_model=shapes.Job, tags=["jobs"])
async def stop(request: Request, here: Here, body: shapes.Stop) -> Any:
    """Stop instances gracefully, as a job; the next deployment starts them again."""
    return _begun(request, changes.start_stop(request, here, body))


@changing.post("/api/v1/down", status_code=202, response_model=shapes.Job, tags=["jobs"])
async def down(request: Request, here: Here, body: shapes.Change) -> Any:
    """Stop and remove what was deployed, as a job."""
    return _begun(request, changes.start_down(request, here, body))


@looking.get("/api/v1/jobs", response_model=list[shapes.Job], tags=["jobs"])
async def jobs(here: Here) -> Any:
    """List the jobs, the newest first."""
    return as_json([job.summary() for job in here.jobs])


@looking.get("/api/v1/jobs/{job_id}", response_model=shapes.JobResult, tags=["jobs"])
async def job(here: Here, job_id: str) -> Any:
    """Return a job, with what it found or did."""
    found = here.jobs.get(job_id)
    return as_json({**found.summary(), "document": found.document})


@changing.post("/api/v1/jobs/{job_id}/cancel", status_code=202, response_model=shapes.Job, tags=["jobs"])
async def cancel(request: Request, here: Here, job_id: str) -> Any:
    """End a job early; it says on which hosts it was done. One that has ended stays as it is."""
    return as_json(changes.cancel_job(request, here, job_id).summary(), 202)


@looking.get(
    "/api/v1/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    tags=["jobs"],
)
async def events(
    here: Here, job_id: str, last_event_id: Annotated[str, Header(description="The last one that came.")] = "0"
) -> Response:
    """Follow a job from its beginning, or after an event, to its end: server-sent events.

    event: what happened; progress: the steps and the instances of each host; end: the job.
    """
    found = here.jobs.get(job_id)
    after = int(last_event_id) if last_event_id.isascii() and last_event_id.isdigit() else 0
    headers = {"X-Accel-Buffering": "no"}  # nginx shall not keep them back
    return StreamingResponse(_stream(here, found, after), media_type="text/event-stream", headers=headers)


async def _stream(here: Service, job: Job, after: int) -> AsyncIterator[str]:
    async for item in job.follow(after):
        if item:
            number, entry = item
            yield f"id: {number}\nevent: {entry.kind}\ndata: {entry.data}\n\n"
        elif here.closing:
            return
        else:
            yield ": still at work\n\n"


# --- keys of the gateways' clients -----------------------------------------------------------------------------------

KEYS = ("keys",)


@looking.get("/api/v1/keys", response_model=shapes.Look, tags=["keys"])
async def keys(here: Here, max_age: MaxAge = None) -> Response:
    """List the keys that the gateways know, by name."""
    return await _look(here, KEYS, verbs.keys, max_age)


async def _change_keys(request: Request, here: Service, verb: Verb, action: str, **what: Any) -> dict[str, Any]:
    with here.jobs.alone(f"A change of keys ({action})"):
        here.audit.write(request.state.role, client(request), action, **what)
        result = await here.runs.run(verb)
    here.looks.refresh(KEYS, verbs.keys)
    return dict(result.checked().document)


@changing.post("/api/v1/keys", status_code=201, response_model=shapes.Key, tags=["keys"])
async def add_key(request: Request, here: Here, body: shapes.NewKey) -> Any:
    """Make a key for a client; this answer alone has it. Waits until the gateways know it."""
    given = body.model_dump()
    made = await _change_keys(request, here, partial(verbs.add_key, **given), "key add", **given)
    return as_json(made, 201)


@changing.delete("/api/v1/keys/{name}", status_code=204, tags=["keys"])
async def revoke_key(request: Request, here: Here, name: shapes.Name) -> Response:
    """Take a key from all gateways. Waits until they have forgotten it."""
    await _change_keys(request, here, partial(verbs.revoke_key, name=name), "key revoke", name=name)
    return Response(status_code=204)


# --- the service that this replaces ----------------------------------------------------------------------------------


@looking.get("/api/models/management/servers", response_model=shapes.OlderServers, tags=["older"])
async def management_servers(here: Here) -> Any:
    """Say what runs, as the older service did; the header Age has its age in seconds."""
    seen = await here.looks.see(STATUS, verbs.status)
    return as_json(older.servers(seen.result.document), headers=_age(seen))


@looking.get("/api/models/status", response_model=shapes.OlderStatus, tags=["older"])
async def models_status(here: Here) -> Any:
    """Say how models are, as the older service did; what magi does not know is 0."""
    seen = await here.looks.see(STATUS, verbs.status)
    return as_json(older.status(seen.result.document, seen.at), headers=_age(seen))


PARTS = (looking, changing, profiles.looking, profiles.changing)
for part in (*PARTS, console.router):
    router.include_router(part)
