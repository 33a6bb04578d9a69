# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Waiting until instances are ready, or have failed for good."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from ansible_collections.magi.models.plugins.module_utils._base.states import State
from ansible_collections.magi.models.plugins.module_utils._host import procfs
from ansible_collections.magi.models.plugins.module_utils._host.values import WORKER
from ansible_collections.magi.models.plugins.module_utils._llama.client import ask_health, port_of
from ansible_collections.magi.models.plugins.module_utils._services.manager import ServiceManager, environment_file
from ansible_collections.magi.models.plugins.module_utils._services.values import Status


def await_ready(
    manager: ServiceManager, home: str, names: Iterable[str], seconds: float, interval: float
) -> dict[str, tuple[Status, int]]:
    """Wait up to ``seconds`` until each of the instances is ready, or has failed for good; return by name what its
    manager says and what it answered at /health (0: it does not listen, or gave no answer).

    Only instances that listen in a process of their own are asked; llama-server listens before it loads the model. A
    worker that listens is ready (200).
    While all answer, the manager is not asked. It repeats a failed start up to its limit, so only its verdict counts.
    Looks at once, then less and less often, but at least every ``interval`` seconds.
    """
    waiting = {name: environment_file(home, name) for name in names}
    kernel_tells = (procfs.PROC / "net" / "tcp").exists()
    listening: set[str] = set()
    found = {name: (Status(State.STOPPED), 0) for name in waiting}
    begun, pause = time.monotonic(), 0.2

    with ThreadPoolExecutor(max(1, len(waiting))) as pool:
        while waiting:
            if not all(found[name][1] for name in waiting):
                status = manager.status()
                found.update({name: (status.get(name, Status(State.STOPPED)), 0) for name in waiting})
                # A container's socket is in a network of its own, and no kernel tells without /proc: there, the port's
                # answer must do, with the manager's word that it runs.
                if not kernel_tells or manager.capabilities.image:
                    listening = {name for name in waiting if found[name][0].pid}
                silent = {port_of(waiting[name]): name for name in waiting.keys() - listening}
                for item in procfs.read_listeners(silent, {}) if silent else ():
                    if item.pid and item.pid == found[silent[item.port]][0].pid:
                        listening.add(silent[item.port])
                pause = min(pause * 1.5, interval)
            asked = sorted(listening & waiting.keys())
            for name, health in zip(asked, pool.map(_health, (waiting[name] for name in asked))):
                found[name] = found[name][0], health
            waiting = {
                name: environment
                for name, environment in waiting.items()
                if found[name][1] != 200 and found[name][0].state not in (State.FAILED, State.STOPPED)
            }
            elapsed = time.monotonic() - begun
            if elapsed >= seconds:
                break
            answer = all(found[name][1] for name in waiting)
            again = min(max(0.1, elapsed / 20), interval) if answer else pause  # an answer costs next to nothing
            time.sleep(min(again, seconds - elapsed) if waiting else 0)
    return found


def _health(environment: Mapping[str, str]) -> int:
    return 200 if WORKER in environment else ask_health(environment)
