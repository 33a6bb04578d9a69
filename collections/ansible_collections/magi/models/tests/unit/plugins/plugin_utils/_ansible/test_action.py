from __future__ import annotations

import gc
from typing import Any

import pytest
from ansible_collections.magi.models.plugins.plugin_utils._ansible.action import HostAction

NO_JSON = {
    "failed": True,
    "msg": "Module result deserialization failed: No start of json char found",
    "module_stdout": "",
}


class FakeTemplar:
    def template(self, value: Any) -> Any:
        return value


class FakeHost(HostAction):
    """A host on which a module returns ``result``, with a Python that says it is ``python``."""

    def __init__(self, result: dict[str, Any], python: str):
        self.result, self.python, self.commands = result, python, []
        self._templar = FakeTemplar()

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        return self.on_host("model_registry", {}, task_vars)

    def _execute_module(self, *_args: Any, **_more: Any) -> dict[str, Any]:
        self.collected = gc.isenabled()
        return dict(self.result)

    def _low_level_execute_command(self, command: str) -> dict[str, Any]:
        self.commands.append(command)
        return {"stdout": self.python}


@pytest.mark.parametrize(
    ("result", "python", "message"),
    [
        ({"failed": True, "msg": "No room."}, "", "Host gpu1: No room."),
        # Ansible words what a module raised, after we return
        ({"failed": True, "exception": "…"}, "Python 3.11.2", None),
        ({"failed": True, "exception": "…"}, "", None),
        (NO_JSON, "Python 3.11.2", f"Host gpu1: {NO_JSON['msg']}"),
        *(
            (
                result,
                f"Welcome\nPython {python}\n",
                f"Host gpu1: its Python is {python}, and modules need 3.9 or later: "
                "install that there and set ansible_python_interpreter.",
            )
            for result in ({"failed": True, "exception": "…"}, NO_JSON)
            for python in ("3.8.18", "3.6.15", "2.7.18")
        ),
    ],
)
def test_what_a_module_could_not_say_is_said(result, python, message):
    host = FakeHost(result, python)
    found = host.run(None, {"inventory_hostname": "gpu1"})
    assert found.get("msg") == message
    assert bool(host.commands) == (result.get("msg") != "No room.")


@pytest.mark.parametrize(
    ("variables", "program"),
    [
        ({}, "python3"),
        ({"ansible_python_interpreter": "/opt/my python"}, "'/opt/my python'"),
        (
            {
                "ansible_python_interpreter": "auto_silent",
                "ansible_facts": {"discovered_interpreter_python": "/usr/bin/python3.8"},
            },
            "/usr/bin/python3.8",
        ),
    ],
)
def test_the_python_that_is_asked_is_the_one_that_ansible_takes(variables, program):
    host = FakeHost({"failed": True}, "Python 3.8.1")
    host.run(None, {"inventory_hostname": "gpu1", **variables})
    (command,) = host.commands
    assert command.startswith(f"{program} -c ")


def test_what_goes_well_is_left_as_it_is():
    host = FakeHost({"changed": False}, "Python 3.8.1")
    assert host.run(None, {"inventory_hostname": "gpu1"}) == {"changed": False}
    assert not host.commands


def test_a_module_is_built_without_looking_for_garbage():
    host = FakeHost({}, "")
    host.run(None, {})
    assert (host.collected, gc.isenabled()) == (False, True)
