# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which models a profile selects on a host, and as which instances. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

from ansible_collections.magi.models.plugins.module_utils._config.profile import Entry, Profile
from ansible_collections.magi.models.plugins.module_utils._host.values import Running
from ansible_collections.magi.models.plugins.module_utils._models.model import Companion, FileVersion, Model, Rejected
from ansible_collections.magi.models.plugins.module_utils._models.naming import stem
from ansible_collections.magi.models.plugins.module_utils._models.quantization import quantization_in, tier_of
from ansible_collections.magi.models.plugins.module_utils._plan.values import AskedForError, PlanError, Share

Shares = Sequence[Optional[Mapping[str, Share]]]
"""For each entry of a profile, the share of a host by model id; None: the host decides by itself."""


@dataclass(frozen=True)
class Wanted:
    """One instance that the profile enables, before it has a port and threads; or a model of a pool."""

    name: str
    where: str
    model: Model
    """Of a pool: its first."""
    entry: Entry
    port: int | None
    share: Share | None = None
    """None: the fleet has no say."""
    members: tuple[Wanted, ...] = ()
    """Of a pool: its models, by their ids."""

    @property
    def each(self) -> tuple[Wanted, ...]:
        """Those that have one model: the members of a pool, or the instance itself."""
        return self.members or (self,)

    @property
    def at_once(self) -> int:
        """How many models it has in memory at the same time, at most."""
        return min(self.entry.loaded, len(self.each))


def select(
    profile: Profile,
    models: Sequence[Model],
    aside: Sequence[Rejected | Companion],
    host: str,
    instances: Iterable[Running] = (),
    shares: Shares = (),
) -> tuple[list[Wanted], list[str]]:
    """Return the instances that ``profile`` enables among ``models``, in its order, and a sentence for each entry
    that finds nothing. ``aside`` has the files that are not models, one of which an entry may mean; ``instances`` are
    on the host now, and an entry may mean what one of them was.

    A sentence also names each file that is set aside and that a tier or a glob would select if it were whole.
    Tiers and globs enable each model once, and leave alone those that an exact entry names; naming a model exactly
    twice, or with ``instances: 2``, makes two instances. What a pool has, a tier or a glob of an entry leaves alone,
    too. Of an entry with a share in ``shares``, the host has that, and nothing is missing there.
    """
    by_id = {model.id: model for model in models}
    here = [
        entry
        for index, entry in enumerate(profile.entries)
        if entry.kind != "pool" or not shares or shares[index] is None
    ]
    named = {item.pattern for entry in here for item in entry.each if item.kind == "model"}
    counts: dict[str, int] = {}
    wanted: list[Wanted] = []
    missing: list[str] = []
    told: set[str] = set()

    def found_by(entry: Entry, where: str, share: Mapping[str, Share] | None) -> list[Model]:
        if entry.kind == "model":
            found = [model for model in models if entry.matches(model.id, model.tier, model.task)]
        else:
            matching = [model for model in models if entry.matches(model.id, model.tier, model.task)]
            found = [model for model in matching if model.id not in named and model.id not in counts]
        if share is not None:
            found = [model for model in found if model.id in share]
        elif entry.kind != "model":
            broken = [item for item in aside if item.path not in told and _is_broken(item) and _means(entry, item)]
            told.update(item.path for item in broken)
            if matching:
                missing.extend(f"{where}: set aside on {host}: {item.reason}" for item in broken)
            if matching and not found:
                return []  # all enabled by another entry
        if not found and share is None:
            missing.append(f"{where}: {_why_missing(entry, by_id, aside, host, instances)}")
        return found

    pools: list[Wanted] = []
    for index, pool in enumerate(profile.entries):
        if pool.kind != "pool" or pool not in here:
            continue
        members: list[Wanted] = []
        for number, entry in enumerate(pool.members, 1):
            where = f"{profile.where(index)}, model {number} ({entry})"
            for model in found_by(entry, where, None):
                counts[model.id] = 1
                members.append(Wanted(model.id, where, model, entry, None))
        if members:
            pools.append(
                Wanted(pool.pattern, profile.where(index), members[0].model, pool, pool.port, None, tuple(members))
            )
    for index, entry in enumerate(profile.entries):
        if entry.kind == "pool":
            continue
        where = profile.where(index)
        share = shares[index] if shares else None
        for model in found_by(entry, where, share):
            mine = None if share is None else share[model.id]
            counts.setdefault(model.id, 0)
            for i in range(mine.count if mine else entry.instances):
                nth = counts[model.id] = counts[model.id] + 1
                name = model.id if nth == 1 else f"{model.id}-{nth}"
                wanted.append(Wanted(name, where, model, entry, entry.port if i == 0 else None, mine))
    return _unique([*wanted, *pools], {model.id for model in models}), missing


def _unique(wanted: list[Wanted], ids: set[str]) -> list[Wanted]:
    """Refuse two instances with one name: a second instance of ``x`` and a model whose id is ``x-2``, or a pool."""
    seen: set[str] = set()
    for item in wanted:
        if item.name in seen or (item.name in ids and (item.members or item.name != item.model.id)):
            remedy = "give the pool another name" if item.members else "rename that file"
            raise PlanError(f"{item.where}: the instance name {item.name} is also another model's id; {remedy}.")
        seen.add(item.name)
    return wanted


def check_aliases(host: str, wanted: Sequence[Wanted], models: Sequence[Model]) -> None:
    """Raise AskedForError for an alias that is also the name of another model or instance, or another's alias."""
    holder = {model.id: model.id for model in models}
    holder.update({item.name: item.name if item.members else item.model.id for item in wanted})
    for item in (part for each in wanted for part in each.each):
        for alias in item.entry.aliases:
            other = holder.setdefault(alias, item.model.id)
            if other != item.model.id:
                raise AskedForError(
                    f"Host {host}: {item.where}: alias {alias} of {item.model.id} is also a name of {other}; "
                    "give it to one of the two."
                )


def files_of(model: Model) -> list[FileVersion]:
    """Return what a server of ``model`` reads: its file or shards, and the projector beside them."""
    return [*model.files, *([model.mmproj] if model.mmproj else [])]


_NO_MODELS = frozenset(
    {
        *(
            "apple_double",
            "encoder_decoder",
            "foreign_format",
            "image_model",
            "imatrix",
            "no_architecture",
            "speech_model",
        ),
        *("put_aside", "superseded", "text_diffusion", "text_encoder", "unconverted", "unknown_architecture"),
        *("vision_model", "vocab_only"),
        *("link_loop", "not_regular", "too_deep"),
    }
)
"""Codes of files that are no models even when they are whole."""


def _is_broken(item: Rejected | Companion) -> bool:
    return isinstance(item, Rejected) and item.code not in _NO_MODELS


def _means(entry: Entry, item: Rejected | Companion) -> bool:
    """Whether ``entry`` would select the file if it were a model. Its name alone tells the tier."""
    if entry.kind == "model":  # a broken file may lack the quantization that its id had
        return entry.pattern == item.id or entry.pattern.startswith(f"{item.id}-")
    return entry.matches(item.id, tier_of(_told(item)), None)


def _told(item: Rejected | Companion) -> str:
    """Return the quantization that the name of a file tells, or an empty string."""
    return quantization_in(stem(item.path)) or ""


def meant(entry: Entry, item: Running) -> bool:
    """Whether ``entry`` would select what an instance was when it started."""
    model, tier, task = (item.environment.get(f"MAGI_{name}", "") for name in ("MODEL_ID", "TIER", "TASK"))
    return entry.matches(model, tier, task or None)


def new_tier(item: Running, models: Sequence[Model]) -> str:
    """Return which tier an instance's model is now and was at its start, in words; empty if it is the same or gone."""
    path, model, was = (item.environment.get(name) for name in ("LLAMA_ARG_MODEL", "MAGI_MODEL_ID", "MAGI_TIER"))
    now = [x.tier for x in models if path in (x.path, *x.duplicates)] + [x.tier for x in models if x.id == model]
    return f"{now[0]} now, and was {was}" if was and now and now[0] != was else ""


def _why_missing(
    entry: Entry,
    models: Mapping[str, Model],
    aside: Sequence[Rejected | Companion],
    host: str,
    instances: Iterable[Running],
) -> str:
    untold = entry.kind == "tier"  # a broken file whose name tells no tier may be of any
    set_aside = [item for item in aside if _means(entry, item) or (untold and _is_broken(item) and not _told(item))]
    changed = {item.name: new_tier(item, list(models.values())) for item in instances if meant(entry, item)}
    also = [f"{name} is {tiers}." for name, tiers in changed.items() if tiers]
    if entry.kind == "model":
        if entry.pattern in models:
            return f"it is for {models[entry.pattern].task} on {host}; correct the task of the entry, or leave it out."
        if set_aside:
            return f"set aside on {host}: {max(set_aside, key=lambda item: len(item.id)).reason}"  # of the nearest name
        near = difflib.get_close_matches(entry.pattern, models, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        return " ".join([f"no such model on {host}; {hint}playbooks/discover.yml lists those that are.", *also])
    none = " ".join([f"matches no model on {host}.", *also])
    return " Set aside: ".join([none, *(item.reason for item in set_aside[:3])])
