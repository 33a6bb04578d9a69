"""The pages that look: signing in, the fleet, models, logs, and a playground."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncIterator
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse
from starlette.exceptions import HTTPException

from magi import verbs
from magi.domain import printable
from magi.errors import MagiError
from magi.events import Event
from magi.instances import answer_piece, log_line
from magi.result import Result
from magi.session import Session
from magi.web import shapes
from magi.web.console import deployment, editor
from magi.web.console.fleet import chats, hosts, troubles
from magi.web.console.render import STATIC, page, path, rendered
from magi.web.console.routing import Fields, Open, Page, signed_in, signed_out
from magi.web.looks import Key, Seen
from magi.web.problems import Problem
from magi.web.routing import Here
from magi.web.runs import Verb
from magi.web.service import STATUS, Service

open_to_all = APIRouter(route_class=Open)
looking = APIRouter(route_class=Page)
_HEALTH: Key = ("health", False)
_PLAN: Key = ("plan", None)
_LINES = 200
"""Of a log, from before it is followed."""
_LONGEST = 1024
"""Tokens of an answer."""


# --- signing in ------------------------------------------------------------------------------------------------------


@open_to_all.get("/static/{name}", name="console_static")
async def static(name: str) -> Response:
    if name not in STATIC:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    content, kind = STATIC[name]
    # Its address has its digest.
    return Response(content, media_type=kind, headers={"Cache-Control": "public, max-age=31536000, immutable"})


@open_to_all.get("/login", name="console_login")
async def login(request: Request, to: str | None = None) -> Response:
    return page(request, "login.html", to=to, sentence="")


@open_to_all.post("/login", name="console_sign_in")
async def sign_in(request: Request, here: Here, given: Fields, to: str | None = None) -> Response:
    token = given.get("token", "").strip()
    if here.tokens.role(token) is None:
        sentence = "This token is none of ours: magi serve says at its start where its file of tokens is."
        return page(request, "login.html", HTTPStatus.UNAUTHORIZED, to=to, sentence=sentence)
    return signed_in(request, here, token)


@open_to_all.post("/logout", name="console_sign_out")
async def sign_out(request: Request, here: Here) -> Response:
    return signed_out(request, here)


# --- the fleet -------------------------------------------------------------------------------------------------------


@looking.get("/", name="console_fleet")
async def fleet(request: Request, here: Here) -> Response:
    """What is not ready and why, and what runs."""
    status, given = await _fleet(request, here)
    return page(request, "fleet.html", age=status.age if status else None, **given)


@looking.get("/fleet", name="console_fleet_part")
async def fleet_part(request: Request, here: Here, digest: str = "") -> Response:
    """What has changed of it: nothing (204), or all."""
    status, given = await _fleet(request, here)
    age = {"Age": str(int(status.age))} if status else {}
    if given["digest"] == digest:
        return Response(status_code=204, headers=age)
    return page(request, "_poll.html", headers=age, **given)


@looking.get("/look", name="console_look")
async def look(request: Request, here: Here) -> Response:
    """Look at the hosts again, and wait for it."""
    await here.looks.see(STATUS, verbs.status, 0)
    return RedirectResponse(path(request, "fleet"), 303)


async def _fleet(request: Request, here: Service) -> tuple[Seen | None, dict[str, Any]]:
    status, problem = await _seen(here, STATUS, verbs.status, 10)
    found = None
    if status:
        now, broken = status.result.document, status.result.exit_code != 0
        # Looks that cost more, and only where they say more: causes, and the size of hosts.
        health = (await _seen(here, _HEALTH, verbs.health, 15))[0] if broken else None
        plan = (await _seen(here, _PLAN, verbs.plan, 120))[0]
        recent = health if health and health.age < 120 else None
        found = {
            "summary": now["summary"],
            "total": now["total_servers"],
            "troubles": troubles(now, status.result.problem, recent.result.document if recent else None),
            "hosts": hosts(now, plan.result.document if plan else None),
            "gateways": now.get("gateways", ()),
        }
    job = next((job for job in here.jobs if job.ended is None), None)
    content = rendered(request, "_fleet.html", found=found, problem=problem, job=job)
    digest = hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()[:16]
    return status, {"content": content, "digest": digest}


async def _seen(here: Service, key: Key, verb: Verb, fresh: float | None = None) -> tuple[Seen | None, str | None]:
    """Return what was last seen, and why there is nothing newer."""
    try:
        seen = await here.looks.see(key, verb, fresh=fresh)
        return seen, here.looks.problem(key)
    except Problem:  # nothing yet
        return None, None
    except MagiError as error:
        return None, str(error)


# --- models ----------------------------------------------------------------------------------------------------------


@looking.get("/models", name="console_models")
async def models(request: Request) -> Response:
    return page(request, "later.html", title="Models", part="models_part", given={}, current="models")


@looking.get("/models/part", name="console_models_part")
async def models_part(request: Request, here: Here) -> Response:
    """What was found, set aside and why, and what differs between hosts; this waits for the hosts."""
    seen = await here.looks.see(("discover",), verbs.discover, 10)
    return page(request, "_models.html", found=seen.result.document, problem=seen.result.problem)


# --- logs ------------------------------------------------------------------------------------------------------------


@looking.get("/log", name="console_log")
async def log(request: Request, instance: shapes.Name) -> Response:
    return page(request, "log.html", instance=instance)


@looking.get("/log/lines", name="console_log_lines")
async def log_lines(here: Here, instance: shapes.Name) -> Response:
    """Server-sent events: ``line``, and at the end ``end`` with the reason."""
    return _events(_log(here, instance))


async def _log(here: Service, instance: str) -> AsyncIterator[str]:
    known: set[str] = set()
    verb = partial(verbs.logs, instance=instance, lines=_LINES, follow=True)
    try:
        async for event in here.runs.talk(verb):
            if event is None:
                yield ": still at work\n\n"
            if not isinstance(event, Event):
                continue
            if event.host:
                known.add(event.host)
            for printed in event.text.splitlines() if event.kind == "message" else ():
                if found := log_line(printed, known):
                    yield _event("line", printable((printed if len(known) > 1 else found[1]).expandtabs()))
        yield _event("end", "The log has ended.")
    except MagiError as error:
        yield _event("end", str(error))


def _event(kind: str, data: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"


def _events(stream: AsyncIterator[str]) -> StreamingResponse:
    return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


# --- the playground --------------------------------------------------------------------------------------------------


@looking.get("/playground", name="console_playground")
async def playground(request: Request, here: Here, model: Annotated[str, Query(max_length=200)] = "") -> Response:
    changed = max((job.ended or 0 for job in here.jobs), default=0)
    seen, _problem = await _seen(here, STATUS, verbs.status)
    if seen is None or seen.at < changed:  # what a deployment has just started is there to be asked
        seen = await here.looks.see(STATUS, verbs.status, max(0.0, time.time() - changed))
    ready = [item for item in seen.result.document["servers"] if item["is_ready"]]
    names = dict.fromkeys(name for item in ready for name in chats(item))
    through = [item["url"] for item in seen.result.document.get("gateways", ()) if item["is_ready"]]
    return page(request, "playground.html", names=[*names], model=model, through=through)


@looking.post("/ask", name="console_ask")
async def ask(here: Here, given: Fields) -> Response:
    """An answer as it is written: a line of JSON for each piece, then one with ``end`` or ``problem``."""
    return StreamingResponse(_answer(here, given.get("model", ""), given.get("question", "")), media_type="text/plain")


async def _answer(here: Service, model: str, question: str) -> AsyncIterator[str]:
    def verb(session: Session) -> Result:
        return verbs.ask(session, model, question, _LONGEST).checked()

    try:
        async for event in here.runs.talk(verb):
            for piece in _pieces(event) if event else ():
                yield json.dumps(piece) + "\n"
    except MagiError as error:
        yield json.dumps({"problem": str(error)}) + "\n"


def _pieces(event: Event | Result) -> list[dict[str, str]]:
    if isinstance(event, Result):
        return [{"end": " ".join(event.lines)}]
    printed = event.text.splitlines() if event.kind == "message" else []
    return [{kind: words} for kind, words in filter(None, map(answer_piece, printed))]


router = APIRouter(prefix="/console", include_in_schema=False)
"""All pages."""
for part in (open_to_all, looking, deployment.looking, deployment.changing, editor.looking, editor.changing):
    router.include_router(part)
