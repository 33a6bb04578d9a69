# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Sharing a host's cores among its instances."""

from __future__ import annotations

from collections.abc import Sequence


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
