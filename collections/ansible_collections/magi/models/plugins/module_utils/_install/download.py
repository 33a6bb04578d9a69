# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Getting a file from the network, going on where an earlier attempt ended; and short answers of an API."""

from __future__ import annotations

import contextlib
import http.client
import re
import threading
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.urls import ConnectionError as RefusedConnection
from ansible.module_utils.urls import open_url

TRIES = 3
BLOCK = 1 << 18


class DownloadError(Exception):
    """A download failed; the message is the reason, without the address."""


def fetch(url: str, *, patience: float, limit: int = 8 << 20) -> bytes:
    """Return the short answer of an API.

    patience: seconds without a byte after which a server counts as gone; twice as many are all that it gets, since the
    resolver and an answer in drops have no limit of their own. limit: most bytes of an answer.
    Raises DownloadError.
    """
    answer: list[bytes | DownloadError] = []

    def ask() -> None:
        try:
            with _opened(url, patience, {"Accept": "application/vnd.github+json"}) as source:
                answer.append(source.read(limit))
        except DownloadError as error:
            answer.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * patience)
    said = answer[0] if answer else DownloadError(f"no whole answer in {2 * patience:.0f} seconds")
    if isinstance(said, DownloadError):
        raise said
    return said


def download(
    url: str, path: Path, *, patience: float, on_progress: Callable[[int, int], None] = lambda received, total: None
) -> None:
    """Write what is at the address into the file; what the file has already is not asked for again.

    A server that stops in the middle is asked for the rest, as long as more arrives, three times at most. What did
    arrive stays in the file. on_progress gets the bytes received and to be received (0: unknown). patience is that of
    fetch. Raises DownloadError, also when the connection ends too early.
    """
    for left in reversed(range(TRIES)):
        before = _size(path)
        try:
            _download(url, path, patience, on_progress)
            return
        except DownloadError:
            if not left or _size(path) <= before:
                raise


def _download(url: str, path: Path, patience: float, on_progress: Callable[[int, int], None]) -> None:
    have = _size(path)
    with (
        contextlib.suppress(_NothingLeft),
        _opened(url, patience, {"Range": f"bytes={have}-"} if have else {}) as source,
    ):
        part = re.match(r"bytes (\d+)-", source.headers.get("Content-Range") or "")
        continues = source.status == 206 and part is not None and int(part[1]) == have
        received = have if continues else 0
        length = source.headers.get("Content-Length")
        total = received + int(length) if length else 0
        with path.open("ab" if continues else "wb") as file:
            for block in iter(lambda: source.read(BLOCK), b""):
                received += file.write(block)
                on_progress(received, total)
        # http.client says nothing of a body that ends before its announced length.
        if received < total:
            raise DownloadError(f"the connection ended after {received} of {total} bytes")
        return
    path.unlink()  # it had more than there is
    _download(url, path, patience, on_progress)


class _NothingLeft(Exception):
    """The file is as long as what is at the address, or longer."""


@contextlib.contextmanager
def _opened(url: str, patience: float, headers: dict[str, str]) -> Iterator[Any]:
    try:
        with open_url(
            url,
            timeout=patience,
            headers=headers,
            http_agent="magi.models",
            follow_redirects="all",
            decompress=False,  # a .tar.gz is wanted as it is, even from a server that calls it a compressed .tar
        ) as source:
            yield source
    except urllib.error.HTTPError as error:
        if error.code == 416:
            raise _NothingLeft from error
        raise DownloadError(_refusal(error)) from error
    except (OSError, ValueError, http.client.HTTPException, RefusedConnection) as error:
        raise DownloadError(str(getattr(error, "reason", None) or error) or type(error).__name__) from error


def _refusal(error: urllib.error.HTTPError) -> str:
    if error.code in (403, 429) and error.headers.get("X-RateLimit-Remaining") == "0":
        return f"HTTP {error.code}: this address has asked too often in the last hour"
    return f"HTTP {error.code} {error.reason}".strip()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
