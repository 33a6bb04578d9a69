# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether what a deployment gave its first hosts does worse than what the others have, or what was before. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind, State
from ansible_collections.magi.models.plugins.module_utils._config.profile import Canary
from ansible_collections.magi.models.plugins.module_utils._haproxy.stats import Counted
from ansible_collections.magi.models.plugins.module_utils._host.values import Host
from ansible_collections.magi.models.plugins.module_utils._plan.leave import kept_instance
from ansible_collections.magi.models.plugins.module_utils._plan.values import Action, Instance, Plan
from ansible_collections.magi.models.plugins.plugin_utils._fleet.host_result import LAUNCHED, HostResult, cause_of
from ansible_collections.magi.models.plugins.plugin_utils._gateway.haproxy import proxy_name

Whose = tuple[str, str]
"""Host and instance."""
ENOUGH, FEW = 5, 2
"""Requests from which on a mean says something, and from which on it does if it is far off."""
SLOWER, FAR_SLOWER, LONGER_MS = 2, 10, 500
"""An answer begins too late if it takes so many times as long as those of the others (of few answers, the second), and
so many milliseconds more: what has just started has nothing in its cache yet."""
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


def waited(before: Iterable[Counted], after: Iterable[Counted], later: Iterable[Counted], seconds: float) -> Counted:
    """Return what the servers of ``later`` have done since ``before``, together. What waited for its answer from
    ``after`` to ``later``, for so many ``seconds``, is in it as if its answer had begun then: a server that is slow
    enough gives none at all."""
    answered = since(before, later)
    stuck = sum(max(0, then.waiting - (now.begun - then.begun)) for then, now in zip(after, later))
    requests = answered.requests + stuck
    took = answered.requests * answered.first_byte_ms + stuck * 1000 * seconds
    return replace(answered, requests=requests, first_byte_ms=round(took / requests) if requests else 0, waiting=stuck)


def compared(mine: Counted, others: Counted, whose: str, *, least: int = ENOUGH, pooled: bool = False) -> str:
    """Return how the answers of a server are worse than those of ``others``; empty if they are not, or if there were
    fewer than ``least``. ``whose`` says which these are. The first answers of one that is ``pooled`` wait until a model
    is loaded, and tell nothing."""
    if mine.requests < least or others.requests < ENOUGH:
        return ""
    enough = mine.requests >= ENOUGH
    shares = [item.failed / item.requests for item in (mine, others)]
    if enough and mine.failed > 1 and shares[0] > shares[1] + MORE_ERRORS:
        return (
            f"{mine.failed} of its {mine.requests} requests failed, and {others.failed} of {others.requests} of {whose}"
        )
    if not pooled and mine.first_byte_ms > (SLOWER if enough else FAR_SLOWER) * others.first_byte_ms + LONGER_MS:
        late = f"{mine.first_byte_ms / 1000:.2f} s{' or later' if mine.waiting else ''}"
        return f"its answers began after {late}, and those of {whose} after {others.first_byte_ms / 1000:.2f} s"
    return ""


@dataclass(frozen=True)
class Clients:
    """What one gateway counted of each server, when the watch began, when it ended, and, if it then went on for some,
    how many ``seconds`` later."""

    before: Mapping[Whose, Sequence[Counted]]
    after: Mapping[Whose, Sequence[Counted]]
    later: Mapping[Whose, Sequence[Counted]] = field(default_factory=dict)
    seconds: float = 0

    def of(self, whose: Whose) -> Counted:
        before, after = self.before.get(whose, ()), self.after.get(whose, ())
        return waited(before, after, self.later[whose], self.seconds) if whose in self.later else since(before, after)


@dataclass(frozen=True)
class _Trial:
    """A server that is watched, and the others of its model, with which it is compared; without any, with itself."""

    instance: str
    whose: Whose
    others: Sequence[Whose]
    pooled: bool

    def others_at(self, gateway: Clients) -> Counted:
        if self.others:
            return _together([gateway.of(whose) for whose in self.others])
        return _together(gateway.before.get(self.whose, ()))

    def compared(self, gateway: Clients) -> str:
        which = "the other servers of its model" if self.others else "the one before it"
        least = FEW if self.whose in gateway.later else ENOUGH  # what did not answer in twice the time tells something
        said = compared(gateway.of(self.whose), self.others_at(gateway), which, least=least, pooled=self.pooled)
        return said and f"instance {self.instance}: {said}"


def worse(hosts: Mapping[str, Watched], others: Iterable[HostResult], gateways: Sequence[Clients]) -> dict[str, str]:
    """Return by host what is worse on it; ``others`` are the hosts that were not deployed yet. What was not launched on
    the same host is compared with, too."""
    found = {name: said for name, seen in hosts.items() if (said := unwell(name, seen))}
    elsewhere = _served(others)
    for name, seen in hosts.items():
        if name not in found:
            trials = _trials(seen.result, elsewhere)
            said = next(filter(None, (trial.compared(gateway) for trial in trials for gateway in gateways)), "")
            found.update({name: said} if said else {})
    return found


def undecided(hosts: Iterable[HostResult], others: Iterable[HostResult], gateway: Clients) -> dict[Whose, int]:
    """Return the servers at which requests wait, and which answered too few to tell, though the others answered enough:
    by server, how many requests must have ended until it has."""
    elsewhere = _served(others)
    trials = [trial for result in hosts for trial in _trials(result, elsewhere) if not trial.pooled]
    return {
        trial.whose: sum(item.requests for item in gateway.before.get(trial.whose, ())) + ENOUGH
        for trial in trials
        if any(item.waiting for item in gateway.after.get(trial.whose, ()))
        and gateway.of(trial.whose).requests < ENOUGH <= trial.others_at(gateway).requests
    }


def _served(others: Iterable[HostResult]) -> dict[Whose, Instance]:
    return {(item.name, instance.name): instance for item in others for instance in item.served}


def _trials(result: HostResult, elsewhere: Mapping[Whose, Instance]) -> Iterator[_Trial]:
    """Yield what was launched on a host."""
    launched = {item.instance for item in result.results if item.action.action in LAUNCHED}
    here = {(result.name, item.name): item for item in result.served if item.name not in launched}
    for instance in result.plan.instances if result.plan else ():
        if instance.name in launched:
            models = {part.model_id for part in instance.each}
            alike = {
                whose: item
                for whose, item in {**elsewhere, **here}.items()
                if models & {part.model_id for part in item.each}
            }
            pooled = any(item.members for item in (instance, *alike.values()))
            yield _Trial(instance.name, (result.name, instance.name), tuple(alike), pooled)


def _together(items: Iterable[Counted]) -> Counted:
    there = [item for item in items if item.requests]
    requests = sum(item.requests for item in there)
    took = sum(item.requests * item.first_byte_ms for item in there)
    return Counted("", requests, sum(item.failed for item in there), round(took / requests) if requests else 0)


def by_server(found: Iterable[Mapping[str, Any]], results: Iterable[HostResult]) -> dict[Whose, list[Counted]]:
    """Return the ``counts`` of a gateway by server; one that did not answer has none."""
    places = {proxy_name(name, instance): (name, instance) for name, instance in _served(results)}
    servers: dict[Whose, list[Counted]] = {}
    for item in (Counted(**item) for item in found):
        if item.server in places:
            servers.setdefault(places[item.server], []).append(item)
    return servers
