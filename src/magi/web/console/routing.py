"""Who may see pages, and how they say what is wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, Request, Response
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException

from magi.errors import MagiError
from magi.web import service
from magi.web.console.render import page, path
from magi.web.guard import Role
from magi.web.problems import Problem
from magi.web.routing import HEADERS, Guarded, problem, refuse_strangers
from magi.web.service import Service

LASTS = 12 * 3600
"""Seconds until somebody has to sign in again."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {**HEADERS, "Content-Security-Policy": _POLICY, "Referrer-Policy": "same-origin"}


class _SignInError(MagiError):
    """Nobody is signed in."""


def problem_page(request: Request, error: Exception) -> Response:
    """Return what is wrong as a page, or as a part of one."""
    answer = problem(error)
    sentence, status = json.loads(bytes(answer.body))["detail"], answer.status_code
    if isinstance(error, HTTPException) and status in (404, 405):
        sentence = "There is no such page: go on from the first one."
    template = "_problem.html" if "hx-request" in request.headers else "problem.html"
    return page(request, template, status, _HEADERS, sentence=sentence, title=HTTPStatus(status).phrase)


class Open(Guarded):
    """A page for everybody who asks from our own pages, or from none."""

    headers = _HEADERS

    def admitted(self, request: Request) -> Role | None:
        refuse_strangers(request)
        return None

    def refused(self, request: Request, error: Exception) -> Response:
        return problem_page(request, error)


class Page(Open):
    """A page for those who have signed in."""

    def admitted(self, request: Request) -> Role | None:
        refuse_strangers(request)
        here = service.of(request.app.state)
        role = here.tokens.role_of_session(request.cookies.get(_cookie(here), ""), time.time())
        if role is None:
            raise _SignInError("Sign in first.")
        return self.sufficient(role)

    def refused(self, request: Request, error: Exception) -> Response:
        if not isinstance(error, _SignInError):
            return super().refused(request, error)
        if "hx-request" in request.headers:
            return Response(status_code=401, headers={"HX-Redirect": path(request, "login")})
        if request.method != "GET":  # on the way to another page, what somebody wrote would be lost
            again = "sign in in another window, and reload this page, which sends again what you sent."
            return problem_page(request, Problem(HTTPStatus.UNAUTHORIZED, f"Nothing was done: {again}"))
        wanted = str(request.url.replace(scheme="", netloc=""))
        return RedirectResponse(path(request, "login", to=wanted), 303)


class Change(Page):
    """What only those may ask for who may deploy."""

    needed = Role.DEPLOY


def signed_in(request: Request, here: Service, token: str) -> Response:
    """Return the answer that signs a browser in, and leads to the page that it asked for first."""
    home, until = path(request, "fleet"), int(time.time()) + LASTS
    wanted = request.query_params.get("to", "")
    ours = wanted.startswith(home) and not {"\\", "\r", "\n"} & {*wanted} and "//" not in wanted
    answer = RedirectResponse(wanted if ours else home, 303)
    # A proxy may speak TLS for us: the browser's own word for that is Origin.
    secure = request.url.scheme == "https" or request.headers.get("origin", "").startswith("https:")
    value = here.tokens.session(token, until)
    answer.set_cookie(_cookie(here), value, LASTS, path=home, secure=secure, httponly=True, samesite="strict")
    return answer


def signed_out(request: Request, here: Service) -> Response:
    answer = RedirectResponse(path(request, "login"), 303)
    answer.delete_cookie(_cookie(here), path=path(request, "fleet"), httponly=True, samesite="strict")
    return answer


def _cookie(here: Service) -> str:
    """Return the name of the cookie: ports of one machine share their cookies, and each may have a service."""
    return f"magi-{here.folder.name[-8:]}"


async def _fields(request: Request) -> Mapping[str, str]:
    body = await request.body()
    try:
        found = dict(parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=100))
    except ValueError:
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, "The form can't be read") from None
    return {name: value.replace("\r\n", "\n") for name, value in found.items()}


Fields = Annotated[Mapping[str, str], Depends(_fields)]
"""A parameter of an endpoint: what a form sent."""
