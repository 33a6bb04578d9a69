"""Whether one more server of a model fits on each host, by the last look at it, and with which context. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from magi.domain import (
    AskedForError,
    Entry,
    Host,
    Inventory,
    Model,
    PlanError,
    PlanSettings,
    Profile,
    Told,
    alone,
    beside,
    build_plan,
    bytes_shown,
    context_of,
    device_name,
    largest_context,
    need_line,
    prompt_share,
    prompt_shares,
    slots_of,
    text_table,
)
from magi.errors import ExitCode, UsageError
from magi.result import Result
from magi.state.catalog import Known

LONGEST = 131072
"""The longest context that is tried, in tokens, where the model does not tell its own."""


@dataclass(frozen=True)
class Fit:
    """What the last look at a host says of one more server there. Sizes in bytes by device, ``Host`` is its memory."""

    host: str
    seen_at: float
    """When it was looked at, in seconds since the epoch by its own clock."""
    context: int
    """Tokens, of all slots together."""
    slots: int
    fits: bool
    """Beside all that ran there then."""
    fits_alone: bool
    """If nothing of ours ran there."""
    need: Mapping[str, int]
    spare: Mapping[str, int]
    """What is left beside all that ran; negative: so much is missing."""
    largest_context: int
    """Tokens; 0: none fits."""
    largest_context_alone: int
    estimated: bool
    """The need comes from the model's header; else from the host's llama-fit-params. The largest contexts always do."""
    said: str
    """The need for people."""


@dataclass(frozen=True)
class _Trial:
    """One server of a model on a host."""

    known: Known
    host: Host
    model: Model
    options: Mapping[str, Any]
    shared: Mapping[str, Any]
    """Options that the entry, and the host, replace."""

    def plan(self, context: int | None = None) -> Any:
        """Return the plan, with this context if one is given. Raises PlanError."""
        longer = {} if context is None else {"ctx_size": context}
        entry = Entry("model", self.model.id, options={**self.options, **longer})
        settings = PlanSettings(
            (8080, 8099), options=self.known.options, environment=self.known.environment, memory="warn"
        )
        return build_plan(
            host_name=self.known.name,
            profile=Profile("fit", "", (entry,), self.shared),
            inventory=Inventory((self.model,), companions=_companions(self.known)),
            host=self.host,
            settings=settings,
            scan_paths=(),
            needs={key: Told.of(plain) for key, plain in self.known.needs.items()},
        )

    def spare(self, context: int | None = None) -> dict[str, int]:
        """Return what is left of each device that the server uses."""
        plan = self.plan(context)
        need = plan.instances[0].need
        return {x.device: x.room - need.total(x.device) for x in plan.memory if x.device in need.own}

    def largest(self, top: int, fitting: int) -> int:
        """Return the largest context up to ``top`` tokens; ``fitting`` is known to be one, or 0."""
        return max(largest_context(top + 1, lambda tokens: min(self.spare(tokens).values()) >= 0), fitting)


def _companions(known: Known) -> Any:
    return Inventory.from_dict({"models": (), "rejected": (), "companions": known.companions}).companions


def fit_on(known: Known, model: Model, options: Mapping[str, Any]) -> Fit:
    """Return whether one more server of ``model`` fits on a host. Raises PlanError where the last look does not tell,
    and AskedForError for an option that its llama-server does not take."""
    if known.host is None or known.binary is None:
        raise PlanError(f"{known.name}: nobody has looked at its memory yet; run magi plan.")
    host = replace(Host.from_dict(known.host), binary=known.binary)
    if host.available_bytes is None:
        raise PlanError(f"{known.name}: its free memory is not known, as it is no Linux.")
    sharing = sum(prompt_shares(item.environment) for item in host.instances if item.pid)
    keeps = any("cache_ram" in option.names for option in known.binary.options)
    shared = {"cache_ram": prompt_share(host.memory_bytes, sharing + 1)} if keeps else {}
    now = _Trial(known, beside(host), model, options, shared)
    without = _Trial(known, alone(host), model, options, {})
    (instance,) = now.plan().instances
    spare = now.spare()
    fits, fits_alone = min(spare.values()) >= 0, min(without.spare().values()) >= 0
    context = context_of(model, instance.options)
    top = model.context_length or LONGEST
    return Fit(
        known.name,
        host.looked_at,
        context,
        slots_of(instance.options),
        fits,
        fits_alone,
        {device: instance.need.total(device) for device in instance.need.own},
        spare,
        now.largest(top, context if fits else 0),
        without.largest(top, context if fits_alone else 0),
        bool(instance.need.estimated),
        need_line(instance.need),
    )


def fit(hosts: Mapping[str, Known], name: str, options: Mapping[str, Any], now: float) -> Result:
    """Return on which of the known ``hosts`` one more server of the model ``name`` fits, the best first; the exit code
    is FAILED where it fits on none. ``now`` is in seconds since the epoch.

    Raises UsageError for a model that no host has, an option that a llama-server does not take, and where the last
    looks tell nothing.
    """
    if not hosts:
        raise UsageError("No host is known yet, so nobody can tell: run magi plan, which looks at all hosts.")
    models = {host.name: model for host in hosts.values() for model in host.models if model["id"] == name}
    if not models:
        there = {model["id"] for host in hosts.values() for model in host.models}
        near = difflib.get_close_matches(name, sorted(there), 1, 0.5)

        hint = f"did you mean {near[0]}?" if near else "magi discover lists the models."
        raise UsageError(f"No host has a model {name}, as of the last look; {hint}")
    found, unknown = [], []
    for host, plain in models.items():
        try:
            found.append(fit_on(hosts[host], Model.from_dict(plain), options))
        except AskedForError as error:
            raise UsageError(str(error).replace(f"Profile fit, entry 1 ({name}): ", "")) from None
        except PlanError as error:
            unknown.append(str(error))
    if not found:
        raise UsageError(" ".join(unknown))
    found.sort(key=lambda item: (not item.fits, not item.fits_alone, -min(item.spare.values())))
    without = sorted(hosts.keys() - models.keys())
    document = {"model": name, "options": options, "hosts": [asdict(x) for x in found], "unknown": unknown}
    rows = [
        (
            *(item.host, "yes" if item.fits else "alone" if item.fits_alone else "no", item.context, item.said),
            "; ".join(_left(device, size) for device, size in item.spare.items() if item.fits or size < 0),
            *(item.largest_context or "none", item.largest_context_alone or "none", _ago(now - item.seen_at)),
        )
        for item in found
    ]
    head = ("host", "fits", "ctx_size", "needs", "to spare", "largest ctx_size", "if alone", "looked at")
    lines = [f"One more server of {name}, beside what ran:", "", *text_table(head, rows)]
    lines += ["", *unknown] if unknown else []
    lines += ["", f"Without the model: {', '.join(without)}"] if without else []
    code = ExitCode.OK if any(item.fits for item in found) else ExitCode.FAILED
    return Result.of({**document, "without": without}, lines, code)


def _left(device: str, size: int) -> str:
    lacks = "lacks " if size < 0 else ""
    return f"{device_name(device)} {lacks}{bytes_shown(abs(size))}"


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
