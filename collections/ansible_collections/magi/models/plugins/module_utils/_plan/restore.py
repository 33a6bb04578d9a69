# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The plan of a rollback: what an earlier deployment made of a host, once more. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ansible_collections.magi.models.plugins.module_utils._base.states import ActionKind
from ansible_collections.magi.models.plugins.module_utils._host.values import Generation, Host, foreign_listeners
from ansible_collections.magi.models.plugins.module_utils._models.model import FileVersion, Inventory
from ansible_collections.magi.models.plugins.module_utils._plan.actions import decide
from ansible_collections.magi.models.plugins.module_utils._plan.instance import config_hash
from ansible_collections.magi.models.plugins.module_utils._plan.leave import kept_instance
from ansible_collections.magi.models.plugins.module_utils._plan.ports import owner
from ansible_collections.magi.models.plugins.module_utils._plan.values import (
    Action,
    Instance,
    Plan,
    PlanError,
    Remembered,
    Settings,
)


def restored_plan(
    *,
    host_name: str,
    history: Sequence[Remembered],
    undone: float,
    inventory: Inventory,
    host: Host,
    settings: Settings,
) -> Plan:
    """Return the plan that takes back the deployment that began at ``undone``; on a host that it did not change, one
    that keeps what is there. ``history`` has the oldest first.

    Raises PlanError if there is nothing to go back to, or it can't run any more.
    """
    now = host.generation
    if now.began_at != undone:
        return _as_it_is(host_name, inventory, host)
    target = _before(host_name, history, now)
    plan, what = target.plan, f"generation {target.generation.number} (profile {target.generation.profile})"
    if plan.manager != host.manager:
        raise PlanError(
            f"Host {host_name}: {what} ran by {plan.manager}, and model_server_manager is {host.manager} now; set it "
            "back, then run again."
        )
    wanted = (*plan.instances, *plan.workers)
    desired = {item.name for item in wanted}
    running = {item.name for item in host.instances if item.pid}
    kept = tuple(item for item in plan.kept if item.name in running)
    ran_on = {item.name for item in kept}
    others = {
        item.name: Action(item.name, ActionKind.KEEP, f"ran on as it was in {what}")
        if item.name in ran_on
        else Action(item.name, ActionKind.STOP, f"not in {what}")
        for item in host.instances
        if item.name not in desired
    }
    actions = tuple(decide(wanted, host.instances, others, retry=settings.retry_quarantined, new=f"in {what}"))
    launched = {item.instance for item in actions if item.action in (ActionKind.START, ActionKind.RESTART)}
    lacking = [*_lacking([item for item in wanted if item.name in launched], inventory, host)]
    if launched and not target.runnable:
        lacking.insert(0, f"its llama-server {plan.llama_server_path} is gone")
    if lacking:
        raise PlanError(
            f"Host {host_name}: {what} can't be brought back: {'; '.join(lacking)}. Put back what is missing, or "
            "deploy a profile."
        )
    same_binary = host.binary is not None and host.binary.path == plan.llama_server_path
    notes = [
        f"{item.name}: its model file or llama-server is another than then."
        for item in plan.instances
        if same_binary and not all(_as_then(part, inventory, host) for part in item.each)
    ]
    return replace(
        plan,
        generation=now,
        actions=actions,
        kept=kept,
        models_discovered=len(inventory.models),
        notes=(f"brings back {what}.", *notes),
        restores=target.generation.began_at,
    )


def _as_it_is(host_name: str, inventory: Inventory, host: Host) -> Plan:
    """Return the plan of a host that the deployment which is taken back did not change."""
    kept = tuple(kept_instance(item) for item in host.instances if item.pid and not item.server)
    return Plan(
        host=host_name,
        profile=host.generation.profile,
        manager=host.manager,
        home=host.home,
        llama_server_path=host.binary.path if host.binary else "",
        generation=host.generation,
        instances=(),
        actions=tuple(Action(item.name, ActionKind.KEEP, "not part of what is taken back") for item in host.instances),
        models_discovered=len(inventory.models),
        models_enabled=len({item.model_id for item in kept}),
        kept=kept,
        restores=host.generation.began_at,
    )


def _before(host_name: str, history: Sequence[Remembered], now: Generation) -> Remembered:
    """Return what ran before ``now``."""
    earlier = [item for item in history if item.generation.began_at < now.began_at]
    if earlier:
        return earlier[-1]
    if not now.number:
        raise PlanError(f"Host {host_name}: nothing was deployed here, so there is nothing to go back to.")
    raise PlanError(
        f"Host {host_name}: there is no generation before this one (profile {now.profile}, {now.applied_at}) any more, "
        "or there never was one: a host keeps the last three. Deploy a profile instead."
    )


def _lacking(instances: Iterable[Instance], inventory: Inventory, host: Host) -> Iterable[str]:
    """Yield what keeps ``instances`` from running as they did."""
    paths = {path for model in inventory.models for path in (model.path, *model.duplicates)}
    # The present llama-server may be another than theirs.
    paths |= {item.path for item in inventory.rejected if item.code == "unknown_architecture"}
    for item in instances:
        for part in item.each:
            if part.model_path and part.model_path not in paths:
                aside = next(
                    (f" ({x.reason.rstrip('.')})" for x in inventory.rejected if x.path == part.model_path), ""
                )
                yield f"{part.model_path}, the model of {part.name}, is gone or set aside{aside}"
        holder = foreign_listeners(host.listeners, item.address).get(item.port)
        if holder:
            yield f"port {item.port} of {item.name} is taken by {owner(holder)}"


def _as_then(instance: Instance, inventory: Inventory, host: Host) -> bool:
    """Whether the files and the llama-server of ``instance`` are those that it was made of, as far as we can tell."""
    model = next((x for x in inventory.models if instance.model_path in (x.path, *x.duplicates)), None)
    if model is None or host.binary is None:
        return True
    environment = {key: value for key, value in instance.environment.items() if key != "MAGI_CONFIG_HASH"}
    projector: tuple[FileVersion, ...] = (model.mmproj,) if model.mmproj else ()
    made = {
        config_hash(environment, instance.extra_args, files, host.binary)
        for files in (model.files, (*model.files, *projector))
    }
    return instance.config_hash in made
