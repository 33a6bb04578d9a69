# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the fleet decided that a host has of models with replicas: what its instances are started with, and are told
for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._host.values import Running
from ansible_collections.magi.models.plugins.module_utils._plan.select import Wanted
from ansible_collections.magi.models.plugins.module_utils._plan.values import Action, Share


@dataclass(frozen=True, order=True)
class Siblings:
    """Where the replicas of a model were when one was placed."""

    at: float = 0
    """When the deployment before began (Generation.began_at), as far as that was known."""
    hosts: tuple[str, ...] = ()
    """By name, each as often as it had one."""

    def __str__(self) -> str:
        return " ".join([f"{self.at:.3f}", *self.hosts])

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Siblings:
        """Return what a process was started with; nothing for one that was not placed."""
        at, *hosts = environment.get("MAGI_REPLICAS", "0").split() or ["0"]
        return cls(float(at), tuple(hosts)) if at.replace(".", "", 1).isdecimal() else cls()


def since(item: Wanted, running: Iterable[Running]) -> str:
    """Return what a replica is started with; one that runs already keeps what it has, if anything."""
    if item.share is None:
        return ""
    now = next((x for x in running if x.name == item.name and x.pid), None)
    return now.environment.get("MAGI_REPLICAS", "") if now else item.share.since


def explained(
    actions: Iterable[Action],
    wanted: Iterable[Wanted],
    running: Iterable[Running],
    shares: Sequence[Mapping[str, Share]],
) -> tuple[Action, ...]:
    """Return the actions, with the fleet's reasons for those of replicas."""
    there = {item.name: item for item in running}
    mine = {item.name: item.share for item in wanted if item.share}
    models = {model_id: share for given in shares for model_id, share in given.items()}

    def reason(item: Action) -> str:
        share = mine.get(item.instance)
        if share and item.action is ActionKind.KEEP:
            return f"{item.reason}; a replica stays where it runs"
        if share and item.action is ActionKind.START and item.instance not in there:
            return share.why or item.reason
        if not share and item.action is ActionKind.STOP:
            gone = models.get(there[item.instance].environment.get("MAGI_MODEL_ID", ""))
            return (gone and gone.why) or item.reason
        return item.reason

    return tuple(replace(item, reason=reason(item)) for item in actions)


def moved(host: str, wanted: Iterable[Wanted], running: Iterable[Running]) -> Iterable[str]:
    """Yield a sentence for each replica that comes to the host, as another is gone."""
    there = {item.name for item in running}
    for item in wanted:
        if item.share and item.share.moved and item.name not in there:
            yield f"Host {host}: {item.name} starts here: {item.share.why}."
