# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asking the servers of a host whether they do their work, for Prometheus: a program of its own, which a timer runs."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._llama.client import api_key, ask_health, request
from ansible_collections.magi.models.plugins.module_utils._llama.metrics import parse_work
from ansible_collections.magi.models.plugins.module_utils._llama.probe import probe

TIMEOUT = 60
"""Seconds that a server may take."""

_HELP = {
    "magi_probe_success": "Whether the server gave a token, an embedding or a rerank when it was last asked for one.",
    "magi_probe_duration_seconds": "How long that took.",
    "magi_probe_time_seconds": "When it was asked.",
}


def probe_all(servers: Sequence[Mapping[str, Any]], keys: str = "", timeout: float = TIMEOUT) -> tuple[str, list[str]]:
    """Ask all ``servers`` at the same time, and return metrics for node_exporter's textfile collector, and a sentence
    for each that does not do its work within ``timeout`` seconds.

    Each has ``name``, ``labels`` (as in a series), ``environment`` (asked_at), and ``keyed``: the folder ``keys`` has a
    file of its name with its API key. One that is not ready is left out: that is seen without asking it.
    """
    samples: dict[str, list[str]] = {name: [] for name in _HELP}
    wrong = []
    with ThreadPoolExecutor(max(1, len(servers))) as pool:
        for server, found in zip(servers, pool.map(lambda server: _asked(server, keys, timeout), servers)):
            if found:
                said, *values = found
                for name, value in zip(samples, (int(not said), *values)):
                    samples[name].append(f"{name}{server['labels']} {value}\n")
                if said:
                    wrong.append(f"{server['name']}: {said}.")
    text = "".join(
        f"# HELP {name} {_HELP[name]}\n# TYPE {name} gauge\n" + "".join(lines)
        for name, lines in samples.items()
        if lines
    )
    return text, wrong


def _asked(server: Mapping[str, Any], keys: str, timeout: float) -> tuple[str, float, int] | None:
    """Return why a server does not do its work, how long it took to find that out, and when; None: it is not ready."""
    where = dict(server["environment"])
    if server["keyed"]:
        where["LLAMA_ARG_API_KEY_FILE"] = str(Path(keys) / server["name"])
    if ask_health(where) != 200:
        return None
    when, begun = int(time.time()), time.monotonic()
    said = probe(where, timeout)
    seconds = time.monotonic() - begun
    if seconds >= timeout and _busy(where, timeout):
        said = ""
    return said, round(seconds, 3), when


def _busy(where: Mapping[str, str], timeout: float) -> bool:
    """Whether a server works for others, and so let us wait. One that hangs says nothing here, either: what computes
    answers this, too, between its steps."""
    try:
        status, body = request(where, "/metrics", timeout, api_key(where))
    except (OSError, HTTPException, ValueError):
        return False
    work = parse_work(body.decode("utf-8", "replace")) if status == 200 else None
    return bool(work and work.busy)


def main() -> None:
    """Ask the servers of the file that is the only argument. Prints metrics, and to the error output what is wrong;
    $CREDENTIALS_DIRECTORY has the keys (systemd.exec(5))."""
    servers = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    text, wrong = probe_all(servers, os.environ.get("CREDENTIALS_DIRECTORY", ""))
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    print(text, end="")
