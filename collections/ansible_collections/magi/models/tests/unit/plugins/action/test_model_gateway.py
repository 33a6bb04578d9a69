from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible_collections.magi.models.plugins.action.model_gateway import ActionModule
from ansible_collections.magi.models.plugins.plugin_utils._fleet.stand_in import stand_in
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import model, plan


class FakeTask(SimpleNamespace):
    """What an action asks of its task."""

    async_val = 0
    check_mode = diff = False
    delegate_to = None


class FakeHostAction(ActionModule):
    """Keeps what it would run on its host. A gateway there remembers nothing."""

    def __init__(self, **arguments):
        templar = SimpleNamespace(template=lambda value: value)
        connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="/unused"))
        task = FakeTask(args={"home": "/var/lib/magi-gateway", **arguments})
        super().__init__(task, connection, None, None, templar, None)
        self._load_name = "magi.models.model_gateway"
        self.calls = []

    def on_host(self, module, arguments, _task_vars):
        self.calls.append((module, arguments.get("state", "present"), arguments.get("job")))
        return {"changed": False, "servers": [], "history": []}


class FakeLostAction(FakeHostAction):
    """Does not reach its host."""

    def on_host(self, module, arguments, _task_vars):
        raise AnsibleConnectionFailure("No route to host.")


DEPLOYED = {
    "settings": {"settings": {"max_startup_time": 60}, "way": {"address": "h", "connection": "ssh"}},
    "planned": {"plan": plan("a", models=[model("a")]).to_dict()},
}


@pytest.mark.parametrize(
    ("hosts", "state", "states"),
    [
        ({"h1": DEPLOYED, "h2": DEPLOYED}, "present", ["present"]),
        ({"h1": DEPLOYED, "h2": {}}, "present", ["remembered", "present"]),  # what h2 serves, only the gateway knows
        ({"h1": DEPLOYED}, "prepared", ["remembered", "prepared"]),
        ({}, "absent", ["absent"]),
    ],
)
def test_where_all_hosts_are_known_a_run_is_one_call(hosts, state, states):
    action = FakeHostAction(hosts=hosts, state=state)
    action.run(task_vars={"inventory_hostname": "g1"})
    assert [(module, state) for module, state, _job in action.calls] == [("model_gateway", state) for state in states]


@pytest.mark.parametrize(
    ("state", "more", "stands_in"),
    [("prepared", {}, True), ("prepared", {"relieved": {"changed": True}}, False), ("present", {}, False)],
)
def test_a_gateway_knows_what_stands_in_while_it_does(state, more, stands_in):
    (instance,) = plan("a", models=[model("a")]).instances
    given = {"rollout": {"stand_ins": {"h1": [asdict(stand_in(instance, 8085, ()))]}, "began_at": 1.5}}
    action = FakeHostAction(hosts={"h1": {**DEPLOYED, **given, **more}}, state=state)
    gateway = action.run(task_vars={"inventory_hostname": "h1"})["gateway"]
    places = [("a", 8080, "comes" if state == "prepared" else "stays")]
    places += [("a-stand-in-1", 8085, "comes")] if stands_in else []
    assert [(item["instance"], item["port"], item["part"]) for item in gateway["servers"]] == places
    assert [route["names"] for route in gateway["routes"]] == [["a"]]


def test_the_call_brings_all_that_the_gateway_needs():
    action = FakeHostAction(hosts={"g1": DEPLOYED})
    result = action.run(task_vars={"inventory_hostname": "g1"})
    ((_module, _state, job),) = action.calls
    assert job["files"].keys() == job["service_files"].keys() == {"systemd", "supervisor"}
    assert [route["names"] for route in result["gateway"]["routes"]] == [["a"]]
    assert result["questions"] == []  # nothing was launched


def test_a_gateway_that_is_not_reached_keeps_no_rollback_from_the_hosts():
    """Raised, it would end the play, since the task runs once for all hosts."""
    action = FakeLostAction(state="remembered")
    action._task.delegate_to = "g1"
    found = action.run(task_vars={"inventory_hostname": "h1"})
    assert (found["settled_at"], found["history"]) == (0, [])
    assert found["warnings"] == ["Gateway g1 could not be asked what it remembers: No route to host."]
