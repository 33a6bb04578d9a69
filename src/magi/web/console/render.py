"""Pages from templates: all that comes from hosts, models, profiles and logs is escaped there, without exception."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader

from magi.domain import State, bytes_shown
from magi.web.console.fleet import chats
from magi.web.guard import Role

_HERE = Path(__file__).parent
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
STATIC = {
    path.name: (path.read_bytes(), _TYPES[path.suffix])
    for path in sorted((_HERE / "static").iterdir())
    if path.suffix in _TYPES
}
"""Content and type of each file that pages need."""
_DIGESTS = {name: hashlib.sha256(content).hexdigest()[:12] for name, (content, _type) in STATIC.items()}
_HTMX = json.dumps(
    {
        # Nothing of it may need more than the Content-Security-Policy allows, and nothing is kept in the browser.
        **dict.fromkeys(("allowEval", "allowScriptTags", "includeIndicatorStyles", "scrollIntoViewOnBoost"), False),
        "historyCacheSize": 0,
        "selfRequestsOnly": True,
        "responseHandling": [{"code": "204", "swap": False}, {"code": "...", "swap": True}],
    }
)


def _clock(seconds: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds)) if seconds else ""


def _age(seconds: float) -> str:
    """Return an age as console.js shows it."""
    if seconds < 120:
        return f"{int(seconds)} s"
    return f"{int(seconds / 60)} min" if seconds < 7200 else f"{int(seconds / 3600)} h"


_TEMPLATES = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters.update(clock=_clock, age=_age, bytes=bytes_shown, chats=chats)
_TEMPLATES.globals.update(htmx=_HTMX, State=State)


def path(request: Request, name: str, /, **query: Any) -> str:
    """Return the path of a page as a browser asks for it, below whatever a proxy or an application puts before it.
    Names go into its query: none can lead elsewhere."""
    given = {key: value for key, value in query.items() if value is not None}
    found = str(request.url_for(f"console_{name}").path)
    return f"{found}?{urlencode(given, errors='replace')}" if given else found


def rendered(request: Request, template: str, **values: Any) -> str:
    """Return a part of a page."""

    def path_to(name: str, /, **query: Any) -> str:
        return path(request, name, **query)

    def asset(name: str) -> str:
        return f"{request.url_for('console_static', name=name).path}?v={_DIGESTS[name]}"

    role = getattr(request.state, "role", None)
    ours = {"path": path_to, "asset": asset, "role": role, "may_change": role is Role.DEPLOY}
    return _TEMPLATES.get_template(template).render(**ours, **values)


def page(
    request: Request, template: str, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any
) -> HTMLResponse:
    """Return a page, or a part of one, as an answer. Names of files on hosts need not be UTF-8."""
    text = rendered(request, template, **values)
    return HTMLResponse(text.encode("utf-8", "replace"), status, headers)
