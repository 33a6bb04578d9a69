"""Verbs in threads: they run beside the requests, and none outlives the service."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from magi.errors import Interrupted
from magi.events import Event
from magi.result import Result
from magi.session import Session

Verb = Callable[[Session], Result]
LOOKS = 2
"""Looks at the hosts at the same time; one more thread is for the change that is at work."""


class Runs:
    def __init__(self, session: Session):
        self.session = session
        self._threads = ThreadPoolExecutor(LOOKS + 1, "magi-run")
        self._looking = asyncio.Semaphore(LOOKS)
        self._stops: set[threading.Event] = set()
        self._ended = False

    async def look(self, verb: Verb) -> Result:
        """Run a verb that changes nothing; a few at a time. Raises MagiError."""
        async with self._looking:
            return await self.run(verb)

    async def run(
        self, verb: Verb, on_event: Callable[[Event], None] = lambda event: None, stop: threading.Event | None = None
    ) -> Result:
        """Run a verb; ``on_event`` is called in its thread. ``stop``, and the end of the service, end it early.

        Raises MagiError.
        """
        if self._ended:
            raise Interrupted("magi serve is ending: nothing was begun.")
        stop = stop or threading.Event()
        self._stops.add(stop)
        session = replace(self.session, on_event=on_event, stop=stop)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, verb, session)
        except asyncio.CancelledError:  # nobody waits for it any more
            stop.set()
            raise
        finally:
            self._stops.discard(stop)

    def stop(self) -> None:
        """Stop all runs, and begin no other."""
        self._ended = True
        for stop in self._stops:
            stop.set()

    async def end(self) -> None:
        """Stop all runs, and wait until nothing of them is left."""
        self.stop()
        await asyncio.to_thread(self._threads.shutdown)
