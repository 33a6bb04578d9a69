# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether an instance serves. Pure."""

from __future__ import annotations

from ansible_collections.magi.models.plugins.module_utils._host.values import Host, Running


def is_ready(now: Running, host: Host) -> bool:
    """Whether an instance of ``host`` serves: /health answers 200, and this instance is the one that answers.

    /v1/models tells by its name; where we can't ask that (we can't read the API keys, or it started with others), the
    listener on its port must be its own process.
    """
    if now.health != 200:
        return False
    if now.model_ids is not None:
        return now.name in now.model_ids
    return any(item.port == now.port and item.instance == now.name for item in host.listeners)
