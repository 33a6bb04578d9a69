# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether what a deployment gave its first hosts does worse than what the others have, or what was before. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind, State
from ansible_collections.magi.models.plugins.module_utils._config.profile import Canary
from ansible_collections.magi.models.plugins.module_utils._haproxy.stats import Counted
from ansible_collections.magi.models.plugins.module_utils._host.values import Host
from ansible_collections.magi.models.plugins.module_utils._plan.leave import kept_instance
from ansible_collections.magi.models.plugins.module_utils._plan.values import Action, Instance, Plan
from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import LAUNCHED, HostResult, cause_of

Whose = tuple[str, str]
"""Host and instance."""
ENOUGH = 5
"""Requests from which on a mean says something."""
SLOWER, LONGER_MS = 2, 500
"""An answer begins too late if it takes so many times as long as those of the others, and so many milliseconds more:
what has just started has nothing in its cache yet."""
MORE_ERRORS = 0.02
"""The share of errors may be higher by this."""
_WINDOW = 512
"""Requests over which HAProxy forgets: of its mean, the newest is a part of 1/512 (TIME_STATS_SAMPLES, freq_ctr.h)."""


def canaries(plans: Mapping[str, Plan], canary: Canary) -> tuple[str, ...]:
    """Return the hosts that come first: of those that launch something, and have something to go back to."""
    able = (name for name, plan in plans.items() if plan.names(*LAUNCHED) and plan.generation.began_at)
    return tuple(name for name, _number in zip(able, range(canary.hosts)))


def first_instances(plan: Plan, host: Host, canary: Canary) -> tuple[str, ...]:
    """Return the instances that come first where all that launches is on one host: as many as hosts would. None if the
    host has no more to launch than these, or if they can't come alone: a port or memory that others have yet, or all
    of the host's servers end, since their service manager is replaced.
    """
    launched, now = plan.names(*LAUNCHED), {item.name: item for item in host.instances}
    if len(launched) <= canary.hosts or any(item.manager or item.state is State.ORPHANED for item in now.values()):
        return ()
    ports = {item.name: item.port for item in plan.instances}
    able = [name for name in plan.names(ActionKind.RESTART) if ports[name] == now[name].port]
    if not plan.names(ActionKind.RESTART, ActionKind.STOP):  # the others are beside it afterwards, too
        able = list(launched)
    return tuple(able[: canary.hosts])


def alone(plan: Plan, host: Host, first: Sequence[str]) -> Plan:
    """Return the part of a plan that comes first: of what changes, only the instances ``first``. What the others were
    runs on as it is, with its files."""
    later = {name for name in plan.names(*LAUNCHED, ActionKind.STOP) if name not in first}
    left = {item.name: item for item in host.instances if item.name in later}
    why = f"until {' and '.join(first)} {'was' if len(first) == 1 else 'were'} watched"
    return replace(
        plan,
        instances=tuple(item for item in plan.instances if item.name not in later),
        kept=(*plan.kept, *(kept_instance(item) for item in left.values() if item.pid)),
        actions=tuple(
            Action(item.instance, ActionKind.KEEP, why) if item.instance in left else item
            for item in plan.actions
            if item.instance not in later or item.instance in left
        ),
    )


@dataclass(frozen=True)
class Watched:
    """What was seen of one of the first hosts."""

    result: HostResult
    """After its deployment."""
    later: Host | None = None
    """At the end of the watch; None: not looked at yet."""
    tried: Mapping[str, str] | None = None
    """By instance, what was wrong with some tokens that it was asked for; empty if nothing was. None: not asked."""
    lost: str = ""
    """Why it can't be reached any more."""


def unwell(name: str, seen: Watched) -> str:
    """Return what is wrong with a host that was watched, by itself; empty if nothing is."""
    result = seen.result
    if result.trouble or result.plan is None:
        return result.trouble.detail.split("; ")[0] if result.trouble else "it has no plan"
    if seen.lost:
        return seen.lost
    launched = [item.instance for item in result.results if item.action.action in LAUNCHED]
    for instance in (item for item in result.plan.instances if item.name in launched):
        cause = cause_of(instance, result)
        if cause:
            return f"instance {instance.name} is not ready: {cause.detail.split('; ')[0]}"
        then, now = (
            next((item for item in host.instances if item.name == instance.name), None) if host else None
            for host in (result.after, seen.later)
        )
        if seen.later and (now is None or not now.pid or (then and now.pid != then.pid)):
            return f"instance {instance.name} crashed while it was watched"
        failed = [model for model, state in ((now and now.models) or {}).items() if state == "failed"]
        if failed:
            return f"instance {instance.name}: of its models, {', '.join(failed)} could not be loaded, or crashed"
        wrong = (seen.tried or {}).get(instance.name)
        if wrong:
            return f"instance {instance.name}: {wrong.split('; ')[0]}"
    return ""


def since(before: Iterable[Counted], after: Iterable[Counted]) -> Counted:
    """Return what the servers of ``after`` have done since ``before``, together; both have a server once for each
    backend, in the same order.

    HAProxy's mean forgets slowly: of what it was before n requests, it still has (1 - 1/512)^n.
    """
    requests, failed, waited = 0, 0, 0.0
    for then, now in zip(before, after):
        new = now.requests - then.requests
        if new > 0:
            left = (1 - 1 / _WINDOW) ** new
            sums = [item.first_byte_ms * min(item.requests, _WINDOW) for item in (then, now)]
            waited += new * max(0.0, (sums[1] - sums[0] * left) / (_WINDOW * (1 - left)))
            requests += new
            failed += now.failed - then.failed
    return Counted("", requests, failed, round(waited / requests) if requests else 0)


def compared(mine: Counted, others: Counted, whose: str, *, pooled: bool = False) -> str:
    """Return how the answers of a server are worse than those of ``others``; empty if they are not, or if there were
    too few to tell. ``whose`` says which these are. The first answers of one that is ``pooled`` wait until a model is
    loaded, and tell nothing."""
    if min(mine.requests, others.requests) < ENOUGH:
        return ""
    shares = [item.failed / item.requests for item in (mine, others)]
    if mine.failed > 1 and shares[0] > shares[1] + MORE_ERRORS:
        return (
            f"{mine.failed} of its {mine.requests} requests failed, and {others.failed} of {others.requests} of {whose}"
        )
    if not pooled and mine.first_byte_ms > SLOWER * others.first_byte_ms + LONGER_MS:
        return (
            f"its answers began after {mine.first_byte_ms / 1000:.2f} s, and those of {whose} after "
            f"{others.first_byte_ms / 1000:.2f} s"
        )
    return ""


@dataclass(frozen=True)
class Clients:
    """What one gateway counted of each server, when the watch began and when it ended."""

    before: Mapping[Whose, Sequence[Counted]]
    after: Mapping[Whose, Sequence[Counted]]


def worse(hosts: Mapping[str, Watched], others: Iterable[HostResult], gateways: Sequence[Clients]) -> dict[str, str]:
    """Return by host what is worse on it; ``others`` are the hosts that were not deployed yet. What was not launched on
    the same host is compared with, too."""
    found = {name: said for name, seen in hosts.items() if (said := unwell(name, seen))}
    elsewhere = [((item.name, instance.name), instance) for item in others for instance in item.served]
    for name, seen in hosts.items():
        for said in () if name in found else _clients(name, seen, elsewhere, gateways):
            found[name] = said
            break
    return found


def _clients(
    name: str, seen: Watched, elsewhere: Sequence[tuple[Whose, Instance]], gateways: Sequence[Clients]
) -> Iterator[str]:
    """Yield what clients got that was worse."""
    launched = {item.instance for item in seen.result.results if item.action.action in LAUNCHED}
    for instance in seen.result.plan.instances if seen.result.plan else ():
        if instance.name not in launched:
            continue
        own = (name, instance.name)
        models = {part.model_id for part in instance.each}
        here = [((name, item.name), item) for item in seen.result.served if item.name not in launched]
        alike = {whose: item for whose, item in (*elsewhere, *here) if models & {part.model_id for part in item.each}}
        pooled = any(item.members for item in (instance, *alike.values()))
        for gateway in gateways:
            mine = since(gateway.before.get(own, ()), gateway.after.get(own, ()))
            theirs = [since(gateway.before.get(whose, ()), gateway.after.get(whose, ())) for whose in alike]
            if alike:
                said = compared(mine, _together(theirs), "the other servers of its model", pooled=pooled)
            else:
                said = compared(mine, _together(gateway.before.get(own, ())), "the one before it", pooled=pooled)
            if said:
                yield f"instance {instance.name}: {said}"


def _together(items: Iterable[Counted]) -> Counted:
    there = [item for item in items if item.requests]
    requests = sum(item.requests for item in there)
    waited = sum(item.requests * item.first_byte_ms for item in there)
    return Counted("", requests, sum(item.failed for item in there), round(waited / requests) if requests else 0)
