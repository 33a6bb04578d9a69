"""The editor of profiles: what is wrong is shown at its line, and nothing that somebody wrote is lost."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from magi.errors import MagiError, ProfileError
from magi.profiles import draft, edit
from magi.profiles import verbs as profile_verbs
from magi.web import profiles, shapes
from magi.web.console.deployment import plan_part
from magi.web.console.render import page, path
from magi.web.console.routing import Change, Fields, Page
from magi.web.problems import Problem
from magi.web.routing import Here
from magi.web.service import Service

looking = APIRouter(route_class=Page)
changing = APIRouter(route_class=Change)

KEYS = {
    "name": "the file's name, without .yml",
    "description": "one line for people",
    "enabled_models": "what runs: a list of tiers, tasks, globs over ids, or ids",
    "pools": "models that take turns in memory, with the keys below, options and the like",
    "options": "llama-server's own options, such as {ctx_size: 8192}; of all instances, or of an entry",
    "environment": "variables of the processes; of all, or of an entry",
    "resources": "memory_max, cpu_quota and nice; of all, or of an entry",
    "strict": "true: a deployment fails where anything is missing",
    "rollout": "{canary: 1, bake: 60}: so many hosts first, watched for so many seconds",
}
"""The keys of a profile."""
ENTRY_KEYS = {
    "model": "an id, with settings of its own",
    "tier": "every model of a tier, such as Q4",
    "task": "chat, embedding or rerank",
    "instances": "how many of it, on each host",
    "replicas": "how many of it, on all hosts together",
    "hosts": "a pattern for the hosts that it is for, such as gpu*",
    "rpc": "hosts that compute it together with that which serves it, such as [gpu2, gpu3]",
    "port": "the port of the first of them",
    "aliases": "more names by which clients may ask for it",
    "idle": "after that time without a request, such as 10m, it frees its memory until the next",
    "devices": "its GPUs, such as [CUDA0], or how many",
}
"""More keys, of an entry."""
POOL_KEYS = {
    "models": "what it has: a list as enabled_models, with model, tier, task, aliases and options alone",
    "loaded": "how many of them are in memory at the same time, at most",
}
"""More keys, of a pool."""


@looking.get("/profiles", name="console_profiles")
def list_of_profiles(request: Request, here: Here) -> Response:
    return page(request, "profiles.html", profiles=profile_verbs.list_(here.bench).document["profiles"])


@looking.get("/profile", name="console_profile")
def profile(request: Request, here: Here, name: shapes.Name, saved: bool = False) -> Response:
    """The editor, with a profile, or with the draft of a new one."""
    try:
        found = edit.read(here.profiles, name)
        return _editor(request, here, name, found.text, found.version, said="It is saved." if saved else "")
    except edit.NoProfileError:
        return _editor(request, here, name, _draft(here, name), None, said="It is new: nothing is saved yet.")


def _draft(here: Service, name: str) -> str:
    try:
        return draft.draft(name, tuple(here.bench.hosts.values()))
    except ProfileError:  # no model is known yet
        return f"name: {name}\ndescription: \nenabled_models:\n  - tier: Q4\n"


@looking.post("/profile/check", name="console_check")
def check(request: Request, here: Here, given: Fields, name: shapes.Name) -> Response:
    """What is wrong with a text; if nothing is, the preview hears of it."""
    found = profiles.remarks(here, name, given.get("text", ""))
    return page(request, "_problems.html", headers={"HX-Trigger": "valid"} if found["valid"] else None, **found)


@looking.post("/profile/preview", name="console_preview")
async def preview(request: Request, here: Here, given: Fields, name: shapes.Name) -> Response:
    """What a deployment of a text would do; nothing is saved."""
    return plan_part(request, await profiles.previewed(here, name, given.get("text", "")), name, None)


@changing.post("/profile", name="console_save")
def save(request: Request, here: Here, given: Fields, name: shapes.Name) -> Response:
    """Save a text over the version that was read. Whatever speaks against that, the page still has the text."""
    text, version = given.get("text", ""), given.get("version") or None
    if len(text) > shapes.LONGEST:
        long, status = f"Nothing is saved: the text is too long; {shapes.LONGEST} characters fit.", 413
        return _editor(request, here, name, text, version, problem=long, status=status)
    try:
        profiles.saved(request, here, name, shapes.Saved(text=text, version=version))
    except Problem as error:
        there = error.more.get("version", version)  # who saves again has seen the difference
        more = {"difference": error.more.get("difference", ""), "status": error.status}
        return _editor(request, here, name, text, there, problem=f"Nothing is saved. {error}", **more)
    except MagiError as error:
        status = HTTPStatus.BAD_GATEWAY
        return _editor(request, here, name, text, version, problem=f"Nothing is saved. {error}", status=status)
    return RedirectResponse(path(request, "profile", name=name, saved=1), 303)


def _editor(
    request: Request,
    here: Service,
    name: str,
    text: str,
    version: str | None,
    *,
    said: str = "",
    problem: str = "",
    difference: str = "",
    status: int = 200,
) -> Response:
    given: dict[str, Any] = {"said": said, "problem": problem, "difference": difference.splitlines()}
    checked = profiles.remarks(here, name, text)
    given.update(checked, keys=KEYS, entry_keys=ENTRY_KEYS, pool_keys=POOL_KEYS, **_known(here))
    return page(request, "profile.html", status, name=name, text=text, version=version, **given)


def _known(here: Service) -> Mapping[str, Any]:
    """Return what may be written in a profile for the hosts that were seen."""
    hosts = here.bench.hosts.values()
    models = {
        str(model["id"]): ", ".join(filter(None, (model.get("tier"), model.get("task"))))
        for host in hosts
        for model in host.models
    }
    options = {option.name for host in hosts if host.binary for option in host.binary.options}
    return {"models": dict(sorted(models.items())), "options": sorted(options)}
