# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The models of a pool, as a variable of its process: what runs tells which names it answers to. Pure."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._plan.values import Instance

_SLOTS = "LLAMA_ARG_N_PARALLEL"


def pool_text(members: Iterable[Instance]) -> str:
    """Return the models of a pool as a variable of its process has them."""
    return json.dumps(
        [
            {
                "model": item.model_id,
                "tier": item.tier,
                "task": item.task,
                "aliases": list(item.aliases),
                "slots": item.environment.get(_SLOTS, ""),
            }
            for item in members
        ]
    )


def pool_members(pool: Instance) -> tuple[Instance, ...]:
    """Return the models of a running ``pool``, as far as its environment tells; () for an instance that is none."""
    shared = {name: value for name, value in pool.environment.items() if name in ("MAGI_API_KEY_FILE", "MAGI_GPU")}
    return tuple(
        replace(
            pool,
            name=item["model"],
            model_id=item["model"],
            display_name=item["model"],
            tier=item["tier"],
            task=item["task"],
            aliases=tuple(item["aliases"]),
            environment={**shared, **({_SLOTS: item["slots"]} if item["slots"] else {})},
        )
        for item in models_of(pool.environment)
    )


def names_of(model: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of one of ``models_of``: clients may ask for any of them."""
    return (model["model"], *model["aliases"])


def models_of(environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return what ``pool_text`` was made of, by the environment of a process, which may have changed that; [] where it
    is no pool's."""
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        return [
            {
                **{name: str(item[name]) for name in ("model", "tier", "task", "slots")},
                "aliases": [str(alias) for alias in item["aliases"]],
            }
            for item in json.loads(environment.get("MAGI_POOL", "[]"))
        ]
    return []
