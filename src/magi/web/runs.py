"""Verbs in threads: they run beside the requests, and none outlives the service."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http import HTTPStatus

from magi.errors import Interrupted, MagiError
from magi.events import Event, complaints
from magi.result import Result
from magi.session import Session
from magi.state.defect import defect
from magi.web.problems import Problem

Verb = Callable[[Session], Result]
LOOKS = 2
"""Looks at the hosts at the same time; one more thread is for the change that is at work."""
WAITING = 20
"""Looks that wait for those."""
TALKS = 4
"""Runs at the same time that last as long as somebody listens."""
UNHEARD = 10_000
"""Events of such a run that wait for who listens; with more, nobody does."""
PAUSE = 15
"""Seconds without an event, after which who listens is told that nothing came."""


class Runs:
    def __init__(self, session: Session):
        self.session = session
        self._threads = ThreadPoolExecutor(LOOKS + 1 + TALKS, "magi-run")
        self._looking, self._previewing = asyncio.Semaphore(LOOKS), asyncio.Semaphore(1)
        self._waiting = self._talks = 0
        self._stops: set[threading.Event] = set()
        self._ended = False

    async def look(self, verb: Verb) -> Result:
        """Run a verb that changes nothing; a few at a time. Raises MagiError, and Problem if too many wait."""
        if self._waiting >= WAITING:
            busy = f"{WAITING} looks at the hosts wait already: ask again in a moment."
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, busy, {"Retry-After": "5"})
        self._waiting += 1
        try:
            await self._looking.acquire()
        finally:
            self._waiting -= 1
        try:
            return await self.run(verb)
        finally:
            self._looking.release()

    async def preview(self, verb: Verb) -> Result:
        """As ``look``, for what follows somebody who types: one at a time, so that other looks find a place."""
        async with self._previewing:
            return await self.look(verb)

    async def talk(self, verb: Verb) -> AsyncIterator[Event | Result | None]:
        """Run a verb, and yield its events as they come, and then its result; it ends when nobody listens any more.
        None after PAUSE seconds without an event, so that nobody takes the connection for dead.

        Raises MagiError, and Problem if too many talk.
        """
        if self._talks >= TALKS:
            busy = f"{TALKS} logs or answers are open at the same time, and no more can be: close one."
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, busy)
        self._talks += 1
        loop, heard, stop = asyncio.get_running_loop(), asyncio.Queue[Event | None](), threading.Event()

        def hear(event: Event) -> bool:
            """Keep what the verb itself needs: what is printed has no end."""
            if heard.qsize() >= UNHEARD:
                stop.set()
            else:
                loop.call_soon_threadsafe(heard.put_nowait, event)
            return event.kind == "message" and not complaints([event])

        async def carried_out() -> Result | MagiError:
            try:
                return await self.run(verb, hear, stop)
            except MagiError as error:
                return error
            except Exception as error:
                return MagiError(defect(error))
            finally:
                self._talks -= 1
                loop.call_soon(heard.put_nowait, None)  # after what came from the thread

        run = asyncio.create_task(carried_out())
        try:
            while True:
                try:
                    async with asyncio.timeout(PAUSE):
                        event = await heard.get()
                except TimeoutError:
                    yield None
                    continue
                if event is None:
                    break
                yield event
            result = await run
            if isinstance(result, MagiError):
                raise result
            yield result
        finally:
            stop.set()  # its place is free once its thread has ended

    async def run(
        self,
        verb: Verb,
        on_event: Callable[[Event], bool | None] = lambda event: None,
        stop: threading.Event | None = None,
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
