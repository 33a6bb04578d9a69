# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How many cores this process may use: the basis for a scan's workers and for the plan's share."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def cores() -> int:
    """Return the cores this process may use: its affinity, and the quota of its control group (cgroup v2 or v1)."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        count = os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, int(quota) // int(period)))
    with contextlib.suppress(OSError, ValueError):
        folder = Path("/sys/fs/cgroup/cpu")
        quota_us = int((folder / "cpu.cfs_quota_us").read_text())
        if quota_us > 0:
            count = min(count, max(1, quota_us // int((folder / "cpu.cfs_period_us").read_text())))
    return count
