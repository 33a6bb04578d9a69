"""What a verb found or did: one value for all verbs, for programs and for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from magi.errors import DeploymentFailed, ExitCode, HostUnreachable, MagiError, UsageError

_ERRORS: dict[ExitCode, type[MagiError]] = {
    ExitCode.UNREACHABLE: HostUnreachable,
    ExitCode.USAGE: UsageError,
    ExitCode.FAILED: DeploymentFailed,
}


@dataclass(frozen=True)
class Result:
    document: Mapping[str, Any]
    """What --json prints (docs/controller.md)."""
    exit_code: ExitCode = ExitCode.OK
    problem: str = ""
    """The sentence on hosts that were lost, while others were found."""
    told: Callable[[Mapping[str, Any]], Sequence[str]] = field(default=lambda document: (), repr=False, compare=False)
    """Makes lines of the document for people, without colours; called only if somebody reads them."""

    @classmethod
    def of(cls, document: Mapping[str, Any], lines: Sequence[str], exit_code: ExitCode = ExitCode.OK) -> Result:
        """Return a result with its lines."""
        return cls(document, exit_code, told=lambda document: lines)

    @property
    def lines(self) -> Sequence[str]:
        return self.told(self.document)

    def checked(self) -> Result:
        """Return this result, or raise its problem as an error that has the document."""
        if self.problem:
            raise _ERRORS[self.exit_code](self.problem, self.document)
        return self
