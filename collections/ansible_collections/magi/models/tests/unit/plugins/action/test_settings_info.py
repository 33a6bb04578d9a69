"""The action with Ansible's own variable manager and inventory: it relies on parts that Ansible does not document."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible.vars.manager import VariableManager
from ansible_collections.magi.models.plugins.action.settings_info import ActionModule


@pytest.fixture
def settle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return settings and origins on a host with these variables, by the inventory, by -e, and by the role."""
    monkeypatch.chdir(tmp_path)
    for name in ("MODEL_HOST", "MAGI_PROFILE", "MODEL_STOP_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)

    def settle(inventory: str, extra: dict[str, str], role: dict[str, str]):
        (tmp_path / "hosts.ini").write_text(f"[model_servers]\ngpu1 {inventory}\n")
        loader = DataLoader()
        hosts = InventoryManager(loader, [str(tmp_path / "hosts.ini")])
        manager = VariableManager(loader, hosts)
        manager._extra_vars = extra
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
