# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which of several deployments goes on, when they claim the same hosts at once. Pure.

Each host puts the claims to it into an order. Of the hosts that two deployments have in common, the first by name
decides: whoever came first to it goes on, and the other gives way on all its hosts, before it changes anything.

A deployment does not see who comes after it, and if it finds nobody before it, it goes on at once. So one that finds
another goes on only if the other will find it, too, namely on the host that decides. In doubt it gives way: if it could
not claim that host, if its first claims have lapsed before the last host was read, or if the two call a host by
different names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._host.values import Claim, Holder

MARGIN = 60
"""Seconds that a host is looked at, at most, once it has been claimed."""


@dataclass(frozen=True)
class Seen:
    """What a deployment found on a host that it claimed."""

    mine: Claim
    before: tuple[Claim, ...] = ()
    """Those of others that came before, in their order."""
    at_work: Holder | None = None
    """Who is changing the host at this moment."""
    claimed_at: float = 0
    """In seconds since the epoch, by our own clock."""

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Seen:
        """Return it from the result of the module model_registry."""
        holder = found["host"]["at_work"]
        return cls(
            Claim.from_dict(found["claim"]),
            tuple(map(Claim.from_dict, found["claims"])),
            holder and Holder(**holder),
            found["claimed_at"],
        )


@dataclass(frozen=True)
class Precedence:
    refused: str = ""
    """Why this deployment gives way, without a full stop; empty if it goes on."""
    unreached: tuple[str, ...] = ()
    """Its hosts that it could not claim, or not for long enough."""

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "unreached": list(self.unreached)}


def precedence(hosts: Mapping[str, Seen], now: float) -> Precedence:
    """Return whether a deployment goes on that found this on the ``hosts`` that it claimed; on none: it does."""
    named = {name for seen in hosts.values() for name in seen.mine.hosts}
    lapsed = any(now - seen.claimed_at > seen.mine.seconds - MARGIN for seen in hosts.values())
    claimed = {} if lapsed else hosts
    unreached = tuple(sorted(named - claimed.keys()))
    for name, seen in sorted(hosts.items()):
        for other in seen.before:
            if (lapsed or not other.ended) and _came_first(seen.mine, other, name, claimed):
                return Precedence(other.sentence, unreached)
    for name, seen in sorted(hosts.items()):
        if seen.at_work:
            return Precedence(
                f"another deployment is at work: {seen.at_work.deployment}, which is changing {name}; this one changes "
                "nothing: wait for the other, then run again",
                unreached,
            )
    return Precedence("", unreached)


def _came_first(mine: Claim, other: Claim, name: str, hosts: Mapping[str, Seen]) -> bool:
    """Whether ``other``, which was before us on the host ``name``, also was on the one that decides."""
    decider = hosts.get(mine.decider(other) or "")
    if name not in other.hosts or decider is None:
        return True
    return any(item.same(other) for item in decider.before)
