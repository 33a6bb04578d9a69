# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What to do with each instance: what runs, compared with what is desired. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind, State
from ansible_collections.magi.models.plugins.module_utils._host.values import Running
from ansible_collections.magi.models.plugins.module_utils._llama.cause import REPEATED, find_cause
from ansible_collections.magi.models.plugins.module_utils._plan.devices import meant_for
from ansible_collections.magi.models.plugins.module_utils._plan.values import Action, Instance


def decide(
    instances: Iterable[Instance],
    running: Iterable[Running],
    others: Mapping[str, Action],
    *,
    retry: bool = False,
    new: str = "new in this profile",
) -> Iterable[Action]:
    """Yield one action for each instance that is desired or exists, comparing what *runs* with what is desired.

    ``others`` has the actions of instances that exist and are not desired; ``new`` is the reason for one that does not
    exist yet.

    An instance that its service manager gave up on is left alone (quarantine) until something it is made of changes,
    unless ``retry``: a deployment would only crash it again, and wait for it.
    """
    there = {item.name: item for item in running}
    for instance in instances:
        now = there.pop(instance.name, None)
        if now is None:
            yield Action(instance.name, ActionKind.START, new)
        elif now.manager:
            yield Action(instance.name, ActionKind.RESTART, f"moves here from {now.manager}")
        elif now.state == State.ORPHANED:
            yield Action(instance.name, ActionKind.RESTART, f"process {now.pid} runs outside its service manager")
        elif now.config_hash == instance.config_hash and not retry and _fails_again(now):
            why = f"failed with exactly this configuration ({now.exit_status})"
            yield Action(instance.name, ActionKind.QUARANTINE, why)
        elif now.state not in (State.RUNNING, State.STARTING):
            why = f" ({now.exit_status})" if now.exit_status else ""
            yield Action(instance.name, ActionKind.START, f"was {now.state}{why}")
        elif now.config_hash != instance.config_hash:
            yield Action(instance.name, ActionKind.RESTART, _difference(now, instance))
        elif now.keys_changed:
            yield Action(instance.name, ActionKind.RESTART, "its API key file changed after it started")
        elif now.fell_back and meant_for(instance.environment):
            gpus = meant_for(instance.environment)
            yield Action(instance.name, ActionKind.RESTART, f"computes on the CPU, and {gpus} can be used")
        else:
            yield Action(instance.name, ActionKind.KEEP, "asleep, as desired" if now.asleep else "runs as desired")
    for name in sorted(there):
        yield others[name]


def _fails_again(now: Running) -> bool:
    if now.server:  # a worker loads no model by itself
        return False
    return now.state == State.FAILED and find_cause(now.log, now.exit_status).code in REPEATED


def _difference(now: Running, instance: Instance) -> str:
    """Say what differs between the running process and the desired one."""

    def shown(environment: Mapping[str, str]) -> dict[str, str]:
        found = {
            key.removeprefix("LLAMA_ARG_").lower(): value
            for key, value in environment.items()
            if key.startswith("LLAMA_ARG_")
        }
        named = {
            name: environment.get(f"MAGI_{name.upper()}")
            for name in ("api_key_file", "environment", "idle", "resources", "workers")
        }
        return {**found, **{key: value for key, value in named.items() if value}}

    old, new = shown(now.environment), shown(instance.environment)
    for shared, name in (("MAGI_THREADS", "threads"), ("MAGI_PROMPTS", "cache_ram")):
        if shared in instance.environment:
            old.pop(name, None)
            new.pop(name, None)
    changes = [
        f"{key} {old.get(key, 'unset')} → {new.get(key, 'unset')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    return ", ".join(changes) or "its model file, arguments or llama-server changed"
