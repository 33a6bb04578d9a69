# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A host as it is for one more server: beside what runs there, and if nothing of ours did. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ansible_collections.magi.models.plugins.module_utils._host.values import Host
from ansible_collections.magi.models.plugins.module_utils._llama.need import HOST
from ansible_collections.magi.models.plugins.module_utils._llama.options import Binary
from ansible_collections.magi.models.plugins.module_utils._plan.ledger import held, planned_need


def without_ours(host: Host) -> Binary | None:
    """Return the binary of ``host`` with the memory of its devices that others leave: what is free, and what our
    servers hold. So it holds for looks that ask no device, too."""
    if host.binary is None:
        return None
    ours = [(item, planned_need(item.environment)) for item in host.instances if item.pid]
    memory = {
        device: (total, min(free + sum(held(item, need, device) for item, need in ours), total))
        for device, (total, free) in host.binary.device_memory.items()
    }
    return replace(host.binary, device_memory=memory)


def beside(host: Host) -> Host:
    """Return ``host``, whose binary is without_ours, with what all that runs there leaves, once each of these has all
    that it needs; and without them."""
    needs = [(item, planned_need(item.environment)) for item in host.instances if item.pid]
    own = sum(max(need.own[HOST] - (item.own_memory or 0), 0) for item, need in needs if need)
    gpus = {
        device: (total, free - sum(need.own.get(device, 0) for _item, need in needs if need))
        for device, (total, free) in _memory(host).items()
    }
    return _with(host, -own, gpus)


def alone(host: Host) -> Host:
    """Return ``host``, whose binary is without_ours, as if nothing of ours ran there."""
    return _with(host, sum(item.own_memory or 0 for item in host.instances if item.pid), _memory(host))


def _memory(host: Host) -> Mapping[str, tuple[int, int]]:
    return host.binary.device_memory if host.binary else {}


def _with(host: Host, more: int, gpus: Mapping[str, tuple[int, int]]) -> Host:
    there = None if host.available_bytes is None else min(host.available_bytes + more, host.memory_bytes)
    binary = host.binary and replace(host.binary, device_memory=gpus)
    return replace(host, available_bytes=there, binary=binary, instances=(), listeners=())
