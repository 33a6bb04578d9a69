# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What happens to instances that exist and are not desired: most stop; some run on, because only their file is missing.
Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind, State
from ansible_collections.magi.models.plugins.module_utils._config.profile import Entry, Profile
from ansible_collections.magi.models.plugins.module_utils._host.values import Running
from ansible_collections.magi.models.plugins.module_utils._models.found import within
from ansible_collections.magi.models.plugins.module_utils._models.model import Inventory, Model
from ansible_collections.magi.models.plugins.module_utils._plan.pool import models_of, pool_members
from ansible_collections.magi.models.plugins.module_utils._plan.select import Shares, meant, new_tier
from ansible_collections.magi.models.plugins.module_utils._plan.values import (
    STANDS_IN,
    Action,
    Instance,
    Settings,
    Share,
)


def leave(
    running: Iterable[Running],
    profile: Profile,
    inventory: Inventory,
    scan_paths: Sequence[str],
    refused: Mapping[str, str],
    settings: Settings,
    shares: Shares = (),
) -> dict[str, Action]:
    """Return by name what to do with each of ``running``; none of them is desired.

    A server has its file open: while it runs, it needs neither its name nor its disk. So one that the profile would
    enable if its file were there and whole is kept unless settings.missing is stop; and so is one of ``refused``, which
    says why it can't be what the profile wants. A file in none of ``scan_paths`` is not missing: nobody asks for its
    folder any more. One that another service manager runs can't be kept, since that one goes. ``shares`` are those of
    build_plan.
    """
    actions = {}
    here = shares or [None] * len(profile.entries)
    entries = [*zip(profile.entries, here)]
    for item in running:
        reason = refused.get(item.name) or _gone(item, entries, inventory, scan_paths)
        if not reason:
            actions[item.name] = Action(item.name, ActionKind.STOP, _not_enabled(item, profile, inventory, scan_paths))
        elif item.manager:
            gone = f"{item.manager} is not the service manager any more, and {reason}"
            actions[item.name] = Action(item.name, ActionKind.STOP, gone)
        elif _runs(item) and settings.missing == "keep":
            actions[item.name] = Action(item.name, ActionKind.KEEP, reason)
        else:
            actions[item.name] = Action(item.name, ActionKind.STOP, reason)
    return actions


def _gone(
    item: Running,
    entries: Sequence[tuple[Entry, Mapping[str, Share] | None]],
    inventory: Inventory,
    scan_paths: Sequence[str],
) -> str:
    """Return why the model of an instance is missing, though the profile enables it; or an empty string."""
    if models_of(item.environment):
        enabled = any(entry.kind == "pool" and entry.pattern == item.name and share is None for entry, share in entries)
        return "the files of its models are gone or set aside" if enabled else ""
    path = item.environment.get("LLAMA_ARG_MODEL", "")
    there = any(path in (model.path, *model.duplicates) for model in inventory.models)
    if (
        there
        or not any(within(path, top) for top in scan_paths)
        or not any(
            meant(entry, item) and (share is None or item.environment.get("MAGI_MODEL_ID") in share)
            for entry, share in entries
        )
    ):
        return ""
    return _missing("file", path, inventory)


def _missing(what: str, path: str, inventory: Inventory) -> str:
    aside = next((rejected.reason for rejected in inventory.rejected if rejected.path == path), "")
    return f"its {what} is set aside: {aside.rstrip('.')}" if aside else f"its {what} {path} is gone"


def _runs(item: Running) -> bool:
    return item.pid is not None and item.state in (State.RUNNING, State.STARTING)


def lacks_projector(
    model: Model,
    options: Mapping[str, Any],
    now: Running | None,
    inventory: Inventory,
    scan_paths: Sequence[str],
    settings: Settings,
) -> str:
    """Return why a running instance of ``model`` must be left as it runs, or an empty string: the projector that it was
    started with is gone or set aside, and it would start again without. ``options`` are those of its profile and host.
    """
    if now is None or now.manager or not _runs(now) or settings.missing != "keep":
        return ""
    path = now.environment.get("LLAMA_ARG_MMPROJ", "")
    if (
        not path
        or not any(within(path, top) for top in scan_paths)
        or model.mmproj
        or {"mmproj", "mmproj_auto"} & options.keys()
        or any(companion.path == path for companion in inventory.companions)
    ):
        return ""
    return _missing("projector", path, inventory)


def _not_enabled(item: Running, profile: Profile, inventory: Inventory, scan_paths: Sequence[str]) -> str:
    if STANDS_IN in item.environment:
        return f"stood in for {item.environment[STANDS_IN]} in a deployment that did not end"
    if item.server:
        return f"{item.server} does not use it any more"
    path = item.environment.get("LLAMA_ARG_MODEL", "")
    if path and not any(within(path, top) for top in scan_paths):
        return f"its file {path} lies in no folder that is scanned"
    model = next((model for model in inventory.models if path in (model.path, *model.duplicates)), None)
    if (
        model
        and model.id != item.environment.get("MAGI_MODEL_ID")
        and any(entry.matches(model.id, model.tier, model.task) for entry in profile.entries)
    ):
        return f"its model is called {model.id} now"  # another file of its name came or went
    changed = new_tier(item, inventory.models)
    return f"not enabled by profile {profile.name}" + (f" (its file is {changed})" if changed else "")


def kept_instance(item: Running) -> Instance:
    """Return an instance that runs on as it is, as far as its process tells."""
    environment = item.environment
    address, port = environment.get("LLAMA_ARG_HOST", ""), item.port or 0
    found = Instance(
        name=item.name,
        model_id=environment.get("MAGI_MODEL_ID", item.name),
        display_name=environment.get("MAGI_DISPLAY_NAME", item.name),
        tier=environment.get("MAGI_TIER", ""),
        task=environment.get("MAGI_TASK", ""),
        model_path=environment.get("LLAMA_ARG_MODEL", ""),
        address=address,
        port=port,
        options={},
        environment=environment,
        aliases=tuple(environment.get("LLAMA_ARG_ALIAS", "").split(",")[1:]),
        config_hash=item.config_hash or "",
    )
    return replace(found, members=pool_members(found))
