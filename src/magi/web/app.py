"""The application that magi serve runs: the router, and sentences also for what is not there."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException

from magi import __version__
from magi.web.api import router
from magi.web.console.render import path
from magi.web.console.routing import problem_page
from magi.web.routing import problem
from magi.web.service import Service


def application(service: Service) -> FastAPI:
    """Return the application. Pages of documentation would need a network, so there are none: the OpenAPI document is
    enough for a client."""
    app = FastAPI(
        title="magi",
        version=__version__,
        description="The verbs of magi over HTTP (docs/serve.md).",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.state.magi = service
    app.include_router(router)

    @app.get("/", include_in_schema=False)
    async def first_page(request: Request) -> Response:
        return RedirectResponse(path(request, "fleet"))

    @app.exception_handler(HTTPException)
    async def not_there(request: Request, error: HTTPException) -> Response:
        ours = request.url.path.startswith(path(request, "fleet"))
        return problem_page(request, error) if ours else problem(error)

    return app
