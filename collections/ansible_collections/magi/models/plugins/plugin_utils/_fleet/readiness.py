# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether an instance serves. Pure."""

from __future__ import annotations

from ansible_collections.magi.models.plugins.module_utils._host.values import Host, Running


def is_ready(now: Running, host: Host) -> bool:
    """Whether an instance of ``host`` serves: /health answers 200, and it is this instance that answers.

    /v1/models tells by its name; where that can't be asked (the API keys can't be read, or are not those that it
    started with), the listener on its port must be its own process.
    """
    if now.health != 200:
        return False
    if now.model_ids is not None:
        return now.name in now.model_ids
    return any(item.port == now.port and item.instance == now.name for item in host.listeners)
