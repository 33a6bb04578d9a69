# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the servers of a host do, looked at again and again."""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.gpus import memory_of_processes
from ansible_collections.magi.models.plugins.module_utils._host.inspect import asked_at, none_loaded
from ansible_collections.magi.models.plugins.module_utils._host.procfs import children, listening_sockets, used_memory
from ansible_collections.magi.models.plugins.module_utils._host.values import WORKER
from ansible_collections.magi.models.plugins.module_utils._llama.client import (
    api_key,
    ask_router,
    get,
    is_router,
    of_model,
    port_of,
)
from ansible_collections.magi.models.plugins.module_utils._llama.metrics import Work, parse_work
from ansible_collections.magi.models.plugins.module_utils._services.manager import ServiceManager
from ansible_collections.magi.models.plugins.module_utils._services.values import Status

WINDOW = 10
"""Seconds over which a rate is a mean."""
MEMORY_AGE = 10
"""Seconds after which memory is read again: for a large model, that is work for the kernel."""


class ServerWatch:
    """The servers of ``home``, without workers, which say nothing of what they do.

    A server is asked for /metrics and /props. Neither wakes it, or counts as use (llama.cpp
    tools/server/server-context.cpp, create_response(true)); /slots would.
    """

    def __init__(self, manager: ServiceManager, home: str):
        self.manager = manager
        self.home = home
        self.counted: dict[tuple[str, int, str], deque[tuple[float, float]]] = {}
        self.memory: dict[int, int | None] = {}
        self.memory_read = -float(MEMORY_AGE)

    def read(self) -> list[dict[str, Any]]:
        """Return what each server does now. Raises ServiceError when the service manager can't be asked."""
        status, sockets = self.manager.status(), listening_sockets()
        where = {name: asked_at(self.home, name, item, sockets) for name, item in status.items()}
        status = {name: item for name, item in status.items() if WORKER not in where[name]}
        pids = {item.pid for item in status.values() if item.pid}
        self.counted = {key: seen for key, seen in self.counted.items() if key[1] in pids}
        if time.monotonic() - self.memory_read >= MEMORY_AGE or pids - self.memory.keys():
            on_gpus = memory_of_processes() if any("MAGI_GPU" in item for item in where.values()) else {}
            pools = {item.pid for name, item in status.items() if item.pid and is_router(where[name])}
            every = {pid: [pid, *(children(pid) if pid in pools else ())] for pid in pids}
            self.memory = {
                pid: _sum(size for each in own for size in (used_memory(each), on_gpus.get(each)))
                for pid, own in every.items()
            }
            self.memory_read = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(lambda name: self._read(name, status[name], where[name]), sorted(status)))

    def _read(self, name: str, item: Status, where: Mapping[str, str]) -> dict[str, Any]:
        models: Mapping[str, str] | None = None
        code, asked = 0, [""] if item.pid and port_of(where) else []
        if asked and is_router(where):
            models = ask_router(where)
            asked = [model for model, state in (models or {}).items() if state == "loaded"]
            code = 0 if models is None else 200
        works, slots, rates = [], [], []
        for model in asked:
            status, body = get(where, of_model("/metrics", model), api_key(where))
            code = code if model else status
            work = parse_work(body.decode("utf-8", "replace")) if status == 200 else None
            if work:
                works.append(work)
                props = _props(where, model)
                slots.append(props.get("total_slots"))
                rates.append(self._rate((name, item.pid or 0, model), work))
        return {
            "instance": name,
            "model_id": where.get("MAGI_MODEL_ID", ""),
            "port": port_of(where),
            "state": item.state.value,
            "pid": item.pid,
            "status": code,
            "asleep": none_loaded(models) if models is not None else bool(works) and props.get("is_sleeping") is True,
            "busy": _sum(work.busy for work in works),
            "slots": _sum(slots),
            "waiting": _sum(work.waiting for work in works),
            "tokens_per_second": _sum(rates),
            "memory": self.memory.get(item.pid) if item.pid else None,
        }

    def _rate(self, key: tuple[str, int, str], work: Work) -> float | None:
        """Return how many tokens a second it wrote within the window; None at the first look."""
        now = time.monotonic()
        seen = self.counted.setdefault(key, deque())
        seen.append((now, work.steps))
        while len(seen) > 2 and seen[1][0] <= now - WINDOW:
            seen.popleft()
        (since, before), *rest = seen
        return max(0.0, work.steps - before) / (now - since) if rest else None


def _props(where: Mapping[str, str], model: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(get(where, of_model("/props", model), api_key(where))[1])
        return found if isinstance(found, dict) else {}
    return {}


def _sum(parts: Iterable[Any]) -> Any:
    known = [part for part in parts if part is not None]
    return sum(known) if known else None
