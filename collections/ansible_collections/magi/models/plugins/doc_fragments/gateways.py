# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of modules that look at a gateway."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  home:
    description: Folder of the gateway's configuration. It belongs to the gateway alone.
    type: path
    required: true
  manager:
    description: The service manager; V(auto) takes systemd where it is PID 1, else supervisor.
    type: str
    choices: [auto, systemd, supervisor]
    default: auto
notes:
  - This module is in the action group C(magi.models.gateways), so C(module_defaults) can set O(home) and O(manager)
    once.
"""

    # What changes a gateway needs the programs, too.
    PROGRAMS = r"""
options:
  supervisord_path:
    description: The supervisord program, for O(manager=supervisor).
    type: path
    default: supervisord
  haproxy_path:
    description: The HAProxy program, 2.4 of 2022 or later.
    type: path
    default: /usr/sbin/haproxy
"""
