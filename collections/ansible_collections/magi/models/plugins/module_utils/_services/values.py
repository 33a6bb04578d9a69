# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is known of a service manager and its instances. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ansible_collections.magi.models.plugins.module_utils._base.states import State


@dataclass(frozen=True)
class Template:
    """A file that a manager needs: rendered from ``source`` (in the role's templates/) to ``destination``."""

    source: str
    destination: str
    """Path with {home} and, for a file per instance, {name}."""
    mode: int
    per_instance: bool = False


@dataclass(frozen=True)
class ServiceFile:
    """A file that a service needs on its host: a template, rendered."""

    path: str
    content: str
    mode: int
    per_instance: bool = False


@dataclass(frozen=True)
class Status:
    """An instance as its manager sees it."""

    state: State
    pid: int | None = None
    started_at: float | None = None
    """Seconds since the epoch."""
    exit_status: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    """What it was started with, where its manager keeps that."""


class ServiceError(RuntimeError):
    """A service manager can't be reached or refused; the message names it and the remedy."""


Filters = Mapping[str, Callable[..., str]]


@dataclass(frozen=True)
class Capabilities:
    """What a service manager can do, and what it needs for it."""

    limits: bool = False
    """It holds instances to their memory_max, cpu_quota and nice."""
    own_user: bool = False
    """Servers run as a user of their own, who needs the permission bits for others."""
    needs_root: bool = False
    """Only root can use it."""
    image: bool = False
    """Its llama-server is in an image, and not a program of the host."""
    pools: bool = False
    """Its servers find the file of a pool's models, and the files that it names."""
    workers: bool = False
    """It runs workers (ggml-rpc-server), too."""
