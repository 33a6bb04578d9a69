# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a server's clients are, and what they are told when they ask for its health. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.addresses import exposed, is_one, local_url
from ansible_collections.magi.models.plugins.module_utils._host.values import Host, Running
from ansible_collections.magi.models.plugins.module_utils._llama.cause import Cause
from ansible_collections.magi.models.plugins.plugin_utils._fleet.reach import way_to_reach
from ansible_collections.magi.models.plugins.plugin_utils._fleet.way import CONTROLLER, HOST, Way


@dataclass(frozen=True)
class HealthQuestion:
    """Where a server is asked, and from where."""

    instance: str
    url: str
    by: str
    """CONTROLLER or HOST."""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Answer:
    """The answer to a question."""

    question: HealthQuestion
    status: int
    """The HTTP status; -1: none came."""
    said: str = ""
    lost: bool = False
    """Whether it could not even be asked: Ansible did not reach the host that asks."""

    @property
    def cause(self) -> Cause | None:
        """Why a server that answers on its own host does not count as ready, or None: its clients reach it, too."""
        asked = self.question
        if self.status == 200:
            return None
        if self.lost:
            remedy = way_to_reach(self.said, "bring it back")
            return Cause(
                "host_unreachable", f"its host can't be reached any more ({self.said}); {remedy} and run again"
            )
        where = "from the controller" if asked.by == CONTROLLER else "on its own host"
        what = f"HTTP status {self.status}" if self.status > 0 else self.said or "no answer"
        remedy = (
            "open its port in the firewall and publish it if the host is a container, or, if no client is on that "
            "side, set model_server_health_from to host"
            if asked.by == CONTROLLER
            else "see what else has its port there"
        )
        return Cause("not_reached", f"it is ready, but {asked.url} can't be reached {where} ({what}); {remedy}")


def questions(
    host: Host,
    way: Way,
    health_from: str = "auto",
    names: Collection[str] | None = None,
    *,
    each: bool = True,
) -> list[HealthQuestion]:
    """Return where to ask the instances of ``host`` that answer there; only those in ``names`` if given.

    HOST or CONTROLLER asks if ``health_from`` says so; with auto, the controller asks servers that bind an address
    which others reach.

    Without ``each``, a host over the network asks only one of its instances at each address: it has just asked all of
    them from there (``health``), and each question starts a module, half a second of a processor.
    """
    asked: list[HealthQuestion] = []
    addresses: set[str] = set()
    for item in host.instances:
        if item.server or item.health != 200 or item.port is None or (names is not None and item.name not in names):
            continue
        bound = _bound(item, host)
        outside = health_from == CONTROLLER or (health_from == "auto" and way.over_the_network and exposed(bound))
        if way.over_the_network and not outside and not each and bound in addresses:
            continue
        addresses.add(bound)
        # A server can rewrite its environment, so that never says which address we talk to.
        at = (bound if bound in _kernel(item, host) and is_one(bound) else way.address) if outside else bound
        asked.append(HealthQuestion(item.name, local_url(at, item.port), CONTROLLER if outside else HOST))
    return asked


def _kernel(item: Running, host: Host) -> list[str]:
    """Return the addresses that the instance listens at, according to the kernel."""
    return [one.address for one in host.listeners if one.port == item.port and one.instance == item.name]


def _bound(item: Running, host: Host) -> str:
    """Return the address that the instance binds; what it says itself only tells whether it is exposed."""
    kernel = sorted(_kernel(item, host), key=exposed, reverse=True)
    if kernel:
        return kernel[0]
    return "0.0.0.0" if exposed(item.environment.get("LLAMA_ARG_HOST", "")) else "127.0.0.1"  # noqa: S104 - not bound


def said_by_uri(result: Mapping[str, Any]) -> str:
    """Return why ansible.builtin.uri got no answer, in a few words."""
    said = " ".join(str(result.get("msg", "")).removeprefix("Task failed: ").split()).partition("Request failed: ")
    # (An Ansible sanity test takes that function's name for a call.)
    return re.sub(r"^<url[o]pen error (?:\[Errno -?\d+\] )?(.*?)>?$", r"\1", said[2] or said[0]).rstrip(".")


def answers(results: Sequence[Mapping[str, Any]]) -> dict[str, Answer]:
    """Return by instance what ansible.builtin.uri returned in a loop over questions."""
    found = {}
    for result in results:
        item = result.get("item")
        if isinstance(item, Mapping) and not result.get("skipped"):
            lost = bool(result.get("unreachable"))
            found[item["instance"]] = Answer(
                HealthQuestion(**item), int(result.get("status") or -1), said_by_uri(result), lost
            )
    return found
