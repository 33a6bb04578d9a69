# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A module whose arguments are private: Ansible writes those of others into the host's journal."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule


class PrivateModule(AnsibleModule):  # type: ignore[misc]  # Ansible is not typed
    """Logs nothing but what it tells itself: neither how it was called, with the content of files that are root's
    alone, variables for the servers or a question that was asked, nor anything else. (The option no_log would also take
    these words out of its results.)"""

    def log(self, msg: Any, log_args: Any = None) -> None:
        """Write nothing."""

    def tell(self, line: str) -> None:
        """Write a line into the host's journal."""
        super().log(line)
