# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Waiting until a llama-server has no request in flight: it does not wait itself when it is told to end."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Mapping

from ansible_collections.magi.models.plugins.module_utils._llama.client import (
    api_key,
    ask_asleep,
    ask_router,
    is_router,
    of_model,
    request,
)


def drain(environment: Mapping[str, str], timeout: float, pause: float = 0.25) -> int | None:
    """Wait until the server of ``environment`` has no request in flight, at most ``timeout`` seconds.

    Return how many it still has; None: it does not say.

    llama-server does not drain on SIGTERM: it closes its listener and cuts live streams, hence this.
    """
    deadline = time.monotonic() + timeout
    while (left := _in_work(environment, min(2, max(0.1, timeout)))) != 0:
        if time.monotonic() >= deadline:
            return left
        time.sleep(pause)
    return 0


def _in_work(environment: Mapping[str, str], timeout: float) -> int | None:
    """Return how many requests a server works on or has waiting; None if it does not say (it hangs, or its API key has
    changed).

    It is asked at /metrics (requests_processing and requests_deferred, tools/server/server.cpp), which does not wake a
    sleeping model, and at /slots if that is switched off. A server that refuses connections, still loads its model
    (503) or has neither counts as idle; a router, which has neither for itself, does if it refuses connections.
    """
    if is_router(environment):
        models = ask_router(environment)
        if models is None:
            return _at(environment, timeout)
        counts = [_at(environment, timeout, name) for name, state in models.items() if state == "loaded"]
        # What waits for a model is counted nowhere; of one that loads, somebody does.
        return None if None in counts else sum(filter(None, counts)) + [*models.values()].count("loading")
    return _at(environment, timeout)


def _at(environment: Mapping[str, str], timeout: float, model: str = "") -> int | None:
    """Return what _in_work does of one server, or of one ``model`` of a router."""
    key = api_key(environment)
    try:
        status, body = request(environment, of_model("/metrics", model), timeout, key)
        if status in (404, 501):
            if not model and ask_asleep(environment):  # /slots would wake it
                return 0
            status, body = request(environment, of_model("/slots", model), timeout, key)
            if status in (404, 501):
                return 0
            if status == 200:
                return sum(bool(slot["is_processing"]) for slot in json.loads(body))
        elif status == 200:
            return in_flight(body.decode("utf-8", "replace"))
        return 0 if status == 503 or (model and status == 400) else None  # 400: it is unloaded by now
    except ConnectionRefusedError:
        return 0
    except (OSError, http.client.HTTPException, ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None


def in_flight(metrics: str) -> int:
    """Return how many requests a server works on or has waiting, from its Prometheus metrics. Raises ValueError and
    OverflowError."""
    found = re.findall(r"^llamacpp:requests_(?:processing|deferred) (\S+)", metrics, re.MULTILINE)
    return int(sum(map(float, found)))
