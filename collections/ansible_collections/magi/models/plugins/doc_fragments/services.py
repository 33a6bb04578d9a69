# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of modules that look at a host's services."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  home:
    description: Folder of the instance files and of the applied state.
    type: path
    required: true
  manager:
    description: The service manager; V(auto) takes systemd where it is PID 1, else supervisor.
    type: str
    choices: [auto, systemd, supervisor, docker, podman]
    default: auto
  supervisord_path:
    description: The supervisord program, for O(manager=supervisor).
    type: path
    default: supervisord
notes:
  - This module is in the action group C(magi.models.services), so C(module_defaults) can set O(home), O(manager) and
    O(supervisord_path) once.
"""
