# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Getting a file from the network whole, or not at all."""

from __future__ import annotations

import http.client
from pathlib import Path

from ansible.module_utils.urls import open_url

TIMEOUT = 60
"""After so many seconds without a byte, a server counts as gone."""


class DownloadError(Exception):
    """A download failed; the message is the reason, without the address."""


def download(url: str, path: Path) -> None:
    """Write what is at the address into the file. Raises DownloadError, also when the connection ends too early."""
    try:
        with (
            open_url(url, timeout=TIMEOUT, http_agent="magi.models", follow_redirects="all") as source,
            path.open("wb") as file,
        ):
            # http.client says nothing of a body that ends before its announced length.
            length, received = source.headers.get("Content-Length"), 0
            for block in iter(lambda: source.read(1 << 20), b""):
                received += file.write(block)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise DownloadError(str(getattr(error, "reason", None) or error) or type(error).__name__) from error
    if length and received != int(length):
        raise DownloadError(f"the connection ended after {received} of {length} bytes")
