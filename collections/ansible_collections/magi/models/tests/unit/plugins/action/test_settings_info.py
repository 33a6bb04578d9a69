"""The action with Ansible's own variable manager and inventory: it relies on parts that Ansible does not document."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager
from ansible_collections.magi.models.plugins.action.settings_info import ActionModule


@pytest.fixture
def settle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return settings and origins on a host with these variables, by the inventory, by -e, and by the role."""
    monkeypatch.chdir(tmp_path)
    for name in ("MODEL_HOST", "MAGI_PROFILE", "MODEL_STOP_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)

    def settle(inventory: str, extra: dict[str, str], role: dict[str, str], groups: str = ""):
        (tmp_path / "hosts.ini").write_text(f"[model_servers]\ngpu1 {inventory}\n{groups}\n")
        loader = DataLoader()
        hosts = InventoryManager(loader, [str(tmp_path / "hosts.ini")])
        manager = VariableManager(loader, hosts)
        manager._extra_vars = extra
        HostVars(hosts, manager, loader)  # which the manager knows from then on
        task = SimpleNamespace(get_variable_manager=lambda: manager, args={}, async_val=0)
        variables = {**role, **manager.get_vars(host=hosts.get_host("gpu1"))}
        action = ActionModule(task, None, None, loader, Templar(loader, variables), None)
        return action.decide({}, variables)

    return settle


def test_each_setting_comes_from_where_it_counts_most(settle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "profiles").mkdir()
    monkeypatch.setenv("MODEL_STOP_TIMEOUT", "7")
    found = settle(
        "model_server_host=::1 model_server_stop_timeout=3 model_server_home='{{ inventory_dir }}/home'",
        {"profile": "mine"},
        {"model_server_host": "127.0.0.1", "model_server_manager": "auto"},
    )
    assert found["origins"] == {
        "profile": "-e profile",
        "profiles_dir": "default model_server_profiles_dir",
        "host": "inventory model_server_host",
        "stop_timeout": "environment MODEL_STOP_TIMEOUT",
        "manager": "default model_server_manager",
        "home": "inventory model_server_home",
    }
    assert found["settings"] == {
        "profile": "mine",
        "profiles_dir": str(tmp_path / "profiles"),
        "host": "::1",
        "stop_timeout": 7,
        "manager": "auto",
        "home": f"{tmp_path}/home",
    }


def test_the_ways_to_the_gateways_are_known(settle):
    gateways = "[model_gateways]\ngpu1\ngw1 ansible_host=192.0.2.7 ansible_connection='{{ here }}' here=local"
    found = settle("ansible_host=192.0.2.1", {}, {}, gateways)
    assert found["gateways"] == {
        "gpu1": {"address": "192.0.2.1", "connection": "ssh"},
        "gw1": {"address": "192.0.2.7", "connection": "local"},
    }
    assert found["way"] == found["gateways"]["gpu1"]
    assert settle("", {}, {})["gateways"] == {}


KEYED = {"api_key_file": "/etc/magi-keys"}
OTHER = {"ctx_size": 1024}


@pytest.mark.parametrize(
    ("of_all", "of_group", "of_host", "group"),
    [
        (KEYED, None, OTHER, "all"),
        (OTHER, KEYED, OTHER, "model_servers"),
        (KEYED, OTHER, None, "all"),
        ({"api-key-file": "/etc/magi-keys"}, None, {}, "all"),
        ("{{ {'api_key_file': '/etc/magi-keys'} }}", None, OTHER, "all"),
        (OTHER, "{{ nobody_defines_it }}", OTHER, ""),
        # nothing is hidden, or by intent
        (KEYED, None, None, None),
        (KEYED, None, KEYED, None),
        (KEYED, None, {"api_key_file": None}, None),
        (OTHER, OTHER, {"ctx_size": 2048}, ""),
    ],
)
def test_options_that_hide_a_group_s_key_file_are_noticed(settle, tmp_path: Path, of_all, of_group, of_host, group):
    for path, options in (
        ("group_vars/all", of_all),
        ("group_vars/model_servers", of_group),
        ("host_vars/gpu1", of_host),
    ):
        if options is not None:
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / f"{path}.yml").write_text(json.dumps({"model_server_options": options}))
    found = settle("", {}, {})
    assert found["settings"].get("key_hidden_from") == group
    assert "key_hidden_from" not in found["origins"]


def test_options_laid_over_the_plain_ones_hide_no_key_file(settle):
    found = settle(
        "model_server_options_host='{\"ctx_size\": 1}'",
        {},
        {},
        groups="[all:vars]\nmodel_server_options={'api_key_file': '/etc/magi-keys'}",
    )
    assert found["settings"]["options"] == {**KEYED, "ctx_size": 1}
    assert "key_hidden_from" not in found["settings"]
