"""The filter in Ansible's own engine, with its own variables: it relies on parts that Ansible does not document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager
from ansible_collections.magi.models.plugins.filter.registered import registered


@pytest.fixture
def hostvars() -> HostVars:
    loader = DataLoader()
    inventory = InventoryManager(loader, ["a,b,c,"])
    manager = VariableManager(loader, inventory)
    manager.set_nonpersistent_facts("a", {"planned": {"plan": 1}, "applied": {"failed": True}})
    manager.set_nonpersistent_facts("b", {"planned": {"msg": "{{ lookup('pipe', 'touch own') }}"}})
    return HostVars(inventory, manager, loader)


@pytest.mark.parametrize(
    ("hosts", "names", "found"),
    [
        ("a", {"does": "planned", "did": "applied"}, {"a": {"does": {"plan": 1}, "did": {"failed": True}}}),
        ("c", {"does": "planned", "did": "applied"}, {"c": {}}),
        ("", {"does": "planned"}, {}),
    ],
)
def test_results_are_taken_by_host_and_name(hostvars: HostVars, hosts: str, names: dict[str, str], found: Any):
    assert json.loads(registered(list(hosts), hostvars, **names)) == found


def test_of_one_variable_each_host_has_the_value(hostvars: HostVars):
    assert json.loads(registered(["a", "c"], hostvars, "planned")) == {"a": {"plan": 1}, "c": {}}


def test_what_ansible_keeps_as_objects_is_no_hindrance(hostvars: HostVars):
    hostvars._variable_manager.set_nonpersistent_facts("c", {"planned": {"warnings": [object()], "plan": 2}})
    assert json.loads(registered(["c"], hostvars, "planned"))["c"]["plan"] == 2


def test_what_comes_from_hosts_is_never_run_as_a_template(
    hostvars: HostVars, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    engine = Templar(hostvars._loader, {"hostvars": hostvars, "result": registered(["b"], hostvars, "planned")})
    for template in ("{{ result }}", "{{ result | from_json }}"):
        found = engine.template(trust_as_template(template))
        found = json.loads(found) if isinstance(found, str) else found
        assert engine.template(found)["b"]["msg"] == "{{ lookup('pipe', 'touch own') }}"
    assert not list(tmp_path.iterdir())
