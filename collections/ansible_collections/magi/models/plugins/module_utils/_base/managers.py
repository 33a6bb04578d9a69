# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The names of the service managers, in the order of an automatic choice. Pure."""

from __future__ import annotations

MANAGERS = ("systemd", "supervisor")
CHOICES = ("auto", *MANAGERS)
