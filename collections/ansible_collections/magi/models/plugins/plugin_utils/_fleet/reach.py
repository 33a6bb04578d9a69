# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What to do about a host that Ansible did not reach. Pure."""

from __future__ import annotations


def way_to_reach(said: str, otherwise: str) -> str:
    """Return what to do about a host that Ansible did not reach; ``said`` is its message, in the words of ssh(1)."""
    if "Host key verification failed" in said:
        return "compare its host key with the one in known_hosts, and record the right one there"
    return otherwise
