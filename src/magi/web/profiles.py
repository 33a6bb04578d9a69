"""Profiles over HTTP: read, checked, previewed, and saved over the version that was read."""

from __future__ import annotations

import asyncio
import json
import tempfile
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response

from magi import verbs
from magi.profiles import edit
from magi.profiles import verbs as profile_verbs
from magi.result import Result
from magi.session import Session
from magi.web import shapes
from magi.web.problems import Problem
from magi.web.routing import Deploying, Here, Viewing, as_json, client
from magi.web.service import Service

looking = APIRouter(route_class=Viewing, tags=["profiles"])
changing = APIRouter(route_class=Deploying, tags=["profiles"])


# Not async: files are read and written in a thread.
@looking.get("/api/v1/profiles", response_model=list[shapes.ProfileEntry])
def profiles(here: Here) -> Response:
    """List the profiles, broken ones included."""
    names = ("name", "description", "valid")
    found = profile_verbs.list_(here.bench).document["profiles"]
    return as_json([{name: item[name] for name in names} for item in found])


@looking.get("/api/v1/profiles/{name}", response_model=shapes.Profile)
def profile(here: Here, name: shapes.Name) -> Response:
    """Return a profile as text, its version, and what is wrong with it."""
    try:
        return as_json(_shown(here, edit.read(here.profiles, name)))
    except edit.NoProfileError as error:
        raise Problem(HTTPStatus.NOT_FOUND, str(error)) from None


@looking.post("/api/v1/profiles/{name}/validate", response_model=shapes.Checked)
def validate(here: Here, name: shapes.Name, body: shapes.Draft) -> Response:
    """Say what is wrong with a text as this profile, with lines; nothing is saved, and no host is asked."""
    return as_json(remarks(here, name, body.text))


@looking.post("/api/v1/profiles/{name}/preview", response_model=shapes.Preview)
async def preview(here: Here, name: shapes.Name, body: shapes.Draft) -> Response:
    """Say what a deployment of a text as this profile would do; nothing is saved. Waits for the hosts."""
    result = await previewed(here, name, body.text)
    found = {"exit_code": int(result.exit_code), "problem": result.problem or None, "document": result.document}
    return as_json(found)


@changing.put("/api/v1/profiles/{name}", response_model=shapes.Profile)
def save_profile(request: Request, here: Here, name: shapes.Name, body: shapes.Saved) -> Response:
    """Save a profile over the version that was read. 409: it changed since; the answer has what is there now."""
    return as_json(_shown(here, saved(request, here, name, body)))


async def previewed(here: Service, name: str, text: str) -> Result:
    """Return the plan of a text as a profile, which is not saved. Raises Problem for mistakes in it, and MagiError."""
    await asyncio.to_thread(_refuse_mistakes, here, name, text)

    def plan(session: Session) -> Result:
        with tempfile.TemporaryDirectory(prefix="magi-profile-") as folder:
            edit.written(Path(folder), name, text)
            given = (*session.options.extra_vars, json.dumps({"model_server_profiles_dir": folder}))
            return verbs.plan(replace(session, profile=name, options=replace(session.options, extra_vars=given)))

    return await here.runs.preview(plan)


def saved(request: Request, here: Service, name: str, body: shapes.Saved) -> edit.Text:
    """Save a profile over the version that was read, and return it. Raises Problem for mistakes in it, and if it has
    changed since; MagiError."""
    _refuse_mistakes(here, name, body.text)
    here.audit.write(request.state.role, client(request), "profile save", profile=name, over=body.version)
    try:
        return edit.save(here.profiles, name, body.text, body.version)
    except edit.ChangedError as error:
        there = {"text": error.now.text, "version": error.now.version} if error.now else {"text": None, "version": None}
        raise Problem(HTTPStatus.CONFLICT, str(error), **there, difference=error.difference) from None


def remarks(here: Service, name: str, text: str) -> dict[str, Any]:
    """Return whether a text is a valid profile, and all that is wrong with it. Raises ProfileError for its name."""
    found = edit.checked(name, text, here.bench.hosts.values())
    problems = [{"line": item.line, "message": item.message} for item in found.remarks]
    return {"valid": found.profile is not None, "problems": problems}


def _refuse_mistakes(here: Service, name: str, text: str) -> None:
    checked = remarks(here, name, text)
    if not checked["valid"]:
        first = checked["problems"][0]
        where = f", line {first['line']}" if first["line"] else ""
        sentence = f"Profile {name}{where}: {first['message']}"
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, sentence, problems=checked["problems"])


def _shown(here: Service, text: edit.Text) -> dict[str, Any]:
    return {"name": text.name, "text": text.text, "version": text.version, **remarks(here, text.name, text.text)}
