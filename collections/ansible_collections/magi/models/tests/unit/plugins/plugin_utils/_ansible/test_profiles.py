from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.magi.models.plugins.plugin_utils._ansible.profiles import profile_folders


@pytest.mark.parametrize(
    ("variables", "folders"),
    [
        ({}, ["work"]),
        ({"inventory_dir": None, "ansible_config_file": None}, ["work"]),
        ({"inventory_dir": "inventory"}, ["inventory", "work"]),
        (
            {"inventory_dir": "inventory", "ansible_config_file": "project/ansible.cfg"},
            ["inventory", "project", "work"],
        ),
        ({"inventory_dir": "work", "ansible_config_file": "work/ansible.cfg"}, ["work"]),
    ],
)
def test_profiles_are_beside_the_inventory_the_configuration_or_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables, folders
):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    given = {name: value and str(tmp_path / value) for name, value in variables.items()}
    assert profile_folders(given) == [tmp_path / folder / "profiles" for folder in folders]
