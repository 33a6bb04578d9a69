# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the actions have in common that run on the controller alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display


class ControllerAction(ActionBase):
    """An action without a connection: arguments and variables in, a result out; ``ERRORS`` become its message."""

    _requires_connection = False
    TRANSFERS_FILES = False
    SPEC: Mapping[str, Any] = {}
    ERRORS: tuple[type[Exception], ...] = ()

    def decide(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        raise NotImplementedError  # each action's own

    def show(self, lines: Sequence[str]) -> None:
        """Print lines for people, whatever callback is set."""
        Display().display("\n".join(lines))

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _checked, arguments = self.validate_argument_spec(self.SPEC)
        try:
            return {**result, "changed": False, **self.decide(arguments, task_vars or {})}
        except self.ERRORS as error:
            raise AnsibleActionFail(str(error)) from None
