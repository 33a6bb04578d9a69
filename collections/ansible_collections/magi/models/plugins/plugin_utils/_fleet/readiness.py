# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether an instance serves, and why not though it is healthy. Pure."""

from __future__ import annotations

from ansible_collections.magi.models.plugins.module_utils._host.values import Host, Running
from ansible_collections.magi.models.plugins.module_utils._llama.cause import (
    Cause,
    find_cause,
    not_on_device,
    wrong_server,
)
from ansible_collections.magi.models.plugins.module_utils._plan.pool import models_of


def is_ready(now: Running, host: Host) -> bool:
    """Whether an instance of ``host`` serves: /health answers 200, and nothing is wrong all the same."""
    return now.health == 200 and wrong_though_healthy(now, host) is None


def wrong_though_healthy(now: Running, host: Host) -> Cause | None:
    """Return why an instance that answers /health with 200 does not count as ready, or None: another process is the one
    that answers, or it computes on the CPU and should on a GPU.

    /v1/models tells by its name; where we can't ask that (we can't read the API keys, or it started with others), the
    listener on its port must be its own process.
    """
    if now.model_ids is not None:
        names = {item["model"] for item in models_of(now.environment)} or {now.name}
        own = names <= {*now.model_ids}
    else:
        own = any(item.port == now.port and item.instance == now.name for item in host.listeners)
    if not own:
        return wrong_server(now.name, now.model_ids or ())
    return not_on_device(now.environment.get("MAGI_GPU", "the GPU"), now.fell_back) if now.fell_back else None


def lost_device(now: Running) -> Cause | None:
    """Return the cause of an instance that does not run since its start did not find the GPU that it is told to use, or
    None."""
    cause = find_cause(now.log, now.exit_status) if now.log and not now.pid else None
    return cause if cause and cause.code == "device_missing" else None
