# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A plan that is refused because it does not fit into memory, in numbers and with the remedy. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ansible_collections.magi.models.plugins.module_utils._base.text import counted
from ansible_collections.magi.models.plugins.module_utils._llama.need import Told, shown
from ansible_collections.magi.models.plugins.module_utils._plan.ledger import Shortage, name_of
from ansible_collections.magi.models.plugins.module_utils._plan.need import Question
from ansible_collections.magi.models.plugins.module_utils._plan.values import PlanError

_NAMED = 5


@dataclass(frozen=True)
class Lacking:
    """Instances of one model with the same options that don't fit, and what is needed to find a context with which they
    would."""

    where: str
    """Their entry of the profile."""
    instances: tuple[str, ...]
    among: int
    """How many there are of the kind, with those that fit."""
    shortages: tuple[Shortage, ...]
    """Of the first that does not fit, by device."""
    estimated: bool
    question: Question
    told: Told
    context: int
    """Tokens."""
    fits: int | None = None
    """The context with which all of them would fit, 0: none; None: not known. Of a pool: how many models."""
    largest: tuple[str, ...] = ()
    """Of a pool: its largest models, which would be in memory at the same time."""

    def room(self, now: Mapping[str, int]) -> dict[str, int]:
        """Return the bytes that may depend on the context of each, by device, for all to fit, where ``now`` do now."""
        missing = {x.device: -(-self._missing(x) // self.among) for x in self.shortages}
        return {device: size - missing.get(device, 0) for device, size in now.items()}

    def _missing(self, shortage: Shortage) -> int:
        return len(self.instances) * shortage.need - shortage.left

    @property
    def sentence(self) -> str:
        """What is missing where, and what would fit."""
        several = len(self.instances) > 1
        about = "about " if self.estimated else ""
        said = "; ".join(
            f"{'each' if several else 'it'} needs {about}{shown(item.need)} of "
            f"{name_of(item.device)}, {shown(item.left)} are left, {shown(self._missing(item))} are missing"
            for item in self.shortages
        )
        who = self.instances[0]
        if several:
            who = f"{len(self.instances)} of {self.among}, {who} to {self.instances[-1]}"
        then = {None: "", 0: "; no ctx_size would do"}
        remedy = then.get(self.fits, f"; with ctx_size: {self.fits} {'all fit' if several else 'it fits'}")
        if self.largest:
            who = f"with {counted(len(self.largest), 'model')} in memory ({', '.join(self.largest)})"
            remedy = f"; with loaded: {self.fits} it fits" if self.fits else "; no smaller number of loaded would do"
        return f"{self.where}: {who}: {said}{remedy}."


class DoesNotFit(PlanError):
    """A plan that has instances for which there is no memory."""

    def __init__(self, host: str, lacking: Sequence[Lacking], among: int) -> None:
        self.host, self.lacking, self.among = host, tuple(lacking), among
        count = sum(len(item.instances) for item in lacking)
        super().__init__(
            f"Host {host}: {count} of {counted(among, 'instance')} {'does' if count == 1 else 'do'} not "
            f"fit into memory, and nothing was changed. {sentences(lacking)} Enable fewer models, lower ctx_size, or "
            "set model_server_memory: warn to try all the same."
        )

    def with_contexts(self, contexts: Mapping[str, int]) -> DoesNotFit:
        """Return it with the contexts that would fit, by the key of the question."""
        known = (
            item if item.largest else replace(item, fits=contexts.get(item.question.key, item.fits))
            for item in self.lacking
        )
        return DoesNotFit(self.host, tuple(known), self.among)


def sentences(lacking: Sequence[Lacking]) -> str:
    """Return a sentence for each of the first few kinds that don't fit; the others are named."""
    more = [name for item in lacking[_NAMED:] for name in item.instances]
    said = [item.sentence for item in lacking[:_NAMED]]
    return " ".join([*said, *([f"Nor do {len(more)} more fit: {', '.join(more)}."] if more else [])])
