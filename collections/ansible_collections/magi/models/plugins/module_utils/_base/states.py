# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The states of an instance, and what a deployment does with it. Pure."""

from __future__ import annotations

from enum import Enum


class Word(str, Enum):
    """One of a closed list of strings; it prints, compares and travels through JSON as a plain string."""

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, spec: str) -> str:
        return format(str(self.value), spec)


class State(Word):
    """The state of an instance."""

    RUNNING = "running"
    ASLEEP = "asleep"
    """It runs and serves, and its memory is free until the next request; service managers call that running."""
    STARTING = "starting"
    BACKOFF = "backoff"
    """It has ended, and its service manager is about to start it again."""
    FAILED = "failed"
    """Its service manager gave up on it."""
    STOPPED = "stopped"
    ORPHANED = "orphaned"
    """It runs without its service manager."""
    ABSENT = "absent"
    """It is desired, and the host does not have it."""
    UNKNOWN = "unknown"
    """It is desired, and the host could not be asked."""


class ActionKind(Word):
    """What a deployment, a stop or a teardown does with an instance."""

    START = "start"
    RESTART = "restart"
    STOP = "stop"
    KEEP = "keep"
    QUARANTINE = "quarantine"
    """Left stopped: it failed for good with exactly this configuration."""
    REMOVE = "remove"

    @property
    def changes(self) -> bool:
        """Whether it does anything to the instance."""
        return self not in (ActionKind.KEEP, ActionKind.QUARANTINE)


NOT_STARTED = "not started: "
"""Begins the exit status of an instance that its manager could not even start; the rest says why."""
