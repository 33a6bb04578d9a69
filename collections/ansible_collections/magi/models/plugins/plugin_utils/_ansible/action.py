# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What our action plugins share."""

from __future__ import annotations

import contextlib
import gc
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

TARGET_PYTHON = (3, 9)
"""The oldest Python for our modules."""


class HostAction(ActionBase):
    """An action that runs our modules on its host, and names the host in their failures."""

    TRANSFERS_FILES = False

    def on_host(self, module: str, arguments: Mapping[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Return the result of ``module`` (without its namespace) on the host."""
        variables = task_vars or {}
        name = f"magi.models.{module}"
        with without_collector():
            result: dict[str, Any] = self._execute_module(name, module_args=dict(arguments), task_vars=variables)
        if result.get("failed"):
            host = f"Host {variables['inventory_hostname']}: "
            # Our modules fail with a message; if one can't even run, Ansible takes the exception's last line for it.
            python = None if _ran(result) else self._python(variables)
            if python and tuple(map(int, python.split(".")[:2])) < TARGET_PYTHON:
                need = ".".join(map(str, TARGET_PYTHON))
                result["msg"] = (
                    f"{host}its Python is {python}, and modules need {need} or later: install that there and set "
                    "ansible_python_interpreter."
                )
            elif "msg" in result:
                result["msg"] = host + str(result["msg"])
        return result

    def on_host_or_lost(
        self, module: str, arguments: Mapping[str, Any], task_vars: dict[str, Any] | None
    ) -> dict[str, Any]:
        """As ``on_host``, also of a host that is not reached: raised, that ends a play whose task runs once."""
        try:
            return self.on_host(module, arguments, task_vars)
        except AnsibleConnectionFailure as error:
            return {"unreachable": True, "msg": str(error)}

    def reached_by(self, variables: Mapping[str, Any]) -> tuple[str, str]:
        """Return the address and the connection by which Ansible gets to the host."""
        given = (variables.get(name) for name in ("ansible_host", "ansible_connection"))
        address, connection = (value and str(self._templar.template(value)) for value in given)
        return address or variables["inventory_hostname"], connection or "ssh"

    def end_claim(self, home: str, claim: Mapping[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Say on the host that the deployment of ``claim`` has ended there; return the result."""
        # Each worker imports its action anew, and few need this.
        from ansible_collections.magi.models.plugins.plugin_utils._ansible.run import job

        return self.on_host("llama_instances", {"state": "released", "home": home, "job": job(claim=claim)}, task_vars)

    def interpreter(self, variables: Mapping[str, Any]) -> str:
        """Return the Python that Ansible uses on the host."""
        given = str(self._templar.template(variables.get("ansible_python_interpreter", "auto")))
        if given.startswith("auto"):
            given = str(variables.get("ansible_facts", {}).get("discovered_interpreter_python", "python3"))
        return given

    def _python(self, variables: Mapping[str, Any]) -> str | None:
        """Return the version of the Python that Ansible uses on the host; None if unknown."""
        asked = f"{shlex.quote(self.interpreter(variables))} -c 'import sys; print(\"Python\", sys.version.split()[0])'"
        said = str(self._low_level_execute_command(asked).get("stdout", ""))
        found = re.search(r"^Python (\d+\.\d+\S*)", said, re.MULTILINE)
        return found.group(1) if found else None


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Within it, Python looks for no cyclic garbage.

    The first worker that runs a module parses it and all that it imports, while the others wait. For the many nodes the
    collector would walk again and again through all that the worker inherited, and find nothing: a third of that time.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _ran(result: Mapping[str, Any]) -> bool:
    """Whether a failed module could say why."""
    return result.get("unreachable", False) or ("msg" in result and "module_stdout" not in result)


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
