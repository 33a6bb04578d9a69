# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How long a deployment waits by default, for the modules and the role. Pure."""

from __future__ import annotations

TIMING = {
    "max_startup_time": {"type": "int", "default": 120},
    "readiness_check_interval": {"type": "int", "default": 2},
    "stop_timeout": {"type": "int", "default": 30},
}
"""Options of modules, in seconds, as an argument specification."""
