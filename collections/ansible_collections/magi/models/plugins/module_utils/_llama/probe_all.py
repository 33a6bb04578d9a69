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

from ansible_collections.magi.models.plugins.module_utils._llama.client import (
    api_key,
    ask_health,
    ask_router,
    is_router,
    of_model,
    request,
)
from ansible_collections.magi.models.plugins.module_utils._llama.metrics import parse_work
from ansible_collections.magi.models.plugins.module_utils._llama.probe import probe

TIMEOUT = 60
"""Seconds that a server may take."""

_HELP = {
    "magi_probe_success": "Whether the server gave a token, an embedding or a rerank when it was last asked for one.",
    "magi_probe_duration_seconds": "How long that took.",
    "magi_probe_time_seconds": "When it was asked.",
    "magi_probe_answers": "Whether a pool answers: without a model in memory, nothing else tells.",
}


def probe_all(servers: Sequence[Mapping[str, Any]], keys: str = "", timeout: float = TIMEOUT) -> tuple[str, list[str]]:
    """Ask all ``servers`` at the same time, and return metrics for node_exporter's textfile collector, and a sentence
    for each that does not do its work within ``timeout`` seconds.

    Each has ``name``, ``labels`` (as in a series), ``environment`` (asked_at), ``keyed``: the folder ``keys`` has a
    file of its name with its API key, and ``model``: which of a pool's it is, else empty. One that is not ready is left
    out: that is seen without asking it; and so is a model of a pool that is not in memory.
    """
    samples: dict[str, list[str]] = {name: [] for name in _HELP}
    wrong = []
    with ThreadPoolExecutor(max(1, len(servers))) as pool:
        for server, found in zip(servers, pool.map(lambda server: _asked(server, keys, timeout), servers)):
            said, values = found
            for name, value in values.items():
                samples[name].append(f"{name}{server['labels']} {value}\n")
            if said:
                model = f", model {server['model']}" if server["model"] else ""
                wrong.append(f"{server['name']}{model}: {said}.")
    text = "".join(
        f"# HELP {name} {_HELP[name]}\n# TYPE {name} gauge\n" + "".join(lines)
        for name, lines in samples.items()
        if lines
    )
    return text, wrong


def _asked(server: Mapping[str, Any], keys: str, timeout: float) -> tuple[str, dict[str, float]]:
    """Return why a server does not do its work, and what there is to say of it, by metric; nothing of one that is not
    ready."""
    where, model = dict(server["environment"]), server["model"]
    if server["keyed"]:
        where["LLAMA_ARG_API_KEY_FILE"] = str(Path(keys) / server["name"])
    answers = ask_health(where) == 200
    if is_router(where) and not model:
        return "", {"magi_probe_answers": int(answers)}
    if not answers or (model and (ask_router(where) or {}).get(model) != "loaded"):
        return "", {}
    when, begun = int(time.time()), time.monotonic()
    said = probe(where, timeout, model)
    seconds = time.monotonic() - begun
    if seconds >= timeout and _busy(where, timeout, model):
        said = ""
    values = (int(not said), round(seconds, 3), when)
    return said, dict(zip(("magi_probe_success", "magi_probe_duration_seconds", "magi_probe_time_seconds"), values))


def _busy(where: Mapping[str, str], timeout: float, model: str) -> bool:
    """Whether a server works for others, and so let us wait. One that hangs says nothing here, either: what computes
    answers this, too, between its steps."""
    try:
        status, body = request(where, of_model("/metrics", model), timeout, api_key(where))
    except (OSError, HTTPException, ValueError):
        return False
    work = parse_work(body.decode("utf-8", "replace")) if status == 200 else None
    return bool(work and work.busy)


def main() -> None:
    """Ask the servers of the file that is the only argument. Prints metrics, and to the error output what is wrong;
    $CREDENTIALS_DIRECTORY has the keys (systemd.exec(5))."""
    servers = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    text, wrong = probe_all(servers, os.environ.get("CREDENTIALS_DIRECTORY", ""))
    sys.stderr.writelines(f"{sentence}\n" for sentence in wrong)
    sys.stdout.write(text)
