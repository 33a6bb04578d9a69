# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asking a llama-server on this host over HTTP."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from ansible_collections.magi.models.plugins.module_utils._base.addresses import reachable

if TYPE_CHECKING:
    from http.client import HTTPConnection


class _Bounded(io.RawIOBase):
    """What comes over a connection before a deadline; with a limit for each wait alone, a byte now and then would hold
    us up."""

    def __init__(self, connected: socket.socket, deadline: float):
        self.connected = connected
        self.deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self.connected.settimeout(left)
        return self.connected.recv_into(buffer)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)


def connection_to(environment: Mapping[str, str], timeout: float) -> HTTPConnection:
    """Return a connection to the server of ``environment``, whose host may be the path of a Unix socket. Raises
    OSError."""
    from http.client import HTTPConnection

    host = environment.get("LLAMA_ARG_HOST", "127.0.0.1")
    if not host.startswith("/"):
        return HTTPConnection(reachable(host), port_of(environment) or 0, timeout=timeout)
    connection = HTTPConnection("localhost", timeout=timeout)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(timeout)
    connection.sock.connect(host)
    return connection


def request(
    environment: Mapping[str, str], path: str, timeout: float = 2, key: bytes | None = None, body: Any = None
) -> tuple[int, bytes]:
    """Return status and at most 1 MiB of body of a GET to the server of ``environment`` (asked_at); with a ``body``, of
    a POST of it as JSON.

    Connecting may take ``timeout`` seconds, and the answer as long again. Raises OSError without an answer, also on
    time-out; HTTPException or ValueError for an answer that is not HTTP.
    """
    # With what it needs, a fifth of our imports, and the first look at a host asks no server. (By name: several threads
    # ask servers, and for a moment http has no attribute client yet, though the module is there.)
    from http.client import HTTPResponse

    connection = connection_to(environment, timeout)
    try:
        headers: dict[str, str | bytes] = {"Authorization": b"Bearer " + key} if key else {}
        if body is None:
            connection.request("GET", path, headers=headers)
        else:
            connection.request("POST", path, json.dumps(body), {**headers, "Content-Type": "application/json"})
        bounded = cast(
            socket.socket, _Bounded(connection.sock, time.monotonic() + timeout)
        )  # makefile() is all it needs
        response = HTTPResponse(bounded, method="GET" if body is None else "POST")
        response.begin()
        return response.status, response.read(1 << 20)
    finally:
        connection.close()


def get(environment: Mapping[str, str], path: str, key: bytes | None = None) -> tuple[int, bytes]:
    """Return what ``request`` does; status 0: no answer in two seconds, or one that is not HTTP."""
    from http.client import HTTPException

    try:
        return request(environment, path, key=key)
    except (OSError, HTTPException, ValueError):
        return 0, b""


def port_of(environment: Mapping[str, str]) -> int | None:
    """Return the port in an environment; None if it has none, or an impossible one."""
    port = environment.get("LLAMA_ARG_PORT", "")
    return int(port) if port.isdecimal() and len(port) <= 5 and 0 < int(port) <= 65535 else None


def api_key(environment: Mapping[str, str]) -> bytes | None:
    """Return the first key of the instance's key file, as llama-server reads it: one a line, # starts a comment.

    The copy that the service manager handed to the server at its start comes first: like the server, it still has the
    old key if the file has changed since.
    """
    for variable in ("LLAMA_ARG_API_KEY_FILE", "MAGI_API_KEY_FILE"):
        with contextlib.suppress(OSError, KeyError, ValueError):
            for line in Path(environment[variable]).read_bytes().split(b"\n"):
                if line and not line.startswith(b"#"):
                    return line
    return None


def ask_health(environment: Mapping[str, str]) -> int:
    """Return the server's HTTP status at /health: 200 ready, 503 loading, 0 no answer in time."""
    return get(environment, "/health")[0]


def ask_asleep(environment: Mapping[str, str]) -> bool:
    """Whether the server sleeps (--sleep-idle-seconds). Asking it at /props, /health, /metrics or /v1/models neither
    wakes it nor puts its sleep off; all else does (llama.cpp tools/server/server-context.cpp, ``create_response``)."""
    status, body = get(environment, "/props", api_key(environment))
    if status == 200:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            return json.loads(body)["is_sleeping"] is True
    return False


def is_router(environment: Mapping[str, str]) -> bool:
    """Whether a server is in router mode: it starts others for its models when they are asked for."""
    return "LLAMA_ARG_MODELS_PRESET" in environment


def of_model(path: str, model: str = "") -> str:
    """Return ``path`` of a router for one ``model``, which is not loaded for that (llama.cpp
    tools/server/server-models.cpp, is_autoload)."""
    return f"{path}?model={quote(model, safe='')}&autoload=false" if model else path


def ask_router(environment: Mapping[str, str]) -> dict[str, str] | None:
    """Return what a server in router mode says of each of its models, by id: unloaded, loading, loaded, sleeping, or
    failed; None without an answer. This loads none, and does not count as use."""
    status, body = get(environment, "/v1/models", api_key(environment))
    if status == 200:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            said = {str(item["id"]): item["status"] for item in json.loads(body)["data"]}
            return {name: "failed" if now.get("failed") else str(now["value"]) for name, now in said.items()}
    return None


def ask_models(environment: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the names of models that the server lists at /v1/models; None without such a list for an answer.

    The id there is the first of the aliases as they are sorted, not as they were given.
    """
    status, body = get(environment, "/v1/models", api_key(environment))
    if status == 200:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            items = json.loads(body)["data"]
            return tuple(dict.fromkeys(str(name) for x in items for name in (x["id"], *x.get("aliases", ()))))
    return None
