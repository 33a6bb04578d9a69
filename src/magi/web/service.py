"""What the API works with: one inventory, its jobs, what was last seen there, and who may ask."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from magi import verbs
from magi.errors import MagiError, UsageError
from magi.profiles.workbench import Workbench
from magi.runner.options import Options
from magi.session import Session
from magi.state.catalog import path_of
from magi.state.folder import state_folder, unwritable
from magi.web import tokens
from magi.web.audit import Audit
from magi.web.jobs import Jobs
from magi.web.looks import Looks
from magi.web.runs import Runs

INTERVAL = 30.0
"""Seconds between two looks at what runs, if nobody asks."""
STATUS = ("status",)


class Service:
    """Serves one inventory of one project; give it to an application as ``app.state.magi``."""

    runs: Runs
    looks: Looks
    jobs: Jobs

    def __init__(
        self,
        inventory: str | os.PathLike[str] | Sequence[str] = (),
        *,
        project: str | os.PathLike[str] | None = None,
        profiles: Path | None = None,
        extra_vars: Sequence[str] = (),
        token_file: Path | None = None,
        allowed_hosts: Sequence[str] = (),
    ):
        """``project`` is the project's folder (default: the one at or above the working directory), ``profiles`` that
        of its profiles, ``token_file`` the file of the tokens (default: in magi's state folder), ``allowed_hosts`` are
        names by which clients may ask, besides those of the loopback interface; the rest is as on the command line.

        Raises UsageError.
        """
        inventories = [os.fspath(inventory)] if isinstance(inventory, str | os.PathLike) else list(inventory)
        self.session = Session.of(project, Options(tuple(inventories), extra_vars=tuple(extra_vars)))
        self.profiles = profiles or self.session.project.profiles
        self.allowed_hosts = frozenset(name.lower() for name in allowed_hosts)
        try:
            ours = state_folder() / "serve"
            self.folder = ours / path_of(self.session.project, self.session.options.inventory).stem
            for folder in (ours, self.folder):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise UsageError(unwritable(error)) from None
        self.audit = Audit(self.folder / "audit.log")
        self.token_file = token_file or ours / "tokens"
        self.tokens, self.new_tokens = tokens.load(self.token_file)
        self.closing = False
        """Whether it ends: streams end then, so that clients don't keep it."""

    @property
    def bench(self) -> Workbench:
        """The profiles, and what is known of the hosts now."""
        return Workbench(self.session.project.root, self.profiles, inventory=self.session.options.inventory)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look at what runs again and again within the block; at its end, no run of Ansible is left."""
        self.closing = False
        self.runs = Runs(self.session)
        self.looks = Looks(self.runs)
        self.jobs = Jobs(self.runs, self.folder, changed=self._look)
        watching = asyncio.create_task(self.looks.repeat(STATUS, verbs.status, INTERVAL))
        try:
            yield
        finally:
            self.close()
            watching.cancel()
            await self.runs.end()
            await self.jobs.end()
            await self.looks.end()

    def close(self) -> None:
        """Begin to end: stop all runs and all streams."""
        self.closing = True
        if hasattr(self, "jobs"):  # a signal may come before it has begun
            self.runs.stop()
            self.jobs.wake()

    def _look(self) -> None:
        self.looks.refresh(STATUS, verbs.status)


def of(state: object) -> Service:
    """Return the service of an application's state. Raises MagiError."""
    found = getattr(state, "magi", None)
    if not isinstance(found, Service) or not hasattr(found, "jobs"):
        raise MagiError("The application has not started magi: include its router before it starts, with its lifespan.")
    return found
