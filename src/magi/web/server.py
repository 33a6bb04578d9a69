"""Serving the application, until a signal ends it: no run of Ansible is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator

import uvicorn

from magi.errors import UsageError
from magi.web.app import application
from magi.web.service import Service

PATIENCE = 5
"""Seconds that clients have to take their answers at the end."""


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, service: Service):
        super().__init__(config)
        self._service = service

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Within the block, signals end the service: its streams and its runs first, which connections wait for."""
        loop = asyncio.get_running_loop()
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # set so by nohup(1)
            numbers.append(signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self._end)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _end(self) -> None:
        self.should_exit = True
        self._service.close()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there. Raises UsageError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise UsageError(
            f"magi serve can't listen on {host}, port {port} ({error.strerror or error}): give others with --host and "
            "--port."
        ) from None


def configuration(service: Service, root_path: str = "") -> uvicorn.Config:
    """Return how the application is served; ``root_path`` is where a proxy serves it, which takes that away."""
    return uvicorn.Config(
        application(service),
        root_path=root_path,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=PATIENCE,
    )


def serve(service: Service, listening: socket.socket, root_path: str = "") -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP."""
    _Server(configuration(service, root_path), service).run(sockets=[listening])
