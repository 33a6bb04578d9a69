# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The GPUs of this host: their device nodes, and who uses how much of their memory."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

DEVICES = Path("/dev")


def gpus() -> tuple[str, ...]:
    """Return the device nodes of GPUs: NVIDIA's (on a Jetson nvhost-gpu or nvgpu, in WSL2 dxg), AMD's compute node, or
    a render node; () without a GPU."""
    patterns = ("nvidia[0-9]*", "nvhost-gpu", "nvgpu", "dxg", "kfd")
    found = sorted(str(path) for pattern in patterns for path in DEVICES.glob(pattern))
    return tuple(found or sorted(str(path) for path in (DEVICES / "dri").glob("renderD*")))


def memory_of_processes() -> dict[int, int]:
    """Return by pid the bytes that processes use of NVIDIA's GPUs, all together; {} where the driver does not tell."""
    found: dict[int, int] = {}
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=10,
            check=True,
        )
        for line in done.stdout.decode("ascii", "replace").splitlines():
            pid, _comma, used = (part.strip() for part in line.partition(","))
            if pid.isdecimal() and used.isdecimal():  # [N/A] in a container
                found[int(pid)] = found.get(int(pid), 0) + (int(used) << 20)
    return found
