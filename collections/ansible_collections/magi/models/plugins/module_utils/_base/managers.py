# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The names of the service managers. Pure."""

from __future__ import annotations

MANAGERS = ("systemd", "supervisor")
"""Those that run programs of the host, in the order of an automatic choice."""
CHOICES = ("auto", *MANAGERS)
ENGINES = ("docker", "podman")
"""Those that run containers. Nothing chooses them by itself."""
SERVER_CHOICES = (*CHOICES, *ENGINES)
"""What runs servers. A gateway runs as a program."""
