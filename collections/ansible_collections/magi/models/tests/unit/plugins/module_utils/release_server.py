"""A local server that behaves as GitHub does for a release of llama.cpp: the API that lists the files, the address of each,
which redirects to where it lies, and parts of files on request. And how such a server fails."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import json
import os
import re
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

PROGRAM = b"#!/bin/sh\necho 'version: 7 (abc)'\n"
PIECE = 1 << 14  # a download tells its progress after 256 KiB: 16 of these


def archive(tag: str, program: bytes = PROGRAM, name: str = "llama-server", folder: str = "") -> bytes:
    """Return a release archive that holds one program."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as bundle:
        member = tarfile.TarInfo(f"{folder or f'llama-{tag}'}/{name}")
        member.size, member.mode = len(program), 0o755
        bundle.addfile(member, io.BytesIO(program))
    return buffer.getvalue()


@dataclass
class ReleaseServer:
    """What it has, how it fails, and what it was asked."""

    port: int
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """The content of each file, by tag and name."""
    digests: dict[str, str | None] = field(default_factory=dict)
    """Digests that it publishes instead of the right ones, by name; None: none."""
    answer: bytes | None = None
    """What the API says instead of the release."""
    refusal: tuple[int, dict[str, str]] | None = None
    """Status and headers with which the API refuses to answer."""
    cuts: list[int] = field(default_factory=list)
    """For each of the next downloads, the number of bytes after which it is cut off."""
    until: Callable[[], bool] = lambda: True
    """Until it returns true, a file comes in small pieces, ten a second."""
    ranges: bool = True
    """Whether it sends parts of files."""
    silent: str = ""
    """The beginning of the paths for which it says nothing at all."""
    asked: list[str] = field(default_factory=list)
    """The paths that it was asked for, each with the range if there was one."""
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/repos/ggml-org/llama.cpp"

    def publish(self, tag: str, content: bytes, platform: str = "", name: str = "") -> str:
        """Add an archive to a release, for this machine unless ``platform`` or the whole name says otherwise."""
        machine = {"x86_64": "x64", "aarch64": "arm64"}[os.uname().machine]
        name = name or f"llama-{tag}-bin-{platform or f'ubuntu-{machine}'}.tar.gz"
        self.files.setdefault(tag, {})[name] = content
        return name

    def _listed(self, tag: str) -> dict[str, Any]:
        files = self.files[tag]
        return {
            "tag_name": tag,
            "assets": [
                {
                    "name": name,
                    "size": len(content),
                    "digest": self.digests.get(name, f"sha256:{hashlib.sha256(content).hexdigest()}"),
                    "browser_download_url": f"http://127.0.0.1:{self.port}/releases/download/{tag}/{name}",
                }
                for name, content in files.items()
            ],
        }

    def respond(self, request: http.server.BaseHTTPRequestHandler) -> None:
        path, wanted = request.path, request.headers.get("Range", "")
        self.asked.append(" ".join(filter(None, (path, wanted))))
        if self.silent and path.startswith(self.silent):
            self.ended.wait(60)
            return
        tag = path.split("/")[-2 if "/releases/download/" in path or path.startswith("/assets/") else -1]
        name = path.rpartition("/")[2]
        if path.startswith("/repos/"):
            status, headers = self.refusal or (200 if tag in self.files else 404, {})
            body = self.answer or (json.dumps(self._listed(tag)).encode() if status == 200 else b'{"message": "no"}')
            self._send(request, status, body, {"Content-Type": "application/json", **headers})
        elif name not in self.files.get(tag, {}):
            self._send(request, 404, b"Not Found", {})
        elif path.startswith("/releases/download/"):
            self._send(request, 302, b"", {"Location": f"/assets/{tag}/{name}"})
        else:
            content, start = self.files[tag][name], re.fullmatch(r"bytes=(\d+)-", wanted)
            first = int(start[1]) if start and self.ranges else 0
            if first and first >= len(content):
                self._send(request, 416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            headers = {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"} if first else {}
            cut = self.cuts.pop(0) if self.cuts else None
            self._send(request, 206 if first else 200, content[first:], headers, cut)

    def _send(self, request: Any, status: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
        request.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(key, value)
        request.end_headers()
        body = body[:cut]
        sent = 0
        while sent < len(body) // 2 and not self.until():
            request.wfile.write(body[sent : sent + PIECE])
            sent += PIECE
            time.sleep(0.1)
        request.wfile.write(body[sent:])


@contextlib.contextmanager
def serving() -> Iterator[ReleaseServer]:
    """Run one on a free port of loopback."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            upstream.respond(self)

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    upstream = ReleaseServer(server.server_port)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield upstream
    finally:
        upstream.ended.set()
        server.shutdown()
        server.server_close()
