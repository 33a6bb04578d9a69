"""Clients of a gateway who ask again and again, and remember each answer that is not what it should be."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


class Clients:
    """``count`` clients of the models ``names``; every second one of each has its answers streamed. ``says`` is what a
    server calls itself, where that is not its model (see ask_once).

    Within the block they ask; behind it, ``wrong`` has what went wrong, ``answered`` counts the rest by model, and
    ``slowest`` is how many seconds the slowest of all answers took.
    ``names`` may be set anew meanwhile: each client's next question is for one of those. It comes ``pause`` seconds
    after an answer; without a pause, thirty clients want more than the processors of a small machine have, and what
    deploys there waits for them.
    """

    def __init__(
        self,
        address: str,
        port: int,
        names: Sequence[str],
        *,
        count: int = 30,
        pause: float = 0,
        says: Mapping[str, str] | None = None,
    ):
        self.address, self.port, self.names, self.says = address, port, names, says or {}
        self.pause = pause
        self.wrong: list[Any] = []
        self.answered: Counter[str] = Counter()
        self.slowest = 0.0
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask_on, args=(number,)) for number in range(count)]

    def __enter__(self) -> Clients:
        for item in self._threads:
            item.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        for item in self._threads:
            item.join()

    def _ask_on(self, number: int) -> None:
        connection = http.client.HTTPConnection(self.address, self.port, timeout=120)
        self._over.wait(self.pause * number / len(self._threads))  # not all at once
        while not self._over.is_set():
            names = self.names
            model, stream = names[number % len(names)], bool(number // len(names) % 2)
            began, wrong = time.monotonic(), None
            try:
                wrong = ask_once(connection, model, stream=stream, tokens=8, says=self.says.get(model, ""))
            except Exception as error:  # what is no answer at all; the client goes on
                wrong = (model, repr(error))
                connection.close()
            with self._lock:
                self.slowest = max(self.slowest, time.monotonic() - began)
                if wrong is None:
                    self.answered[model] += 1
                else:
                    self.wrong.append(wrong)
            self._over.wait(self.pause)
        connection.close()


AT_ONCE = 2
"""Seconds within which a connection that was kept says that it had been closed before the question came."""


def ask_once(connection: http.client.HTTPConnection, model: str, *, stream: bool, tokens: int, says: str = "") -> Any:
    """Ask for a chat; return what was wrong with the answer, or None. Like usual clients, begin anew on a connection
    that was closed while nobody used it. A server ``says`` the first of its names, as they are sorted."""
    says = says or model
    body = {"model": model, "messages": QUESTION, "max_tokens": tokens, "ignore_eos": True, "stream": stream}
    kept, began = connection.sock is not None, time.monotonic()
    try:
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
    except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as lost:
        connection.close()
        took = time.monotonic() - began
        if kept and took < AT_ONCE:
            return ask_once(connection, model, stream=stream, tokens=tokens, says=says)
        return model, repr(lost), f"at {time.strftime('%H:%M:%S')} after {took:.1f} s"
    except (OSError, http.client.HTTPException) as lost:
        connection.close()
        return model, repr(lost)
    try:
        text = answer.read().decode()
    except (OSError, http.client.HTTPException) as lost:
        connection.close()
        return model, repr(lost)
    if answer.status != 200:
        return model, answer.status, text
    if stream and not text.rstrip().endswith("data: [DONE]"):
        return model, "cut", text
    pieces = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")] or [json.loads(text)]
    served = {piece.get("model") for piece in pieces}
    if served != {says}:
        return model, "another model", served
    # All tokens that were asked for, and no error in between.
    reasons = [choice["finish_reason"] for piece in pieces for choice in piece["choices"] if choice["finish_reason"]]
    return None if reasons == ["length"] else (model, "not whole", text)
