"""What can go wrong, each with its own exit code."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """How magi ends (docs/controller.md)."""

    OK = 0
    """All ready; nothing to change."""
    FAILED = 1
    USAGE = 2
    """The command line, a profile, a setting or the inventory is wrong; nothing was touched."""
    DEGRADED = 3
    """Some servers are not ready, or something that the profile enables is missing."""
    CHANGES = 4
    """`magi plan` found something to change."""
    UNREACHABLE = 5
    INTERRUPTED = 130


class MagiError(Exception):
    """Something that the user must know, in one sentence: what is wrong, and the remedy."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, document: Mapping[str, Any] | None = None):
        """``document`` is what was still found or done, as in the verb's JSON (docs/controller.md)."""
        super().__init__(message)
        self.document = document


class DeploymentFailed(MagiError):
    """A host failed, so it was not deployed or not looked at; or no server is ready."""


class UsageError(MagiError):
    """The command line, a setting, the project or the inventory can't be used."""

    exit_code = ExitCode.USAGE


class ProfileError(UsageError):
    """The profile is missing or wrong."""


class HostUnreachable(MagiError):
    """A host can't be reached."""

    exit_code = ExitCode.UNREACHABLE


class Interrupted(MagiError):
    """The run was stopped by a signal, or its task was cancelled."""

    exit_code = ExitCode.INTERRUPTED
