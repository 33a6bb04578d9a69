# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The GPUs of this host, by their device nodes."""

from __future__ import annotations

from pathlib import Path

DEVICES = Path("/dev")


def gpus() -> tuple[str, ...]:
    """Return the device nodes of GPUs: NVIDIA's (on a Jetson nvhost-gpu or nvgpu, in WSL2 dxg), AMD's compute node, or
    a render node; () without a GPU."""
    patterns = ("nvidia[0-9]*", "nvhost-gpu", "nvgpu", "dxg", "kfd")
    found = sorted(str(path) for pattern in patterns for path in DEVICES.glob(pattern))
    return tuple(found or sorted(str(path) for path in (DEVICES / "dri").glob("renderD*")))
