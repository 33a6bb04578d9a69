# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Waiting until a llama-server has no request in flight: it does not do so itself when it is told to end."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from collections.abc import Mapping

from ansible_collections.magi.models.plugins.module_utils._llama.client import api_key, request


def drain(environment: Mapping[str, str], timeout: float, pause: float = 0.25) -> bool:
    """Wait until the server of ``environment`` has no request in flight, at most ``timeout`` seconds; whether it has.

    llama-server does not drain on SIGTERM: it closes its listener and cuts live streams, hence this.
    """
    deadline = time.monotonic() + timeout
    while _busy(environment, min(2, max(0.1, timeout))):
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
    return True


def _busy(environment: Mapping[str, str], timeout: float) -> bool:
    """Whether a server works on a request or has one waiting, or does not say so (a hung one, a changed API key).

    Asked is /metrics (requests_processing and requests_deferred, tools/server/server.cpp), which does not wake a
    sleeping model, and where that is switched off, /slots. One that nobody can connect to, that still loads its model
    (503), or that has neither, is not busy as far as can be told.
    """
    key = api_key(environment)
    try:
        status, body = request(environment, "/metrics", timeout, key)
        if status in (404, 501):
            status, body = request(environment, "/slots", timeout, key)
            return status not in (404, 501, 503) and (
                status != 200 or any(slot["is_processing"] for slot in json.loads(body))
            )
        return status != 503 and (status != 200 or in_flight(body.decode("utf-8", "replace")) != 0)
    except (TimeoutError, socket.timeout):  # two until Python 3.10
        return True
    except OSError:
        return False
    except (http.client.HTTPException, ValueError, TypeError, KeyError, RecursionError):
        return True


def in_flight(metrics: str) -> float:
    """Return the requests that a server works on or has waiting, from its Prometheus text. Raises ValueError."""
    return sum(map(float, re.findall(r"^llamacpp:requests_(?:processing|deferred) (\S+)", metrics, re.MULTILINE)))
