"""How every request is answered: who asks is checked before anything is read, and each error is a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from magi.errors import MagiError
from magi.state.defect import defect
from magi.web import service
from magi.web.guard import Role, bearer, stranger
from magi.web.problems import Problem, answer, response, wrong_request
from magi.web.service import Service


def _service(request: Request) -> Service:
    return service.of(request.app.state)


Here = Annotated[Service, Depends(_service)]
"""A parameter of an endpoint: the service of its application."""
LARGEST = 1 << 20
"""Bytes of a request's body."""


HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""Of all answers: they are of this moment and for one client."""


class Guarded(APIRoute):
    """A route that answers those alone who may ask."""

    needed: Role = Role.VIEW
    headers: Mapping[str, str] = HEADERS

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                request.state.role = self.admitted(request)
                given = await handler(Request(request.scope, _limited(request.receive)))
            except Exception as error:
                given = self.refused(request, error)
            given.headers.update({**self.headers, **given.headers})
            return given

        return handle

    def admitted(self, request: Request) -> Role | None:
        """Return the role of who asks. Raises Problem for those who may not."""
        refuse_strangers(request)
        token = bearer(request.headers)
        role = service.of(request.app.state).tokens.role(token) if token else None
        if role is None:
            what = "This token is none of ours" if token else "A token is missing"
            sentence = f"{what}: send one of magi serve's file of tokens as Authorization: Bearer TOKEN."
            raise Problem(HTTPStatus.UNAUTHORIZED, sentence, {"WWW-Authenticate": 'Bearer realm="magi"'})
        return self.sufficient(role)

    def sufficient(self, role: Role) -> Role:
        """Return the role if it is enough for this route. Raises Problem."""
        if not role.includes(self.needed):
            raise Problem(HTTPStatus.FORBIDDEN, f"This token may only look: ask with one of the role {self.needed}.")
        return role

    def refused(self, request: Request, error: Exception) -> Response:
        """Return what is wrong as an answer."""
        return problem(error)


def _limited(receive: Receive) -> Receive:
    """Return how to receive a request whose body is not too large, whatever its headers say."""
    taken = 0

    async def some() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > LARGEST:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return message

    return some


class Viewing(Guarded):
    """A route for all who have a token."""


class Deploying(Guarded):
    """A route that changes something."""

    needed = Role.DEPLOY


def refuse_strangers(request: Request) -> None:
    """Raise Problem for what asks from a page of another site, or by a name that is not ours."""
    if strange := stranger(request.headers, service.of(request.app.state).allowed_hosts):
        raise Problem(HTTPStatus.FORBIDDEN, strange)


def client(request: Request) -> str:
    """Return the address of who asks."""
    return request.client.host if request.client else ""


def as_json(document: Any, status_code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a document as JSON in ASCII: names of files on hosts need not be UTF-8."""
    return Response(json.dumps(document, default=str), status_code, headers, "application/json")


def problem(error: Exception) -> Response:
    """Return what is wrong as an answer."""
    if isinstance(error, MagiError):
        return answer(error)
    if isinstance(error, RequestValidationError):
        return response(HTTPStatus.UNPROCESSABLE_ENTITY, wrong_request(error.errors()))
    if isinstance(error, HTTPException):
        status = HTTPStatus(error.status_code)
        return response(status, _SENTENCES.get(status, f"{error.detail}."), headers=error.headers)
    return response(HTTPStatus.INTERNAL_SERVER_ERROR, defect(error))


_SENTENCES = {
    HTTPStatus.NOT_FOUND: "There is nothing here: openapi.json lists what there is.",
    HTTPStatus.METHOD_NOT_ALLOWED: "This can't be asked for with that method: openapi.json lists those that can.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: f"The request is too long: send {LARGEST} bytes at most.",
}
