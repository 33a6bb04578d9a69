# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The cores of a host, shared among its instances. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._host.values import Host, Running


def share_cores(cores: int, claims: Sequence[int | None]) -> list[int]:
    """Return the threads of each instance: its own claim, else an equal share of what the claims leave, at least 1.

    llama-server takes all cores by default, and several of them on one host starve each other: OpenMP's threads spin
    while they wait for a core that another server's threads hold.
    """
    sharing = [i for i, claim in enumerate(claims) if claim is None]
    left = max(cores - sum(claim for claim in claims if claim is not None), len(sharing))
    shares = [claim or 0 for claim in claims]
    for position, i in enumerate(sharing):
        shares[i] = left // len(sharing) + (position < left % len(sharing))
    return shares


def share_threads(
    resolved: Sequence[Mapping[str, Any]], host: Host, beside: Sequence[Running] = ()
) -> list[int | None]:
    """Return the threads of ``host`` that each instance gets; None: its options or a GPU decide.

    ``beside`` are instances that run on as they are.
    """
    shares = share_cores(host.cores, [*(_claim(options, host) for options in resolved), *map(_claim_of, beside)])
    return [
        None if "threads" in options or on_gpu(options, host) else share for options, share in zip(resolved, shares)
    ]


def for_gpu(options: Mapping[str, Any]) -> bool:
    """Whether an instance with ``options`` computes on a GPU where there is one."""
    return str(options.get("n_gpu_layers", "auto")) != "0" and options.get("device") != "none"


def on_gpu(options: Mapping[str, Any], host: Host) -> bool:
    return host.gpu and for_gpu(options)


def _claim(options: Mapping[str, Any], host: Host) -> int | None:
    """The cores that the instance claims; None: it shares. One that computes on a GPU keeps one core busy."""
    if "threads" in options:
        return max(int(options["threads"]), 0) if str(options["threads"]).lstrip("-").isdigit() else 0
    return 1 if on_gpu(options, host) else None


def _claim_of(item: Running) -> int | None:
    """The cores that a running instance takes; None: it shares."""
    threads = item.environment.get("LLAMA_ARG_THREADS") or item.environment.get("MAGI_POOL_THREADS", "")
    return None if "MAGI_THREADS" in item.environment else int(threads) if threads.isdecimal() else 1
