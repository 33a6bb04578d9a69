"""What was last seen on the hosts: answered from memory with its age, and read again in the background."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus

from magi.errors import MagiError
from magi.result import Result
from magi.state.defect import defect
from magi.web.problems import Problem
from magi.web.runs import Runs, Verb

FRESH = 5.0
"""Seconds; what is older is read again when somebody asks."""
MOST = 100
"""Different looks to remember: each profile's plan and each instance's log is one."""

Key = tuple[Hashable, ...]


@dataclass(frozen=True)
class Seen:
    """What a look at the hosts saw."""

    result: Result
    at: float
    """When the look began, in seconds since the epoch."""

    @property
    def age(self) -> float:
        """Seconds."""
        return max(0.0, time.time() - self.at)

    @cached_property
    def body(self) -> bytes:
        """The document as JSON in ASCII: file names on hosts need not be UTF-8."""
        return json.dumps(self.result.document, default=str).encode()


class Looks:
    """Of one event loop: nothing here is called from another thread."""

    def __init__(self, runs: Runs):
        self._runs = runs
        self._seen: OrderedDict[Key, Seen] = OrderedDict()
        self._failed: dict[Key, MagiError] = {}
        self._tried: dict[Key, float] = {}
        self._at_work: dict[Key, asyncio.Task[None]] = {}

    async def see(self, key: Key, verb: Verb, max_age: float | None = None, fresh: float | None = None) -> Seen:
        """Return what was last seen, at once, and look again in the background if the last look is older than
        ``fresh`` (seconds; default: FRESH); with ``max_age`` (seconds), wait for something that is no older.

        Raises MagiError: what the look said if nothing was seen, or if it was waited for; Problem if nothing was seen
        yet.
        """
        asked = time.time()
        if max_age is not None:
            while (seen := self._seen.get(key)) is None or seen.at < asked - max_age:
                await asyncio.shield(self.refresh(key, verb))
                if key in self._failed:
                    raise self._failed[key]
            return seen
        seen = self._seen.get(key)
        if asked - self._tried.get(key, 0) > (FRESH if fresh is None else fresh):
            self.refresh(key, verb)
        if seen:
            return seen
        if key in self._failed:
            raise self._failed[key]
        soon = "Nothing was seen on the hosts yet: ask again in a moment, or with max_age to wait for it."
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, soon, {"Retry-After": "2"})

    def refresh(self, key: Key, verb: Verb) -> asyncio.Task[None]:
        """Look again, unless that is at work already; the task never raises."""
        if key not in self._at_work:
            self._at_work[key] = asyncio.create_task(self._look(key, verb))
        return self._at_work[key]

    def is_refreshing(self, key: Key) -> bool:
        return key in self._at_work

    def problem(self, key: Key) -> str | None:
        """Return why the last look failed; None if it did not."""
        return str(self._failed[key]) if key in self._failed else None

    async def _look(self, key: Key, verb: Verb) -> None:
        began = self._tried[key] = time.time()
        try:
            result = await self._runs.look(verb)
        except MagiError as error:
            self._failed[key] = error
        except Exception as error:
            self._failed[key] = MagiError(defect(error))
        else:
            self._seen[key] = Seen(result, began)
            self._seen.move_to_end(key)
            self._failed.pop(key, None)
        finally:  # here, and not once it is done: who waits never gets a task that has ended
            del self._at_work[key]
        while len(self._seen) > MOST:
            self._seen.popitem(last=False)
        for others in (self._failed, self._tried):
            while len(others) > MOST:
                others.pop(next(iter(others)))

    async def repeat(self, key: Key, verb: Verb, interval: float) -> None:
        """Look again every ``interval`` seconds, until cancelled."""
        while True:
            await asyncio.shield(self.refresh(key, verb))
            await asyncio.sleep(interval)

    async def end(self) -> None:
        """Wait for the looks at work, whose runs have been stopped."""
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._at_work.values(), return_exceptions=True)
