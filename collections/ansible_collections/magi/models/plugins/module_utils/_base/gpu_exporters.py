# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Exporters of GPU metrics, which others install: where they usually are, and how their metrics look. Pure."""

from __future__ import annotations

import re

EXPORTERS = {
    "dcgm": (9400, re.compile(r"^DCGM_FI_\w+", re.MULTILINE)),
    "nvidia": (9835, re.compile(r"^nvidia_smi_\w+", re.MULTILINE)),
    "rocm": (5000, re.compile(r"^(?:amd_)?gpu_\w+\{[^}]*gpu_id=", re.MULTILINE | re.IGNORECASE)),
}
"""By name, the usual port and a pattern for a series: NVIDIA's dcgm-exporter, nvidia_gpu_exporter, and AMD's
device-metrics-exporter."""


def is_of(name: str, text: str) -> bool:
    """Whether an answer of /metrics is one of the exporter."""
    return bool(EXPORTERS[name][1].search(text))
