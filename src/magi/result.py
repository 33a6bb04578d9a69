"""What a verb found or did: one value for all verbs, for programs and for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    lines: Sequence[str] = ()
    """The same for people, without colours."""
    exit_code: ExitCode = ExitCode.OK
    problem: str = ""
    """The sentence on what became of hosts that were lost, beside what was found of the others."""

    def checked(self) -> Result:
        """Return this result, or raise its problem as the error that it is, with the document."""
        if self.problem:
            raise _ERRORS[self.exit_code](self.problem, self.document)
        return self
