"""Errors as application/problem+json (RFC 9457): one sentence in ``detail``, and what was still found. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import Response

from magi.errors import HostUnreachable, Interrupted, MagiError, UsageError

MEDIA_TYPE = "application/problem+json"


class Problem(MagiError):
    """An error with a status of HTTP; ``more`` are further members of the answer, ``headers`` go with it."""

    def __init__(self, status: HTTPStatus, message: str, headers: Mapping[str, str] | None = None, **more: Any):
        super().__init__(message)
        self.status, self.headers, self.more = status, dict(headers or {}), more


def answer(error: MagiError) -> Response:
    """Return an error of any verb as an answer."""
    if isinstance(error, Problem):
        return response(error.status, str(error), error.more, error.headers)
    more = {"exit_code": int(error.exit_code), **({"document": error.document} if error.document else {})}
    return response(status_of(error), str(error), more)


def status_of(error: MagiError) -> HTTPStatus:
    """Return the status of HTTP for an error of a verb."""
    if isinstance(error, UsageError):
        return HTTPStatus.UNPROCESSABLE_ENTITY
    if isinstance(error, HostUnreachable):
        return HTTPStatus.GATEWAY_TIMEOUT
    return HTTPStatus.SERVICE_UNAVAILABLE if isinstance(error, Interrupted) else HTTPStatus.BAD_GATEWAY


def wrong_request(errors: Sequence[Mapping[str, Any]]) -> str:
    """Return what pydantic found wrong with a request as a sentence, without the values, which may be secret."""
    parts = []
    for item in errors:
        where = ".".join(str(part) for part in item["loc"][1:]) or str(item["loc"][0])
        parts.append(f"{where}: {str(item['msg']).rstrip('.')}")
    return f"The request is wrong: {'; '.join(dict.fromkeys(parts))}."


def response(
    status: HTTPStatus, detail: str, more: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    body = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail, **(more or {})}
    return Response(json.dumps(body, default=str), status, headers, MEDIA_TYPE)
