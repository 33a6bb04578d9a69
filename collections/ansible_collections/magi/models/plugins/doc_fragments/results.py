# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The option of modules that look at everything done on several hosts."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  hosts:
    description:
      - By host, the results of its tasks so far, by name, from P(magi.models.registered#filter).
      - The names are C(settings) for M(magi.models.settings_info), C(registry) for M(magi.models.model_registry),
        C(profile) for M(magi.models.profile_info), C(planned) for M(magi.models.deployment_plan), C(gate) for
        M(magi.models.deployment_gate), C(applied) for M(magi.models.llama_instances), C(after) for
        M(magi.models.model_host_info), and C(asked) for M(ansible.builtin.uri) in a loop over
        P(magi.models.health_questions#filter).
      - A host without any has yet to begin.
    type: dict
    default: {}
"""
